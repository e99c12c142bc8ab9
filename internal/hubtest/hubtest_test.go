package hubtest

import (
	"testing"

	"github.com/heraldgo/herald"
)

// memoryBroker is a broker in memory.
func memoryBroker(testing.TB) Broker {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	return Broker{
		NewBus:      func() (herald.Bus, error) { return network.Bus(), nil },
		NewRegistry: func() (herald.Registry, error) { return registry.Handle(), nil },
	}
}

func TestMemory(t *testing.T) { Test(t, memoryBroker) }
