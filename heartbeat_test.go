package herald

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/clock"
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

// A tellingBus carries nothing back. It keeps what was to be published, also
// while it is mute.
type tellingBus struct {
	Bus
	mute   atomic.Bool
	tried  []envelope
	resets int
}

func (b *tellingBus) Publish(_ context.Context, packets ...Packet) error {
	for _, p := range packets {
		e, err := decodeEnvelope(p.Data, maxEnvelopeInTests)
		if err != nil {
			return err
		}
		b.tried = append(b.tried, e)
	}
	if b.mute.Load() {
		return errMute
	}
	return nil
}

func (b *tellingBus) Reset() { b.resets++ }

const maxEnvelopeInTests = 1 << 10

// newHeartbeatAlone returns the heartbeat of no Hub. It is sent rarely, and so is
// looked for what must have been heard of others.
func newHeartbeatAlone() (*heartbeat, *tellingBus) {
	config := &Config{ProbeInterval: 1000 * time.Second, ProbeTimeout: 8 * time.Second, Lease: 100_000 * time.Second}
	bus := new(tellingBus)
	return newHeartbeat("n", config, bus, newGapsAlone(slog.DiscardHandler, nil), new(counters)), bus
}

// Heartbeats begin when they are asked for, go out at their interval, and sooner
// after one that the Bus has not taken, which comes again under its number.
func TestHeartbeatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bus := newHeartbeatAlone()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.run(ctx)
		said := 0
		expect := func(when string, ids ...uint64) {
			t.Helper()
			synctest.Wait()
			var got []uint64
			for _, e := range bus.tried[said:] {
				got = append(got, e.id)
			}
			if said = len(bus.tried); !slices.Equal(got, ids) {
				t.Errorf("%s: heartbeats %v, want %v", when, got, ids)
			}
		}
		time.Sleep(time.Hour)
		expect("before it has a lease")
		b.announce(7)
		expect("with the lease", 1)
		if bus.tried[0].whole != 7 || bus.tried[0].sender != "n" {
			t.Errorf("it says %+v", bus.tried[0])
		}
		time.Sleep(b.interval() - 1)
		expect("a moment before the next")
		time.Sleep(1)
		expect("an interval later", 2)
		bus.mute.Store(true)
		time.Sleep(b.interval())
		expect("mute", 3)
		if b.failing() != errMute {
			t.Errorf("failing: %v", b.failing())
		}
		time.Sleep(2*time.Second - 1)
		expect("a moment before it is repeated")
		time.Sleep(1)
		expect("repeated", 3)
		b.tellLost()
		expect("told", 3)
		bus.mute.Store(false)
		time.Sleep(2 * time.Second)
		expect("taken", 3)
		time.Sleep(b.interval())
		expect("the next", 4)
		if n := len(bus.tried); bus.tried[n-3].notice != noticeLost || bus.tried[n-2].notice != noticeLost || bus.tried[n-1].notice != 0 || b.failing() != nil {
			t.Errorf("the loss is told by %+v; failing: %v", bus.tried[n-3:], b.failing())
		}
	})
}

// The oldest heartbeat that the Bus has taken is awaited. If it does not come
// back in time, that is a gap since the last that did, unless the Bus says so itself.
func TestHeartbeatIsAwaited(t *testing.T) {
	for _, told := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b, bus := newHeartbeatAlone()
			made := time.Now()
			time.Sleep(time.Hour)
			if b.checkOwn() {
				t.Error("missed, before one was sent")
			}
			bus.mute.Store(true)
			if b.send(t.Context(), 0); b.sent != 0 {
				t.Error("awaited, though it was not taken")
			}
			bus.mute.Store(false)
			b.send(t.Context(), 0)
			first := b.sent
			time.Sleep(time.Second)
			bus.mute.Store(true)
			b.send(t.Context(), 0)
			bus.mute.Store(false)
			if b.send(t.Context(), 0); b.sent != first || first == 0 {
				t.Errorf("awaited is that of %d, want %d", b.sent, first)
			}
			time.Sleep(b.config.ProbeTimeout + heartbeatGrace - time.Second)
			if b.checkOwn() {
				t.Error("missed too early")
			}
			time.Sleep(1)
			if told {
				b.gaps.down(Event{Err: errMute})
			}
			if b.checkOwn() == told {
				t.Errorf("told by the Bus %v: missed %v", told, !told)
			}
			if told {
				return
			}
			if b.sent != 0 || b.checkOwn() || !errors.Is(b.failing(), ErrBusDown) {
				t.Errorf("missed: awaited is %d, failing %v", b.sent, b.failing())
			}
			if b.gaps.held != bySilence || !b.gaps.all.since.Equal(made) {
				t.Errorf("the gap is %+v, by %b", b.gaps.all, b.gaps.held)
			}
		})
	}
}

