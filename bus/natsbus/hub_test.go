package natsbus_test

import (
	"crypto/rand"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/natsbus"
	"github.com/heraldgo/herald/internal/test/hubtest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// newBroker returns a nats-server of the test's own.
func newBroker(t testing.TB) hubtest.Broker {
	server := servertest.NATS(t)
	options := &natsbus.Options{Prefix: "test." + rand.Text()}
	return hubtest.Broker{
		NewBus: func() (herald.Bus, error) { return natsbus.New("nats://"+server.Addr, options) },
		Restart: func() {
			server.Kill()
			server.Restart()
		},
		PIDs: func() []int { return []int{server.PID()} },
	}
}

func TestHub(t *testing.T) { hubtest.Test(t, newBroker) }

func BenchmarkNodes(b *testing.B) { hubtest.BenchmarkNodes(b, newBroker) }
