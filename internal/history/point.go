package history

// An Epoch names a stretch of time in which a log has lost nothing: 64 random
// bits. Zero is none.
type Epoch uint64

// An Offset is the number of an entry of a log. They rise, and have holes.
type Offset uint64

// A Point is a place in the log of one partition: behind the entry with this
// Offset. The zero Point is nowhere.
type Point struct {
	Epoch  Epoch
	Offset Offset
}

// A Packet is what an append published to one topic.
type Packet struct {
	Topic string
	Body  []byte

	// Kept says that the log has it, and then At is where. Of a packet that is
	// not kept, At is the end of the log when it was published, or nowhere if it
	// was published without the log.
	Kept bool
	At   Point

	// Prev is an offset before At, between which and At nothing of the topic
	// lies. Only of a packet that is kept.
	Prev Offset
}

// An Entry is what the log has at one offset: a message, and the topics that it
// was sent to.
type Entry struct {
	Offset Offset
	Links  []Link
	Body   []byte
}

// A Link is a place in the chain of a topic.
type Link struct {
	Topic string
	Prev  Offset // see Packet
}

// A Fork is the way from one epoch into a later one.
type Fork struct {
	Epoch  Epoch  // the later one
	Parent Epoch  // the one that is left; zero if the log does not know it
	At     Offset // what lies above is of later epochs, or it is unknown what it is
}

// Cross returns where one that was at p in the epoch that is left goes on.
func (f Fork) Cross(p Point) Point {
	switch p.Epoch {
	case f.Epoch:
		return p
	case f.Parent:
		return Point{f.Epoch, min(p.Offset, f.At)}
	}
	return Point{f.Epoch, f.At}
}
