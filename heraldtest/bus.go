// Package heraldtest helps to test what is built on herald: [NewCluster] runs
// several nodes in memory, with clients and faults. [TestBus] and [TestRegistry]
// check that an implementation of herald.Bus or herald.Registry keeps its promises.
package heraldtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A BusNetwork is a broker, or a part of one, that nobody else uses.
type BusNetwork struct {
	// Open returns a new Bus, as another node would. TestBus closes it.
	Open func() herald.Bus

	// Interrupt breaks every link of the Buses that Open returned once; they
	// can reconnect. If it is nil the subtests that need it are skipped.
	Interrupt func()

	// Stop makes the broker unreachable for the Buses that Open returned, until
	// start is called. If it is nil, TestBus does not check that their Health
	// returns an error meanwhile.
	Stop func() (start func())

	// Other returns a Bus on the same broker that must see nothing of the
	// others: another prefix or database. TestBus closes it. If it is nil,
	// TestBus does not check that.
	Other func() herald.Bus

	// PublisherOrder says that the broker keeps the order of what one Bus
	// publishes, but each subscriber may see the packets of several Buses in a
	// different order. TestBus then does not check that part of promise 4. The
	// documentation of such a Bus has to say so.
	PublisherOrder bool
}

// TestBus tries to break each of the numbered promises of [herald.Bus], in a
// subtest that is named after it. newNetwork is called once for each. A subtest
// fails if what it awaits does not come within 20 s, or 30 s after an interruption.
func TestBus(t *testing.T, newNetwork func(t testing.TB) BusNetwork) {
	hung := false
	for _, p := range busPromises {
		t.Run(p.name, func(t *testing.T) { p.try(t, newNetwork(t), &hung) })
	}
}

type busPromise struct {
	name, text string
	test       func(*suite)
	interrupts bool // it needs BusNetwork.Interrupt
}

func (p busPromise) try(t *testing.T, network BusNetwork, hung *bool) {
	if network.Open == nil {
		t.Fatal("BusNetwork.Open must be set")
	}
	if p.interrupts && network.Interrupt == nil {
		t.Skipf("NOT TRIED: promise %s: BusNetwork.Interrupt is nil", p.name)
	}
	p.test(&suite{T: t, network: network, promise: fmt.Sprintf("promise %s: %s", p.name, p.text), hung: hung})
}

var busPromises = []busPromise{
	{"1 Delivery", "a packet reaches, once, every Bus that is subscribed to the topic, the publisher's own included", testDelivery, false},
	{"2 Subscribe", "Subscribe returns when the broker has confirmed; again is no error and no second copy", testSubscribe, false},
	{"3 Unsubscribe", "Unsubscribe returns when the broker has confirmed; of what is not subscribed it is no error", testUnsubscribe, false},
	{"4 Order", "packets of one topic arrive in the order of a publisher, and in one order everywhere", testOrder, false},
	{"5 Topics are exact", "any bytes, no wildcard, no separator, nothing that one prefix or database could see of another", testTopics, false},
	{"6 Publish", "nil says taken, ErrUnknown perhaps, any other error not; there are no duplicates", testPublish, true},
	{"7 Ownership", "Publish keeps no slice after it has returned; the Data that Receive hands over is the caller's", testOwnership, false},
	{"8 Blocking", "calls return when ctx is done, with its error; batches may be large, or empty", testBlocking, false},
	{"9 Loss is never silent", "every packet that may have been lost lies between an EventDown and an EventRestored", testLoss, true},
	{"10 The Bus reconnects", "by itself, and subscribes again to all it was subscribed to", testReconnect, true},
	{"11 Memory is bounded", "and the broker is never blocked, whatever the caller of Receive does", testFlood, false},
	{"12 Reset", "drops the links and builds them anew, between an EventDown and an EventRestored", testReset, false},
	{"13 Concurrency", "all methods may be called at the same time", testConcurrency, false},
	{"14 Close", "makes every call return ErrClosed, leaves no goroutine, and may be called twice", testClose, false},
	{"15 One receiver", "while a Receive waits another one takes nothing, and returns ErrReceiving at once", testOneReceiver, false},
	{"16 Health", "nil while the Bus does its work, else why not, and ErrClosed after Close; at once", testHealth, false},
}

const (
	// patience is how long anything may take before the suite calls it hung.
	patience = 20 * time.Second

	// recovery is how long a Bus may take to reconnect after an Interrupt:
	// it backs off, and some brokers are slow to come back.
	recovery = 30 * time.Second
)

// A suite runs one subtest.
type suite struct {
	*testing.T
	network BusNetwork
	promise string
	hung    *bool // a Close has hung, in this subtest or an earlier one
}

// failf fails the subtest and quotes the promise.
func (s *suite) failf(format string, args ...any) {
	s.Helper()
	s.Fatalf("%s\n\t%s", fmt.Sprintf(format, args...), s.promise)
}

