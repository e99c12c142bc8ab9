module github.com/heraldgo/herald/bus/rabbitbus

go 1.26.0

require (
	github.com/heraldgo/herald v0.1.0
	github.com/rabbitmq/amqp091-go v1.16.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/coder/websocket v1.8.15 // indirect
	github.com/redis/go-redis/v9 v9.23.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)

replace github.com/heraldgo/herald => ../..
