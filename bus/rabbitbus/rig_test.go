package rabbitbus_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
	"github.com/heraldgo/herald/internal/netproxy"
	"github.com/heraldgo/herald/internal/servertest"
)

// patience is how long a test waits for what hangs otherwise.
const patience = 60 * time.Second

// A rig is a Bus that publishes a stream straight to the server, and one
// behind a proxy that receives it.
type rig struct {
	*testing.T
	server   *servertest.Server
	proxy    *netproxy.Proxy
	exchange string
	from, to *rabbitbus.Bus

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

// quick proves the links ten times a second, and notices soon what hangs.
func quick(exchange string) *rabbitbus.Options {
	return &rabbitbus.Options{
		Exchange: exchange, ProbeInterval: time.Second, ProbeTimeout: 2 * time.Second,
		Config: amqp091.Config{Heartbeat: time.Second},
	}
}

func newRig(t *testing.T, server *servertest.Server) *rig { return newRigOn(t, server, rand.Text()) }

func newRigOn(t *testing.T, server *servertest.Server, exchange string) *rig {
	r := &rig{T: t, server: server, proxy: netproxy.Start(t, server.Addr), exchange: exchange, changed: make(chan struct{})}
	r.from = open(t, server.Addr, quick(r.exchange))
	r.to = open(t, r.proxy.Addr, quick(r.exchange))
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
	r.await("the first packets", func() bool { _, got, _ := r.snapshot(); return len(got) > 100 })
	return r
}

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
		err := r.from.Publish(ctx, herald.Packet{Topic: "topic", Data: strconv.AppendInt(nil, int64(i), 10)})
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
			r.Fatalf("%s: not within %v; health %v, %v", what, patience, r.from.Health(), r.to.Health())
		}
	}
}

func (r *rig) awaitGap() {
	r.Helper()
	r.await("EventDown", func() bool { _, _, gaps := r.snapshot(); return len(gaps) > 0 })
}

// check waits until all gaps are over and all is well, and finds every packet
// that was lost in one. It returns how many packets were not published, and
// how many lost.
func (r *rig) check() (failed, lost int) {
	r.Helper()
	r.await("EventRestored", func() bool {
		_, _, gaps := r.snapshot()
		return len(gaps) == 0 || !gaps[len(gaps)-1][1].IsZero()
	})
	r.await("good health", func() bool { return r.to.Health() == nil && r.from.Health() == nil })
	stream, _, _ := r.snapshot()
	first := len(stream)
	last := -1
	r.await("packets after the fault", func() bool {
		stream, got, gaps := r.snapshot()
		for i := len(stream) - 1; i >= first && last < 0; i-- {
			if stream[i].err == nil && got[i] > 0 && (len(gaps) == 0 || stream[i].began.After(gaps[len(gaps)-1][1])) {
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
		if p.err != nil {
			failed++
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
	r.Logf("%d packets, %d not published, %d lost, %d gaps: %v", last, failed, lost, len(gaps), r.why())
	return failed, lost
}

// why returns the reasons of the gaps.
func (r *rig) why() (reasons []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == herald.EventDown {
			reasons = append(reasons, e.Err)
		}
	}
	return reasons
}

// operator returns a channel of someone who may do anything.
func operator(t testing.TB, server *servertest.Server) *amqp091.Channel {
	t.Helper()
	conn, err := amqp091.Dial(url(server.Addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

// ofQueues runs an Erlang expression for each queue Q that is bound to the
// exchange, by the binding B.
func ofQueues(t testing.TB, server *servertest.Server, exchange, expression string) {
	t.Helper()
	got := server.RabbitMQCtl("eval", fmt.Sprintf(
		`X = rabbit_misc:r(<<"/">>, exchange, <<%q>>),
		[begin {ok, Q} = rabbit_amqqueue:lookup(element(4, B)), %s end || B <- rabbit_binding:list_for_source(X)].`, exchange, expression))
	if strings.Contains(got, "rror") || strings.TrimSpace(got) == "[]" {
		t.Fatalf("eval %s: %s", expression, got)
	}
}
