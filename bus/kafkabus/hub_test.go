package kafkabus_test

import (
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
	"github.com/heraldgo/herald/internal/test/hubtest"
)

// newHubBroker starts a kfake cluster, without proxies. When it restarts, it
// has forgotten everything.
func newHubBroker(t testing.TB) hubtest.Broker {
	b := startFake(t)
	return hubtest.Broker{
		NewBus:  func() (herald.Bus, error) { return kafkabus.New(b.seeds(), &patient) },
		Restart: b.restart,
	}
}

func TestHubs(t *testing.T) { hubtest.Test(t, newHubBroker) }

func BenchmarkNodes(b *testing.B) { hubtest.BenchmarkNodes(b, newHubBroker) }
