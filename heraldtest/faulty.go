package heraldtest

import (
	"context"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/faults"
)

// A FaultyBus is a herald.MemoryBus with faults that a test can ask for: Cut, Lose
// and Delay, until Heal. They may be called at any time.
type FaultyBus struct {
	*herald.MemoryBus
	faults faults.Bus
}

// NewFaultyBus returns a new Bus on the network, one for each Hub.
func NewFaultyBus(network *herald.MemoryNetwork) *FaultyBus {
	bus := network.Bus()
	return &FaultyBus{bus, faults.OfBus(bus)}
}

// Cut cuts the node off: nothing arrives, what was delayed is lost, Publish
// fails with ErrBusDown, Subscribe waits, Health says so, and Receive reports a
// gap.
func (b *FaultyBus) Cut() { b.faults.Cut() }

// Lose(true) makes the Bus silently lose what would arrive, as a dead subscription
// does; Lose(false) ends that. The next Reset, Cut or Heal reports the loss.
func (b *FaultyBus) Lose(lose bool) { b.faults.Lose(lose) }

// Delay makes packets arrive later by d, in their order.
func (b *FaultyBus) Delay(d time.Duration) { b.faults.Delay(d) }

// Heal ends Cut, Lose and Delay.
func (b *FaultyBus) Heal() { b.faults.Heal() }

// fence is the key of a context that has a *FaultyBus: Publish hands packets over to
// that one alone, whatever fault it has.
type fence struct{}

// Publish is MemoryBus.Publish.
func (b *FaultyBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	to, ok := ctx.Value(fence{}).(*FaultyBus)
	if !ok {
		return b.MemoryBus.Publish(ctx, packets...)
	}
	for _, p := range packets {
		to.faults.Hand(p.Topic, p.Data)
	}
	return nil
}

// A FaultyRegistry is a handle of a herald.MemoryRegistry that a test can cut off.
type FaultyRegistry struct {
	*herald.MemoryRegistry
	faults faults.Registry
}

// NewFaultyRegistry returns a new handle of the Registry, one for each Hub.
func NewFaultyRegistry(registry *herald.MemoryRegistry) *FaultyRegistry {
	handle := registry.Handle()
	return &FaultyRegistry{handle, faults.OfRegistry(handle)}
}

// Cut makes every call on this handle fail with ErrRegistryDown, and do
// nothing, until Heal. Other handles stay as they are.
func (r *FaultyRegistry) Cut() { r.faults.Cut() }

// Heal ends a Cut.
func (r *FaultyRegistry) Heal() { r.faults.Heal() }
