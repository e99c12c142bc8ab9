package kafkabus_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/kafkabus"
)

// patience is how long anything may take before a test calls it hung.
const patience = 60 * time.Second

// topics is how many herald topics a stream goes to: enough for every partition.
const topics = 4 * partitions

// A rig is a Bus that publishes a stream straight to the cluster, and one
// behind proxies that receives it.
type rig struct {
	*testing.T
	*broker
	from, to *kafkabus.Bus

	mu      sync.Mutex
	stream  []published
	events  []arrived
	changed chan struct{}
}

type published struct {
	began, ended time.Time
	err          error
}

type arrived struct {
	herald.Event
	at time.Time
}

func newRig(t *testing.T, opts ...kfake.Opt) *rig {
	b := startFake(t, opts...)
	r := &rig{T: t, broker: b, changed: make(chan struct{})}
	var err error
	if r.from, err = kafkabus.New(b.seeds(), &quick); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.from.Close() })
	r.to = b.open(quick)
	t.Cleanup(func() { r.to.Close() })
	for i := range topics {
		if err := r.to.Subscribe(t.Context(), streamTopic(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.receive(ctx) })
	running.Go(func() { r.publish(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	r.await("the first packets", func() bool { _, got, _ := r.snapshot(); return len(got) > 100 })
	return r
}

func streamTopic(i int) string { return fmt.Sprint("topic ", i%topics) }

func (r *rig) receive(ctx context.Context) {
	for {
		e, err := r.to.Receive(ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.events = append(r.events, arrived{e, time.Now()})
		changed := r.changed
		r.changed = make(chan struct{})
		r.mu.Unlock()
		close(changed)
	}
}

func (r *rig) publish(ctx context.Context) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-pace.C
		began := time.Now()
		err := r.from.Publish(ctx, herald.Packet{Topic: streamTopic(i), Data: strconv.AppendInt(nil, int64(i), 10)})
		r.mu.Lock()
		r.stream = append(r.stream, published{began, time.Now(), err})
		r.mu.Unlock()
	}
}

// snapshot returns what was published, how often each arrived, and the gaps.
func (r *rig) snapshot() (stream []published, got map[int]int, gaps [][2]time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	got = map[int]int{}
	for _, e := range r.events {
		switch e.Kind {
		case herald.EventPacket:
			i, _ := strconv.Atoi(string(e.Packet.Data))
			got[i]++
		case herald.EventDown:
			gaps = append(gaps, [2]time.Time{e.Since, {}})
		case herald.EventRestored:
			gaps[len(gaps)-1][1] = e.at
		}
	}
	return r.stream[:len(r.stream):len(r.stream)], got, gaps
}

// await waits until done holds.
func (r *rig) await(what string, done func() bool) {
	r.T.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			r.T.Fatalf("%s: not within %v; health %v, %v", what, patience, r.from.Health(), r.to.Health())
		}
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// awaitGap waits for an EventDown.
func (r *rig) awaitGap() {
	r.T.Helper()
	r.await("EventDown", func() bool { _, _, gaps := r.snapshot(); return len(gaps) > 0 })
}

// awaitEnd waits until no gap is open and all is well, and returns a packet
// that was published and came after that.
func (r *rig) awaitEnd() (last int) {
	r.T.Helper()
	r.await("good health", func() bool { return r.to.Health() == nil && r.from.Health() == nil })
	r.await("EventRestored", func() bool {
		_, _, gaps := r.snapshot()
		return len(gaps) == 0 || !gaps[len(gaps)-1][1].IsZero()
	})
	stream, _, _ := r.snapshot()
	first := len(stream)
	r.await("packets of every topic after the fault", func() bool {
		stream, got, _ := r.snapshot()
		seen := map[string]bool{}
		for i := len(stream) - 1; i >= first; i-- {
			if stream[i].err == nil && got[i] > 0 {
				seen[streamTopic(i)] = true
				last = max(last, i)
			}
		}
		return len(seen) == topics
	})
	return last
}

// check waits for the end, and looks whether what did not come was in a gap,
// nothing came twice, and all in order. It returns how many were lost.
func (r *rig) check(ordered bool) (lost int) {
	r.T.Helper()
	last := r.awaitEnd()
	stream, got, gaps := r.snapshot()
	failed, unknown := 0, 0
	for i, p := range stream[:last-topics] {
		if got[i] > 1 {
			r.T.Errorf("packet %d arrived %d times", i, got[i])
		}
		if p.err != nil {
			failed++
			if errors.Is(p.err, herald.ErrUnknown) {
				unknown++
			} else if got[i] > 0 {
				r.T.Errorf("packet %d arrived, though it was not taken: %v", i, p.err)
			}
		}
		if got[i] > 0 || p.err != nil {
			continue
		}
		lost++
		inside := false
		for _, g := range gaps {
			inside = inside || !p.ended.Before(g[0]) && (g[1].IsZero() || !p.began.After(g[1]))
		}
		if !inside {
			r.T.Errorf("packet %d, published at %v, was lost outside of the gaps %v", i, p.began, gaps)
		}
	}
	if ordered {
		r.checkOrder()
	}
	r.T.Logf("%d packets, %d not taken, %d of them perhaps, %d lost, %d gaps", last, failed, unknown, lost, len(gaps))
	return lost
}

func (r *rig) checkOrder() {
	r.T.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := map[string]int{}
	for _, e := range r.events {
		if e.Kind != herald.EventPacket {
			continue
		}
		i, _ := strconv.Atoi(string(e.Packet.Data))
		if i < newest[e.Packet.Topic] {
			r.T.Errorf("packet %d of %q came after %d", i, e.Packet.Topic, newest[e.Packet.Topic])
		}
		newest[e.Packet.Topic] = i
	}
}
