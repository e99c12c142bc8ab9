package redisbus_test

import (
	"context"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func TestRedisBusOnMiniredis(t *testing.T) {
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		server := miniredis.NewMiniRedis()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		stop := func() func() {
			server.Close()
			return func() {
				if err := server.Restart(); err != nil {
					t.Fatal(err)
				}
			}
		}
		return heraldtest.BusNetwork{
			Open:      func() herald.Bus { return openRedis(t, server.Addr(), 0, nil) },
			Other:     func() herald.Bus { return openRedis(t, server.Addr(), 1, nil) },
			Interrupt: func() { stop()() },
			Stop:      stop,
		}
	})
}

func TestRedisBus(t *testing.T) {
	server := redistest.Start(t)
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		return heraldtest.BusNetwork{
			Open:      func() herald.Bus { return openRedis(t, server.Addr, 0, nil) },
			Other:     func() herald.Bus { return openRedis(t, server.Addr, 0, &herald.RedisOptions{Prefix: "other"}) },
			Interrupt: func() { killClients(t, server.Addr, "normal", "pubsub") },
		}
	})
}

// openRedis opens a RedisBus. Its client is closed when the test ends.
func openRedis(t testing.TB, addr string, db int, options *herald.RedisOptions) *herald.RedisBus {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, DB: db})
	t.Cleanup(func() { client.Close() })
	bus, err := herald.NewRedisBus(client, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

// killClients kills the connections of these types, except its own.
func killClients(t testing.TB, addr string, types ...string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close()
	for _, kind := range types {
		if err := client.ClientKillByFilter(context.Background(), "TYPE", kind, "SKIPME", "yes").Err(); err != nil {
			t.Fatal(err)
		}
	}
}
