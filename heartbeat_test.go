package herald

import (
	"context"
	"errors"
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
			time.Sleep(2 * h.config.ProbeInterval)
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

// A beatingBus counts what is published to the topic of heartbeats.
type beatingBus struct {
	*MemoryBus
	beats atomic.Int64
}

func (b *beatingBus) Publish(ctx context.Context, packets ...Packet) error {
	for _, p := range packets {
		if p.Topic == topicHeartbeat {
			b.beats.Add(1)
		}
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

// ProbeInterval is the time between two heartbeats.
func TestProbeIntervalIsTheInterval(t *testing.T) {
	for interval, want := range map[time.Duration]int64{0: 60, 2 * time.Second: 30, -1: 0} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := &beatingBus{MemoryBus: NewMemoryNetwork().Bus()}
				newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry(), ProbeInterval: interval})
				synctest.Wait()
				before := bus.beats.Load()
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := bus.beats.Load() - before; got != want {
					t.Errorf("%d heartbeats in a minute, want %d", got, want)
				}
			})
		})
	}
}
