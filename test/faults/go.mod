module github.com/heraldgo/herald/test/faults

go 1.26.0

require (
	github.com/heraldgo/herald v0.1.0
	github.com/heraldgo/herald/bus/kafkabus v0.1.0
	github.com/heraldgo/herald/bus/mqttbus v0.1.0
	github.com/heraldgo/herald/bus/natsbus v0.1.0
	github.com/heraldgo/herald/bus/rabbitbus v0.1.0
	github.com/twmb/franz-go v1.22.2
	github.com/twmb/franz-go/pkg/kfake v0.0.0-20260918054303-01f206a7e32c
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/coder/websocket v1.8.15 // indirect
	github.com/eclipse/paho.golang v0.23.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/nats-io/nats.go v1.55.0 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	github.com/redis/go-redis/v9 v9.23.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)

replace (
	github.com/heraldgo/herald => ../..
	github.com/heraldgo/herald/bus/kafkabus => ../../bus/kafkabus
	github.com/heraldgo/herald/bus/mqttbus => ../../bus/mqttbus
	github.com/heraldgo/herald/bus/natsbus => ../../bus/natsbus
	github.com/heraldgo/herald/bus/rabbitbus => ../../bus/rabbitbus
)
