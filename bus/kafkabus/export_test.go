package kafkabus

// For the tests of a real Kafka, whose topics they look into.
var (
	ListOffsets = listOffsets
	CreateTopic = create
)

const (
	AtLatest   int64 = atLatest
	AtEarliest int64 = atEarliest
)
