package herald

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A muteBus takes nothing while it is mute.
type muteBus struct {
	*MemoryBus
	mute atomic.Bool
}

var errMute = errors.New("not allowed to publish")

func (b *muteBus) Publish(ctx context.Context, packets ...Packet) error {
	if b.mute.Load() {
		return errMute
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

// An ailingBus says itself that it is not well, and not whose error that is.
type ailingBus struct{ *MemoryBus }

func (ailingBus) Health() error { return errMute }

// An ailingRegistry fails once it has given a lease.
type ailingRegistry struct {
	*MemoryRegistry
	leases atomic.Int64
}

func (r *ailingRegistry) KeepAlive(ctx context.Context, n Node, lease time.Duration) (int64, error) {
	if r.leases.Add(1) > 1 {
		return 0, errMute
	}
	return r.MemoryRegistry.KeepAlive(ctx, n, lease)
}

// Health tells whose error it is, also where the Bus or the Registry does not.
func TestHealthTellsWhose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Config{Bus: ailingBus{NewMemoryNetwork().Bus()}, Registry: &ailingRegistry{MemoryRegistry: NewMemoryRegistry()}})
		if err := h.Health(); !errors.Is(err, ErrBusDown) || errors.Is(err, ErrRegistryDown) {
			t.Errorf("an ailing Bus: %v", err)
		}
		time.Sleep(h.config.Lease)
		if err := h.Health(); !errors.Is(err, ErrBusDown) || !errors.Is(err, ErrRegistryDown) {
			t.Errorf("an ailing Registry too: %v", err)
		}
	})
}

// A Bus that cannot publish makes Health red by itself, until it can.
func TestHealthOfABusThatCannotPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &muteBus{MemoryBus: NewMemoryNetwork().Bus()}
		h := newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry()})
		for range 3 {
			bus.mute.Store(true)
			time.Sleep(h.config.Lease / 2) // it is tried after each renewal
			if err := h.Health(); !errors.Is(err, errMute) || !errors.Is(err, ErrBusDown) {
				t.Errorf("mute: Health: %v", err)
			}
			bus.mute.Store(false)
			time.Sleep(h.config.ProbeTimeout)
			if err := h.Health(); err != nil {
				t.Errorf("able again: Health: %v", err)
			}
		}
		if n := h.Stats().Resets; n != 0 {
			t.Errorf("%d Resets", n)
		}
	})
}

// A node that was never heard is missed since the first renewal that no
// heartbeat followed, not since this Hub was made; and who is listed no more
// is forgotten.
func TestNeverHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan Gap, 1)
		h := newHub(t, Config{OnGap: func(g Gap) { got <- g }})
		h.createdAt = time.Now().Add(-240 * time.Hour)
		b, now := h.heartbeat, time.Now()
		for i := range 100 {
			b.listed([]Node{{ID: fmt.Sprint("node", i), Alive: true, Renewed: now}}, now)
		}
		b.listed(nil, now)
		if n := len(b.awaited); n != 0 {
			t.Errorf("%d are awaited that have gone", n)
		}
		first := now.Add(-12 * time.Second)
		b.listed([]Node{{ID: "new", Alive: true, Renewed: first}}, now)
		b.listed([]Node{{ID: "new", Alive: true, Renewed: first.Add(h.config.Lease / 3)}}, now)
		if g := <-got; !g.Since.Equal(first) || !g.All {
			t.Errorf("%+v, want it since %v", g, first)
		}
	})
}
