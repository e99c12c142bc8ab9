package mqttbus_test

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/mqttbus"
	"github.com/heraldgo/herald/internal/netproxy"
	"github.com/heraldgo/herald/internal/servertest"
)

const patience = 30 * time.Second

// A rig is a Bus that publishes a stream straight to the broker, and one
// behind a proxy that receives it.
type rig struct {
	*testing.T
	server   *servertest.Server
	proxy    *netproxy.Proxy
	from, to *mqttbus.Bus
	size     int // of a packet, at least

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

// newRig starts a rig whose receiver connects to via, or to the proxy where
// via is empty.
func newRig(t *testing.T, server *servertest.Server, via string, size int, options *mqttbus.Options) *rig {
	r := &rig{T: t, server: server, size: size, changed: make(chan struct{})}
	if via == "" {
		r.proxy = netproxy.Start(t, server.Addr)
		via = r.proxy.Addr
	}
	r.from = open(t, server.Addr, options)
	r.to = open(t, via, options)
	if err := r.to.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.receive(ctx) })
	running.Go(func() { r.publish(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return r
}

func (r *rig) receive(ctx context.Context) {
	for {
		e, err := r.to.Receive(ctx)
		if err != nil {
			return
		}
		e.Packet.Data = bytes.TrimRight(e.Packet.Data, "\x00")
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
		data := strconv.AppendInt(make([]byte, 0, r.size), int64(i), 10)
		data = data[:max(len(data), r.size)]
		began := time.Now()
		err := r.from.Publish(ctx, herald.Packet{Topic: "topic", Data: data})
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

func (r *rig) snapshotEvents() []arrived {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[:len(r.events):len(r.events)]
}

// await waits until done holds after an event.
func (r *rig) await(what string, done func() bool) {
	r.Helper()
	deadline := time.After(patience)
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
			r.Fatalf("%s: not within %v; health %v", what, patience, r.to.Health())
		}
	}
}

func (r *rig) awaitGap() {
	r.Helper()
	r.await("EventDown", func() bool { _, _, gaps := r.snapshot(); return len(gaps) > 0 })
}

// check waits until the gap is over and all is well, and finds every packet
// that was lost in it. It returns how many were.
func (r *rig) check() (lost int) {
	r.Helper()
	r.await("EventRestored", func() bool {
		_, _, gaps := r.snapshot()
		return len(gaps) > 0 && !gaps[len(gaps)-1][1].IsZero()
	})
	r.await("good health", func() bool { return r.to.Health() == nil && r.from.Health() == nil })
	stream, _, _ := r.snapshot()
	first := len(stream)
	last := -1
	r.await("packets after the fault", func() bool {
		stream, got, _ := r.snapshot()
		for i := len(stream) - 1; i >= first && last < 0; i-- {
			if stream[i].err == nil && got[i] > 0 {
				last = i
			}
		}
		return last >= 0
	})
	stream, got, gaps := r.snapshot()
	for i, p := range stream[:last] {
		if got[i] > 1 {
			r.Errorf("packet %d arrived %d times", i, got[i])
		}
		if got[i] > 0 && p.err != nil && !errors.Is(p.err, herald.ErrUnknown) {
			r.Errorf("packet %d arrived, though it was not taken: %v", i, p.err)
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
			r.Errorf("packet %d, published at %v, was lost outside of the gaps %v", i, p.began, gaps)
		}
	}
	r.Logf("%d packets, %d lost, gaps %v", last, lost, gaps)
	return lost
}
