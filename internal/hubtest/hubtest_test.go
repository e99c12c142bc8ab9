package hubtest

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// memoryBroker is a broker in memory.
func memoryBroker(testing.TB) Broker {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	var buses []*herald.MemoryBus
	return Broker{
		NewBus: func() (herald.Bus, error) {
			buses = append(buses, network.Bus())
			return buses[len(buses)-1], nil
		},
		NewRegistry: func() (herald.Registry, error) { return registry.Handle(), nil },
		Restart: func() {
			for _, b := range buses {
				b.Cut()
			}
			time.Sleep(200 * time.Millisecond)
			for _, b := range buses {
				b.Heal()
			}
		},
	}
}

func TestMemory(t *testing.T) { Test(t, memoryBroker) }

func BenchmarkMemory(b *testing.B) { BenchmarkNodes(b, memoryBroker) }