// ok fails the subtest if err is not nil.
func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.failf("%v", err)
	}
}

// context returns one that ends when the suite's patience does.
func (s *suite) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.Cleanup(cancel)
	return ctx
}

// returns runs call and returns its error. If call hangs, as one that
// ignores its context does, it is left behind and the subtest fails.
func (s *suite) returns(what string, call func() error) error {
	s.Helper()
	result := make(chan error, 1)
	go func() { result <- call() }()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		s.failf("%s did not return within %v", what, patience)
		return nil
	}
}

func testDelivery(s *suite) {
	nodes := []*node{s.open(), s.open(), s.open()}
	for _, n := range nodes[:2] {
		n.subscribe("topic")
	}
	for i, n := range nodes {
		n.publish("topic", fmt.Sprint(i))
	}
	nodes[0].publish("topic", "end")
	for i, n := range nodes[:2] {
		n.awaitData("topic", "end")
		if got := strings.Join(n.data("topic"), " "); got != "0 1 2 end" {
			s.failf("node %d got %q, want %q", i, got, "0 1 2 end")
		}
	}
}

func testSubscribe(s *suite) {
	a, b := s.open(), s.open()
	for i := range 100 {
		topic := fmt.Sprint("topic ", i)
		a.subscribe(topic)
		b.publish(topic, "first")
		a.subscribe(topic, topic)
		b.publish(topic, "second")
		a.awaitData(topic, "second")
		if got := a.data(topic); len(got) != 2 {
			s.failf("got %q, want each packet once", got)
		}
	}
}

func testUnsubscribe(s *suite) {
	a, b := s.open(), s.open()
	s.ok(a.Unsubscribe(s.context(), "never", "never"))
	a.subscribe("topic", "other")
	s.ok(a.Unsubscribe(s.context(), "topic"))
	s.ok(a.Unsubscribe(s.context(), "topic"))
	b.publish("topic", "unheard")
	b.publish("other", "heard")
	a.awaitData("other", "heard")
	a.subscribe("topic")
	b.publish("topic", "heard")
	a.awaitData("topic", "heard")
}

func testOrder(s *suite) {
	const each = 300
	a, b := s.open(), s.open()
	a.subscribe("topic")
	b.subscribe("topic")
	var publishing sync.WaitGroup
	for i, n := range []*node{a, b} {
		publishing.Go(func() {
			for j := range each {
				if err := n.Publish(s.context(), herald.Packet{Topic: "topic", Data: fmt.Appendf(nil, "%d %d", i, j)}); err != nil {
					s.Errorf("publish: %v", err)
					return
				}
			}
		})
	}
	publishing.Wait()
	a.publish("topic", "end")
	for _, n := range []*node{a, b} {
		n.awaitData("topic", "end")
		next := [2]int{}
		for _, data := range n.data("topic")[:2*each] {
			var i, j int
			if _, err := fmt.Sscan(data, &i, &j); err != nil || next[i] != j {
				s.failf("got %q where %d of publisher %d was next", data, next[i], i)
			}
			next[i]++
		}
	}
	if !s.network.PublisherOrder && strings.Join(a.data("topic"), ",") != strings.Join(b.data("topic"), ",") {
		s.failf("two subscribers saw two orders")
	}
}

// nastyTopics are names that mean something to some broker.
var nastyTopics = []string{
	"", "*", ">", "#", "+", "?", "a", "a.b", "a.*", "a.>", "a/b", "a/#", "a/+", "/", "$SYS", "$SYS/broker", "$share/g/a",
	"{", "}", "{a}", "[a]", `\`, `"`, "'", "a:0:b", "0:a", "%", "line\nline", "line\r\nline", "tab\t", "\x00", "a\x00b",
	" ", " a ", "用户", "é", "e\u0301", "\xff\xfe", "A", strings.Repeat("x", 200), strings.Repeat("\xff", 200),
}

func testTopics(s *suite) {
	a, b := s.open(), s.open()
	a.subscribe(nastyTopics...)
	var other *node
	if s.network.Other != nil {
		other = s.receive(s.network.Other())
		other.subscribe(nastyTopics...)
	}
	for _, topic := range nastyTopics {
		b.publish(topic, topic)
		b.publish(topic+"x", topic+"x")
		b.publish(topic, "end")
	}
	for _, topic := range nastyTopics { // each has an order of its own
		a.awaitData(topic, "end")
	}
	seen := map[string]int{}
	for _, e := range a.all() {
		if e.Kind == herald.EventPacket && string(e.Packet.Data) != "end" {
			if e.Packet.Topic != string(e.Packet.Data) {
				s.failf("packet of topic %q arrived under %q", e.Packet.Data, e.Packet.Topic)
			}
			seen[e.Packet.Topic]++
		}
	}
	for _, topic := range nastyTopics {
		if seen[topic] != 1 {
			s.failf("topic %q arrived %d times, want once", topic, seen[topic])
		}
	}
	if other != nil {
		other.publish("a", "other's own")
		other.awaitData("a", "other's own")
		if got := len(other.all()); got != 1 {
			s.failf("another prefix or database saw %d events: %v", got, other.all())
		}
	}
}

