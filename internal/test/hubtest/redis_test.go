package hubtest

import (
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// redisBroker returns a redis-server, which also has the Registry.
func redisBroker(t testing.TB) Broker {
	server := redistest.Start(t)
	return Broker{
		NewBus:      func() (herald.Bus, error) { return herald.NewRedisBus(server.Client(), nil) },
		NewRegistry: func() (herald.Registry, error) { return herald.NewRedisRegistry(server.Client(), nil) },
		Restart: func() {
			server.Kill()
			server.Restart()
		},
		PIDs: func() []int { return []int{server.PID()} },
	}
}

func TestRedis(t *testing.T) { Test(t, redisBroker) }

func BenchmarkRedis(b *testing.B) { BenchmarkNodes(b, redisBroker) }

func BenchmarkRedisKept(b *testing.B) { BenchmarkKept(b, redisBroker) }
