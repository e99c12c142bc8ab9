package heraldtest

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

// A node is a Bus whose events are received all the time.
type node struct {
	herald.Bus
	s *suite

	mu      sync.Mutex
	events  []received
	changed chan struct{} // closed at the next event
}

type received struct {
	herald.Event
	at time.Time
}

func (s *suite) open() *node { return s.receive(s.network.Open()) }

func (s *suite) receive(bus herald.Bus) *node {
	n := &node{Bus: bus, s: s, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.receive(ctx)
	}()
	s.Cleanup(func() {
		n.close(ended)
		cancel()
		if !within(time.Second, ended) {
			s.Logf("a Receive whose context is done is left behind")
		}
	})
	return n
}

func (n *node) receive(ctx context.Context) {
	for {
		e, err := n.Receive(ctx)
		if err != nil {
			return
		}
		n.mu.Lock()
		n.events = append(n.events, received{e, time.Now()})
		changed := n.changed
		n.changed = make(chan struct{})
		n.mu.Unlock()
		close(changed)
	}
}

// close closes the Bus and waits for what must end then. After the first Bus
// that hangs nobody waits for the others.
func (n *node) close(ended <-chan struct{}) {
	closed := make(chan struct{})
	go func() {
		n.Close()
		close(closed)
	}()
	if *n.s.hung {
		return
	}
	const promise = "promise 14: Close makes every call, under way or later, return ErrClosed"
	switch {
	case !within(patience, closed):
		n.s.Errorf("Close did not return within %v\n\t%s", patience, promise)
	case !within(patience, ended):
		n.s.Errorf("Close did not end Receive within %v\n\t%s", patience, promise)
	default:
		return
	}
	*n.s.hung = true
}

// within reports whether done is closed before d has passed.
func within(d time.Duration, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

func (n *node) subscribe(topics ...string) {
	n.s.Helper()
	n.s.ok(n.Subscribe(n.s.context(), topics...))
}

func (n *node) publish(topic, data string) {
	n.s.Helper()
	n.s.ok(n.Publish(n.s.context(), herald.Packet{Topic: topic, Data: []byte(data)}))
}

// all returns the events so far.
func (n *node) all() []received {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.events[:len(n.events):len(n.events)]
}

// data returns the payloads of the topic so far, in order.
func (n *node) data(topic string) []string {
	var data []string
	for _, e := range n.all() {
		if e.Kind == herald.EventPacket && e.Packet.Topic == topic {
			data = append(data, string(e.Packet.Data))
		}
	}
	return data
}

// await waits until done holds.
func (n *node) await(what string, done func() bool) {
	n.s.Helper()
	if !n.waits(patience, done) {
		n.s.failf("%s did not come within %v", what, patience)
	}
}

// awaitRestored waits until done holds after an interruption.
func (n *node) awaitRestored(done func() bool) {
	n.s.Helper()
	if !n.waits(recovery, done) {
		n.s.failf("EventRestored did not come within %v after an interruption", recovery)
	}
}

// waits reports whether done holds before d has passed. It asks after each event.
func (n *node) waits(d time.Duration, done func() bool) bool {
	deadline := time.After(d)
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		if done() {
			return true
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

// awaitData waits until the last payload of the topic is data.
func (n *node) awaitData(topic, data string) {
	n.s.Helper()
	n.await(fmt.Sprintf("packet %q of topic %q", data, topic), func() bool {
		got := n.data(topic)
		return len(got) > 0 && got[len(got)-1] == data
	})
}

// count returns how many events of the kind there were.
func (n *node) count(kind herald.EventKind) int {
	count := 0
	for _, e := range n.all() {
		if e.Kind == kind {
			count++
		}
	}
	return count
}

// goroutines counts those that run, or were started by, the package of bus.
func goroutines(bus herald.Bus) int {
	kind := reflect.TypeOf(bus)
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	count := 0
	for g := range strings.SplitSeq(stacks(), "\n\n") {
		if strings.Contains(g, kind.PkgPath()+".") {
			count++
		}
	}
	return count
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// busCalls are all methods that have a context, by name.
func busCalls(bus herald.Bus) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Receive":     func(ctx context.Context) error { _, err := bus.Receive(ctx); return err },
		"Publish":     func(ctx context.Context) error { return bus.Publish(ctx, herald.Packet{Topic: "topic"}) },
		"Subscribe":   func(ctx context.Context) error { return bus.Subscribe(ctx, "topic") },
		"Unsubscribe": func(ctx context.Context) error { return bus.Unsubscribe(ctx, "topic") },
	}
}
