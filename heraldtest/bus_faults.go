package heraldtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/heraldgo/herald"
)

// A sent is one packet of a stream, and what Publish said of it.
type sent struct {
	began, ended time.Time
	err          error
}

// stream publishes packets 0, 1, 2, … to the topic, and interrupts the network times
// times while it does. It ends when the last has arrived everywhere. It leaves out
// the packets "end".
func (s *suite) stream(from *node, topic string, times int, to ...*node) []sent {
	s.Helper()
	var stream []sent
	publish := func(data string) error {
		return from.Publish(s.context(), herald.Packet{Topic: topic, Data: []byte(data)})
	}
	for range times {
		for i := range 200 {
			if i == 100 {
				s.network.Interrupt()
			}
			began := time.Now()
			err := publish(strconv.Itoa(len(stream)))
			stream = append(stream, sent{began, time.Now(), err})
		}
		// The stream goes on until all are well again: an end has come through.
		s.awaitEnd(publish, topic, to...)
	}
	return stream
}

// awaitEnd publishes "end" again and again until everyone has got one that
// is newer than the call.
func (s *suite) awaitEnd(publish func(string) error, topic string, to ...*node) {
	s.Helper()
	before := make([]int, len(to))
	for i, n := range to {
		before[i] = len(n.all())
	}
	deadline := time.Now().Add(recovery)
	for ends := 0; ; ends++ {
		end := fmt.Sprint("end ", ends)
		err := publish(end)
		missing := 0
		for i, n := range to {
			if !n.has(topic, end, before[i]) {
				missing++
			}
		}
		if err == nil && missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.failf("%d of %d nodes did not hear in %v what was published to %q again and again; Publish returned %v",
				missing, len(to), recovery, topic, err)
		}
		time.Sleep(5 * time.Millisecond) // if there is no broker, Publish returns at once
	}
}

