package hubtest

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// outage is the time between the outages of two Buses of a memoryBroker.
const outage = 100 * time.Millisecond

// memoryBroker returns a broker in memory.
func memoryBroker(testing.TB) Broker {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	var buses []*heraldtest.FaultyBus
	return Broker{
		NewBus: func() (herald.Bus, error) {
			buses = append(buses, heraldtest.NewFaultyBus(network))
			return buses[len(buses)-1], nil
		},
		NewRegistry: func() (herald.Registry, error) { return registry.Handle(), nil },
		Restart: func() {
			// One after the other, so that some Buses miss what others publish.
			for _, b := range buses {
				b.Cut()
				time.Sleep(outage)
			}
			for _, b := range buses {
				b.Heal()
			}
		},
	}
}

func TestMemory(t *testing.T) { Test(t, memoryBroker) }

func BenchmarkMemory(b *testing.B) { BenchmarkNodes(b, memoryBroker) }