// Nobody looks at the clock more often than he must, and a heartbeat that is
// missed is noticed in time all the same, and the Bus reset once.
func TestHeartbeatWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bus := newHeartbeatAlone()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		b.send(ctx, 0)
		go b.watch(ctx)
		due := b.config.ProbeTimeout + heartbeatGrace
		time.Sleep(due)
		if synctest.Wait(); bus.resets != 0 {
			t.Error("reset too early")
		}
		time.Sleep(b.config.ProbeTimeout / 4)
		if synctest.Wait(); bus.resets != 1 || b.stats.resets.Load() != 1 {
			t.Errorf("%d resets, %d counted", bus.resets, b.stats.resets.Load())
		}
		time.Sleep(time.Hour)
		if synctest.Wait(); bus.resets != 1 {
			t.Errorf("%d resets", bus.resets)
		}
	})
}

// Of losses the others are told once a second.
func TestHeartbeatTellsLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		for _, step := range []struct {
			pause time.Duration
			want  notice
		}{{0, noticeLost}, {0, 0}, {time.Second - 1, 0}, {1, noticeLost}, {999 * time.Millisecond, 0}, {time.Hour, noticeLost}} {
			time.Sleep(step.pause)
			if b.tellLost(); b.notice != step.want {
				t.Errorf("after %v the notice is %b", step.pause, b.notice)
			}
			b.send(t.Context(), 0)
		}
	})
}

// Who leaves waits for its goodbye to come back, for a moment, if it was taken.
func TestHeartbeatLeaves(t *testing.T) {
	for name, test := range map[string]struct {
		mute, back bool
		want       time.Duration
	}{"taken": {want: heartbeatGrace}, "mute": {mute: true}, "back": {back: true, want: 10 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			b, bus := newHeartbeatAlone()
			bus.mute.Store(test.mute)
			if test.back {
				time.AfterFunc(test.want, func() { b.hear(&envelope{kind: kindHeartbeat, sender: "n", id: 1, notice: noticeLeaving}) })
			}
			began := time.Now()
			b.leave(t.Context())
			if took := time.Since(began); took != test.want || bus.tried[0].notice != noticeLeaving {
				t.Errorf("%s: it took %v, and said %b", name, took, bus.tried[0].notice)
			}
		})
	}
}

// A moment on the clock is a time, no earlier than the heartbeat was made.
func TestHeartbeatWall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		made := time.Now()
		time.Sleep(time.Hour)
		for ago, want := range map[time.Duration]time.Time{0: time.Now(), time.Minute: time.Now().Add(-time.Minute), time.Hour: made, time.Hour + 1: made} {
			if got := b.wall(clock.Now() - int64(ago)); !got.Equal(want) {
				t.Errorf("%v ago was %v, want %v", ago, got, want)
			}
		}
	})
}

// Without probes there are no heartbeats.
func TestHeartbeatOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bus := newHeartbeatAlone()
		b.config.ProbeInterval = off
		b.wake.Set()
		b.run(t.Context())
		b.watch(t.Context())
		if len(bus.tried) != 0 {
			t.Errorf("%d heartbeats", len(bus.tried))
		}
	})
}
