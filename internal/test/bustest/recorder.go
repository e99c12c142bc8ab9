// Package bustest is for the tests of the Buses: it receives all that a Bus has to
// say, and tells whether every packet of a stream that was lost lies in a gap.
package bustest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// Patience is how long a test waits for what hangs otherwise.
const Patience = time.Minute

// An Arrival is an event and when Receive returned it.
type Arrival struct {
	herald.Event
	At time.Time
}

// A Gap is what is between an EventDown and its EventRestored.
type Gap struct {
	Since time.Time // as EventDown said
	Until time.Time // when EventRestored arrived; zero while the gap is open
	Err   error     // as EventDown said
}

// contains says whether the gap excuses a packet whose Publish began and ended
// at these times.
func (g Gap) contains(began, ended time.Time) bool {
	return !ended.Before(g.Since) && (g.Until.IsZero() || !began.After(g.Until))
}

// A Recorder receives the events of a Bus all the time and keeps them. Its
// methods may be called at the same time.
type Recorder struct {
	t     testing.TB
	buses []herald.Bus // whose health is of interest; the first is the one that receives
	stop  func()

	mu      sync.Mutex
	events  []Arrival
	changed chan struct{} // closed at the next event
}

// Record receives what bus has to say until the test ends.
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

// Stop ends receiving. Events then stay as they are.
func (r *Recorder) Stop() { r.stop() }

// Events returns what has arrived. It must not be changed.
func (r *Recorder) Events() []Arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)]
}

// Gaps returns the gaps so far, if the Bus does not report those of some
// topics alone.
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

// Await waits until done holds. It looks at each event, and now and then.
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

// Healthy says whether the Buses of interest say that they are well.
func (r *Recorder) Healthy() bool { return errors.Join(r.health()...) == nil }

func (r *Recorder) health() (all []error) {
	for _, bus := range r.buses {
		all = append(all, bus.Health())
	}
	return all
}