// has reports whether data of the topic is among the events from the index
// first on, waiting a moment for it.
func (n *node) has(topic, data string, first int) bool {
	deadline := time.After(100 * time.Millisecond)
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		for _, e := range n.all()[first:] {
			if e.Kind == herald.EventPacket && e.Packet.Topic == topic && string(e.Packet.Data) == data {
				return true
			}
		}
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

// check compares what a node got of a stream with what Publish said.
func (s *suite) check(n *node, topic string, stream []sent) {
	s.Helper()
	got := make([]int, len(stream))
	for _, data := range n.data(topic) {
		if i, err := strconv.Atoi(data); err == nil {
			got[i]++
		}
	}
	for i, p := range stream {
		switch {
		case got[i] > 1:
			s.failf("packet %d arrived %d times (publish: %v)", i, got[i], p.err)
		case got[i] == 1 && p.err != nil && !errors.Is(p.err, herald.ErrUnknown):
			s.failf("packet %d arrived, though Publish said that it was not taken: %v", i, p.err)
		case got[i] == 0 && p.err == nil && !n.inGap(topic, p):
			s.failf("packet %d was taken at %v and lost, and no gap reports it: %v", i, p.began, n.gaps())
		}
	}
}

// A gap is an EventDown and the EventRestored that ends it, for the EventDown's
// topics.
type gap struct {
	since, until time.Time
	topics       map[string]bool // nil is all
}

// gaps returns the gaps so far; one that is open lasts for ever. It fails the
// test if they are out of order.
func (n *node) gaps() []gap {
	var gaps []gap
	open := map[int]bool{} // indexes of gaps
	for _, e := range n.all() {
		switch e.Kind {
		case herald.EventDown:
			if e.Since.IsZero() || e.Since.After(e.at) || e.Err == nil {
				n.s.failf("EventDown %+v: must have a time and an error", e.Event)
			}
			for i := range open {
				if e.Topics == nil && gaps[i].topics == nil || e.Topics != nil && gaps[i].isOf(e.Topics) {
					n.s.failf("EventDown %+v: another is open for the same topics", e.Event)
				}
			}
			open[len(gaps)] = true
			gaps = append(gaps, gap{e.Since, e.at.Add(24 * time.Hour), set(e.Topics)})
		case herald.EventRestored:
			ended := 0
			for i := range open {
				if e.Topics == nil || gaps[i].isOf(e.Topics) {
					delete(open, i)
					gaps[i].until = e.at
					ended++
				}
			}
			if ended == 0 {
				n.s.failf("EventRestored without EventDown")
			}
		}
	}
	return gaps
}

// isOf reports whether the gap is of these topics, in any order.
func (g gap) isOf(topics []string) bool {
	return g.topics != nil && maps.Equal(g.topics, set(topics))
}

func set(topics []string) map[string]bool {
	if topics == nil {
		return nil
	}
	s := make(map[string]bool, len(topics))
	for _, topic := range topics {
		s[topic] = true
	}
	return s
}

func (n *node) inGap(topic string, p sent) bool {
	for _, g := range n.gaps() {
		if (g.topics == nil || g.topics[topic]) && !p.ended.Before(g.since) && !p.began.After(g.until) {
			return true
		}
	}
	return false
}

func testPublish(s *suite) {
	a, b := s.open(), s.open()
	a.subscribe("topic")
	b.subscribe("topic")
	stream := s.stream(a, "topic", 3, a, b)
	s.check(a, "topic", stream)
	s.check(b, "topic", stream)
}

func testLoss(s *suite) {
	a, b := s.open(), s.open()
	b.subscribe("topic")
	stream := s.stream(a, "topic", 4, b)
	s.check(b, "topic", stream)
	b.awaitRestored(func() bool {
		return b.count(herald.EventDown) > 0 && b.count(herald.EventDown) == b.count(herald.EventRestored)
	})
	b.gaps()
}

func testReconnect(s *suite) {
	a, b := s.open(), s.open()
	topics := make([]string, 500)
	for i := range topics {
		topics[i] = fmt.Sprint("topic ", i)
	}
	b.subscribe(topics...)
	s.ok(b.Unsubscribe(s.context(), topics[0]))
	for range 3 {
		restored := b.count(herald.EventRestored)
		s.network.Interrupt()
		b.awaitRestored(func() bool { return b.count(herald.EventRestored) > restored })
	}
	for _, topic := range topics[1:] {
		publish := func(data string) error {
			return a.Publish(s.context(), herald.Packet{Topic: topic, Data: []byte(data)})
		}
		s.awaitEnd(publish, topic, b)
	}
	b.subscribe("new")
	a.publish("new", "heard")
	b.awaitData("new", "heard")
}

func testFlood(s *suite) {
	const size, count = 1 << 20, 160
	a := s.open()
	deaf := s.network.Open()
	s.Cleanup(func() { s.returns("Close", deaf.Close) })
	s.ok(deaf.Subscribe(s.context(), "flood", "end"))
	a.subscribe("flood")
	data := make([]byte, size)
	var first time.Time // when the first packet had been published
	for i := range count {
		data = append(strconv.AppendInt(data[:0], int64(i), 10), data[len(strconv.Itoa(i)):]...)
		s.ok(s.returns("Publish, while a Bus does not call Receive,", func() error {
			return a.Publish(s.context(), herald.Packet{Topic: "flood", Data: data})
		}))
		if i == 0 {
			first = time.Now()
		}
	}
	if !a.waits(patience, func() bool { return a.count(herald.EventPacket) == count }) {
		s.failf("%d of %d packets did not come within %v, although Receive was called all the time; gaps: %v",
			count-a.count(herald.EventPacket), count, patience, a.gaps())
	}

	// Now someone receives; what did not fit must be told.
	b := s.receive(deaf)
	s.awaitEnd(func(data string) error {
		return a.Publish(s.context(), herald.Packet{Topic: "end", Data: []byte(data)})
	}, "end", b)
	gaps := b.gaps()
	held, got := 0, 0
	for _, e := range b.all() {
		if e.Kind == herald.EventPacket && e.Packet.Topic == "flood" {
			got++
			if len(gaps) == 0 || gaps[0].until.After(e.at) {
				held += len(e.Packet.Data)
			}
		}
	}
	switch {
	case got < count && len(gaps) == 0:
		s.failf("%d of %d packets did not come and no EventDown told of it: promise 9/11", count-got, count)
	case held > count*size*3/4:
		s.failf("%d MB waited for Receive: where is the bound?", held>>20)
	case got == 0 && first.Before(gaps[0].since):
		s.failf("the gap begins after what was lost")
	}
}

func testReset(s *suite) {
	a, b := s.open(), s.open()
	b.subscribe("topic")
	for i := range 3 {
		a.publish("topic", strconv.Itoa(i))
		b.awaitData("topic", strconv.Itoa(i))
		restored := b.count(herald.EventRestored)
		b.Reset()
		b.await("EventRestored", func() bool { return b.count(herald.EventRestored) > restored })
	}
	b.gaps()
	a.publish("topic", "end")
	b.awaitData("topic", "end")
	if got := len(b.data("topic")); got != 4 {
		s.failf("got %d packets, want 4", got)
	}
}

func testHealth(s *suite) {
	bus := s.network.Open()
	n := s.receive(bus)
	n.subscribe("topic")
	n.awaitHealth("nil while the Bus works", func(err error) bool { return err == nil })
	if s.network.Stop == nil {
		s.Logf("NOT TRIED: that Health is red while the broker is gone: BusNetwork.Stop is nil")
	} else {
		start := s.network.Stop()
		n.awaitHealth("red while the broker is gone", func(err error) bool { return err != nil })
		start()
		n.awaitHealth("nil again", func(err error) bool { return err == nil })
		s.awaitEnd(func(data string) error {
			return n.Publish(s.context(), herald.Packet{Topic: "topic", Data: []byte(data)})
		}, "topic", n)
	}
	s.ok(s.returns("Close", bus.Close))
	n.awaitHealth("ErrClosed after Close", func(err error) bool { return errors.Is(err, herald.ErrClosed) })
}

// awaitHealth waits until Health is as it should be.
func (n *node) awaitHealth(what string, is func(error) bool) {
	n.s.Helper()
	for deadline := time.Now().Add(recovery); ; time.Sleep(5 * time.Millisecond) {
		var health error
		n.s.returns("Health", func() error {
			health = n.Health()
			return nil
		})
		if is(health) {
			return
		}
		if time.Now().After(deadline) {
			n.s.failf("Health is %v after %v; it must be %s", health, recovery, what)
		}
	}
}

// testOneReceiver begins two Receives at a time: one of them is refused, the
// other gets the packet that is published then.
func testOneReceiver(s *suite) {
	bus := s.network.Open()
	s.Cleanup(func() { s.returns("Close", bus.Close) })
	s.ok(bus.Subscribe(s.context(), "topic"))
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	type result struct {
		event herald.Event
		err   error
	}
	for i := range 20 {
		results := make(chan result, 2)
		for range 2 {
			go func() {
				e, err := bus.Receive(ctx)
				results <- result{e, err}
			}()
		}
		one := func() (r result) {
			s.returns("one of two Receives under way at once", func() error {
				r = <-results
				return nil
			})
			return r
		}
		if r := one(); !errors.Is(r.err, herald.ErrReceiving) {
			s.failf("of two Receives under way at once one returned %+v, %v", r.event, r.err)
		}
		s.ok(bus.Publish(s.context(), herald.Packet{Topic: "topic", Data: []byte(strconv.Itoa(i))}))
		if r := one(); r.err != nil || string(r.event.Packet.Data) != strconv.Itoa(i) {
			s.failf("beside one that was refused, a Receive returned %+v, %v, want packet %d", r.event, r.err, i)
		}
	}
}