func testOwnership(s *suite) {
	a, b := s.open(), s.open()
	a.subscribe("topic")
	b.subscribe("topic")
	data := []byte("0")
	for i := range 20 {
		data[0] = byte('0' + i)
		s.ok(a.Publish(s.context(), herald.Packet{Topic: "topic", Data: data}))
		data[0] = 'X'
	}
	a.publish("topic", "end")
	for _, n := range []*node{a, b} {
		n.awaitData("topic", "end")
		for i, got := range n.data("topic")[:20] {
			if got != string(rune('0'+i)) {
				s.failf("packet %d arrived as %q: changed after Publish had returned", i, got)
			}
		}
	}
	for _, e := range a.all() { // what a does with its bytes must not reach b
		for i := range e.Packet.Data[:cap(e.Packet.Data)] {
			e.Packet.Data[:cap(e.Packet.Data)][i] = 'Y'
		}
	}
	if got := strings.Join(b.data("topic"), ""); strings.Contains(got, "Y") {
		s.failf("two Buses share the bytes of a packet")
	}
}

func testBlocking(s *suite) {
	bus := s.network.Open()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for what, call := range busCalls(bus) {
		what += " with a context that is done"
		if err := s.returns(what, func() error { return call(ended) }); !errors.Is(err, context.Canceled) {
			s.failf("%s returned %v", what, err)
		}
	}
	soon, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err := s.returns("Receive with a deadline", func() error { _, err := bus.Receive(soon); return err })
	if !errors.Is(err, context.DeadlineExceeded) {
		s.failf("Receive with a deadline returned %v", err)
	}
	n := s.receive(bus)
	s.ok(n.Publish(s.context()))
	s.ok(n.Subscribe(s.context()))
	s.ok(n.Unsubscribe(s.context()))

	const many = 3000
	topics := make([]string, many)
	packets := make([]herald.Packet, many)
	for i := range many {
		topics[i] = fmt.Sprint("topic ", i)
		packets[i] = herald.Packet{Topic: topics[i], Data: bytes.Repeat([]byte{'x'}, 1000)}
	}
	n.subscribe(topics...)
	s.ok(n.Publish(s.context(), packets...))
	n.await("a large batch", func() bool { return n.count(herald.EventPacket) == many })
	s.ok(n.Unsubscribe(s.context(), topics...))
}

func testConcurrency(s *suite) {
	a, b := s.open(), s.open()
	a.subscribe("all")
	var calling sync.WaitGroup
	for i := range 8 {
		calling.Go(func() {
			topic := fmt.Sprint("topic ", i)
			for j := range 30 {
				ctx := s.context()
				err := errors.Join(a.Subscribe(ctx, topic), b.Subscribe(ctx, topic),
					a.Publish(ctx, herald.Packet{Topic: topic}, herald.Packet{Topic: "all"}),
					a.Unsubscribe(ctx, topic))
				if err != nil && !errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown) {
					s.Errorf("%v", err)
				}
				if i == 0 && j == 15 {
					a.Reset()
				}
			}
		})
	}
	calling.Wait()
	b.publish("all", "end")
	a.awaitData("all", "end")
}

func testClose(s *suite) {
	first := s.network.Open()
	s.ok(s.returns("Close", first.Close))
	before := goroutines(first)
	bus := s.network.Open()
	n := s.receive(bus)
	n.subscribe("topic")
	for range 3 {
		n.publish("topic", "")
	}
	waiting := s.network.Open()
	result := make(chan error, 1)
	ctx := s.context()
	go func() {
		_, err := waiting.Receive(ctx)
		result <- err
	}()
	s.ok(s.returns("Close", waiting.Close))
	err := s.returns("Receive under way, after Close,", func() error { return <-result })
	if !errors.Is(err, herald.ErrClosed) {
		s.failf("Receive under way returned %v after Close", err)
	}
	s.ok(s.returns("Close", bus.Close))
	s.ok(s.returns("Close once more", bus.Close))
	for what, call := range busCalls(bus) {
		what += " after Close"
		if err := s.returns(what, func() error { return call(s.context()) }); !errors.Is(err, herald.ErrClosed) {
			s.failf("%s returned %v", what, err)
		}
	}
	bus.Reset()
	for deadline := time.Now().Add(patience); goroutines(bus) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.failf("Close left goroutines:\n%s", stacks())
		}
	}
}
