// Package bustest is for the tests of Buses. It records the events of a Bus, and
// checks that every lost packet of a stream lies in a gap.
package bustest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// Patience is how long a test waits before it takes something for hung.
const Patience = time.Minute

// An Arrival is an event, and when Receive returned it.
type Arrival struct {
	herald.Event
	At time.Time
}

// A Gap is the time between an EventDown and its EventRestored.
type Gap struct {
	Since time.Time // as EventDown said
	Until time.Time // when EventRestored arrived; zero while the gap is open
	Err   error     // as EventDown said
}

// contains reports whether the gap excuses a packet whose Publish began and ended
// at these times.
func (g Gap) contains(began, ended time.Time) bool {
	return !ended.Before(g.Since) && (g.Until.IsZero() || !began.After(g.Until))
}

// A Recorder keeps receiving the events of a Bus and records them. Its methods may
// be called concurrently.
type Recorder struct {
	t     testing.TB
	buses []herald.Bus // the Buses whose health matters; the first one receives
	stop  func()

	mu      sync.Mutex
	events  []Arrival
	changed chan struct{} // closed at the next event
}

// Record records the events of bus until the test ends.
func Record(t testing.TB, bus herald.Bus) *Recorder { return record(t, bus) }

func record(t testing.TB, buses ...herald.Bus) *Recorder {
	r := &Recorder{t: t, buses: buses, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.receive(ctx) })
	r.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(r.stop)
	return r
}

func (r *Recorder) receive(ctx context.Context) {
	for {
		e, err := r.buses[0].Receive(ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.events = append(r.events, Arrival{e, time.Now()})
		changed := r.changed
		r.changed = make(chan struct{})
		r.mu.Unlock()
		close(changed)
	}
}

// Stop stops receiving. After it Events does not change.
func (r *Recorder) Stop() { r.stop() }

// Events returns the events that have arrived. The caller must not change them.
func (r *Recorder) Events() []Arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)]
}

// Gaps returns the gaps so far. It is only for a Bus that does not report gaps of
// single topics.
func (r *Recorder) Gaps() []Gap { return gapsOf(r.Events()) }

func gapsOf(events []Arrival) (gaps []Gap) {
	for _, e := range events {
		switch e.Kind {
		case herald.EventDown:
			gaps = append(gaps, Gap{Since: e.Since, Err: e.Err})
		case herald.EventRestored:
			gaps[len(gaps)-1].Until = e.At
		}
	}
	return gaps
}

// Await waits until done returns true. It asks at each event, and every few
// milliseconds.
func (r *Recorder) Await(what string, done func() bool) {
	r.t.Helper()
	deadline := time.After(Patience)
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			r.t.Fatalf("%s: not within %v; gaps %v; health %v", what, Patience, r.Gaps(), r.health())
		}
	}
}

// AwaitGap waits for an EventDown.
func (r *Recorder) AwaitGap() {
	r.t.Helper()
	r.Await("EventDown", func() bool { return len(r.Gaps()) > 0 })
}

// Healthy reports whether all Buses whose health matters are well.
func (r *Recorder) Healthy() bool { return errors.Join(r.health()...) == nil }

func (r *Recorder) health() (all []error) {
	for _, bus := range r.buses {
		all = append(all, bus.Health())
	}
	return all
}
