package rabbitbus_test

import (
	"crypto/rand"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/test/hubtest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// brokerOf returns what hubs on server share, on an exchange of their own.
func brokerOf(server *servertest.Server) hubtest.Broker {
	exchange := rand.Text()
	return hubtest.Broker{
		NewBus: func() (herald.Bus, error) {
			return rabbitbus.New(url(server.Addr), &rabbitbus.Options{Exchange: exchange})
		},
		Restart: func() {
			server.Kill()
			server.Restart()
		},
		PIDs: func() []int { return []int{server.PID()} },
	}
}

// The hub tests stop their server, so it is not the shared one; but one is
// enough for all of them.
func TestHubs(t *testing.T) {
	server := servertest.RabbitMQ(t)
	hubtest.Test(t, func(testing.TB) hubtest.Broker { return brokerOf(server) })
}

func BenchmarkNodes(b *testing.B) {
	hubtest.BenchmarkNodes(b, func(t testing.TB) hubtest.Broker { return brokerOf(broker(t)) })
}
