package driver_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/memlog"
)

var topics = []string{"a0", "b0", "c0", "d1", "e1"}

const hubs = 3

// A sparing Log may leave out what is to be read ahead.
type sparing struct{ driver.Log }

func (s sparing) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (history.Excerpt, bool, error) {
	return s.Log.Read(ctx, known, epoch, offsets, more[:rand.IntN(len(more)+1)])
}

// A world is three nodes, devices that come and go, and senders.
type world struct {
	t       *testing.T
	servers [partitions]*memlog.Server
	hubs    [hubs]*hub
	steps   atomic.Int64
	names   atomic.Int64
	running atomic.Bool
	length  time.Duration // how long a run lasts, and how long it may then take until all is well
	hasty   bool          // a phone that settles ends when it is live
	phones  []*phone

	mu   sync.Mutex
	sent []message // acknowledged messages
}

// A message is one Send that returned nil.
type message struct {
	n      int
	topics []string
	step   int64 // the step at which it began
}

// A phone is one device: its client, and what it has seen.
type phone struct {
	w      *world
	name   string
	client device.Client
	member map[string]int64 // by topic: the step since which the phone certainly belongs to it
	had    map[int]bool
	told   [partitions]int64
	tolds  int
	last   [partitions]history.Point
	live   [partitions]bool // of the present connection
}

func newWorld(t *testing.T, limits store.Limits) *world {
	w := &world{t: t, servers: newServers(limits), length: 15 * time.Second}
	for i := range w.hubs {
		w.hubs[i] = newHub(t, w.servers, func(c *driver.Config) {
			for i := range c.Partitions {
				c.Partitions[i].Log = sparing{c.Partitions[i].Log}
			}
		})
	}
	w.running.Store(true)
	return w
}

// someTime sleeps for up to most.
func someTime(most time.Duration) { time.Sleep(rand.N(most)) }

// send sends until the world stops.
func (w *world) send(h *hub) {
	for w.running.Load() {
		someTime(60 * time.Millisecond)
		m := message{n: int(w.names.Add(1)), step: w.steps.Add(1)}
		m.topics = topics[rand.IntN(len(topics)):][:1]
		if partitionOf(m.topics[0]) == 0 && rand.IntN(3) == 0 {
			m.topics = topics[:3]
		}
		draft := store.Draft{Topics: m.topics, Body: body(m.n), Unkept: rand.IntN(8) == 0}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := h.driver.Append(ctx, partitionOf(m.topics[0]), draft)
		cancel()
		if err == nil && !draft.Unkept {
			w.mu.Lock()
			w.sent = append(w.sent, m)
			w.mu.Unlock()
		}
	}
}

// roam makes a phone come and go until the world stops.
func (p *phone) roam(sleep time.Duration) {
	for p.w.running.Load() {
		p.visit(p.w.hubs[rand.IntN(hubs)], rand.N(3*time.Second), false)
		someTime(sleep)
	}
}

// visit makes one connection. If it settles, it stays until it is live.
func (p *phone) visit(h *hub, stay time.Duration, settles bool) (live bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := h.begin(ctx, &p.w.steps, &p.client, fmt.Sprint("c", p.w.names.Add(1)), slices.Collect(maps.Keys(p.member))...)
	if err != nil {
		return false
	}
	defer c.end()
	began := p.w.steps.Load() // all topics are subscribed to
	p.live = [partitions]bool{}
	end := time.After(stay)
	for first := true; ; {
		for f, ok := c.next(); ok; f, ok = c.next() {
			p.receive(f)
			if first {
				for topic, since := range p.member {
					if since == 0 {
						p.member[topic] = began
					}
				}
				first = false
			}
			if rand.IntN(4) == 0 {
				someTime(20 * time.Millisecond)
			}
		}
		if rand.IntN(20) == 0 && !settles {
			p.join(ctx, c)
		}
		if settles && p.w.hasty && p.live == [partitions]bool{true, true} {
			return true
		}
		select {
		case <-c.wake:
			if c.gone() {
				return false
			}
		case <-end:
			return p.live == [partitions]bool{true, true}
		}
	}
}

// join makes a phone belong to one more topic, if that can be subscribed to.
func (p *phone) join(ctx context.Context, c *conn) {
	topic := topics[rand.IntN(len(topics))]
	if _, ok := p.member[topic]; ok || c.Holds(topic) {
		return
	}
	if c.join(ctx, topic) == nil {
		p.member[topic] = p.w.steps.Add(1)
	}
}

// receive takes a frame, and checks the order.
func (p *phone) receive(f stamped) {
	message, missing := p.client.Receive(f.Frame)
	if missing {
		p.tolds++
		p.told[f.Partition] = max(p.told[f.Partition], f.step)
	}
	if f.Kind == device.Welcome {
		copy(p.last[:], f.Positions[:])
		return
	}
	if f.Verdict != device.NoVerdict {
		p.live[f.Partition] = true
	}
	if f.At.Epoch != 0 {
		last := &p.last[f.Partition]
		if f.At.Epoch == last.Epoch && (f.At.Offset < last.Offset || f.Kind == device.Message && f.At.Offset == last.Offset) {
			p.w.t.Errorf("%s: a frame at %v after one at %v", p.name, f.At, *last)
		}
		*last = f.At
	}
	if message && f.At.Epoch != 0 {
		n := number(f.Body)
		if p.had[n] {
			p.w.t.Errorf("%s: message %d twice", p.name, n)
		}
		p.had[n] = true
	}
}

// check checks that the phone has everything that it must have, or was told.
func (p *phone) check() {
	for _, m := range p.w.sent {
		partition := partitionOf(m.topics[0])
		due := slices.ContainsFunc(m.topics, func(topic string) bool {
			since, ok := p.member[topic]
			return ok && since != 0 && since <= m.step
		})
		if due && !p.had[m.n] && p.told[partition] < m.step {
			p.w.t.Errorf("%s lacks message %d of step %d, and was told at %d", p.name, m.n, m.step, p.told[partition])
		}
	}
}

// reconnect brings up links that are down, until the world stops.
func (w *world) reconnect(h *hub) {
	for w.running.Load() {
		someTime(300 * time.Millisecond)
		for _, l := range h.links {
			if rand.IntN(2) == 0 {
				l.Up()
			}
		}
	}
}

// mild breaks links, by which nothing is lost.
func (w *world) mild() {
	for w.running.Load() {
		someTime(400 * time.Millisecond)
		l := w.hubs[rand.IntN(hubs)].links[rand.IntN(partitions)]
		if rand.IntN(3) > 0 {
			l.Cut(rand.IntN(4))
		} else {
			l.Break(memlog.Faults{Delay: rand.N(150*time.Millisecond) + 1})
		}
	}
}

var errFull = errors.New("OOM")

// rough makes everything go wrong.
func (w *world) rough() {
	for w.running.Load() {
		someTime(700 * time.Millisecond)
		s := w.servers[rand.IntN(partitions)]
		l := w.hubs[rand.IntN(hubs)].links[rand.IntN(partitions)]
		switch rand.IntN(10) {
		case 0:
			s.Restart(memlog.Data(rand.IntN(3)))
		case 1:
			s.Flush()
		case 2, 3:
			s.Save()
		case 4:
			l.Deafen()
			someTime(time.Second)
			l.Cut(4)
		case 5:
			l.Break(memlog.Faults{Refuse: errFull})
			someTime(time.Second)
			l.Break(memlog.Faults{})
		case 6:
			l.Break(memlog.Faults{Forget: true})
			someTime(500 * time.Millisecond)
			l.Break(memlog.Faults{Delay: rand.N(time.Second) + 1})
		case 7:
			l.Break(memlog.Faults{Delay: rand.N(5*time.Second) + 1})
		default:
			l.Break(memlog.Faults{})
		}
	}
}

// run runs the world with the faults for a while, ends them, and checks the phones.
func (w *world) run(sleep time.Duration, faults ...func()) {
	var all sync.WaitGroup
	for i, h := range w.hubs {
		all.Go(func() { w.send(h) })
		all.Go(func() { w.reconnect(h) })
		for j := range 2 {
			p := &phone{w: w, name: fmt.Sprintf("phone %d.%d", i, j), member: make(map[string]int64), had: make(map[int]bool)}
			for _, topic := range topics {
				if rand.IntN(3) == 0 {
					p.member[topic] = 0
				}
			}
			p.member[topics[rand.IntN(len(topics))]] = 0
			w.phones = append(w.phones, p)
			all.Go(func() { p.roam(sleep) })
		}
	}
	for _, f := range faults {
		all.Go(f)
	}
	time.Sleep(w.length)
	w.running.Store(false)
	all.Wait()
	for _, h := range w.hubs {
		for _, l := range h.links {
			l.Break(memlog.Faults{})
			l.Cut(4) // it may be deaf
			l.Up()
		}
	}
	if !w.hasty {
		time.Sleep(w.length)
	}
	for i, p := range w.phones {
		// It settles twice, so that a Gap the first time does not hide later
		// losses.
		w.settle(p, i)
		if !w.settle(p, i+1) {
			w.t.Errorf("%s never goes live", p.name)
		}
		p.check()
	}
}

// settle makes a phone become live on one of the nodes.
func (w *world) settle(p *phone, hub int) bool {
	if !w.hasty {
		return p.visit(w.hubs[hub%hubs], 10*time.Second, true)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if p.visit(w.hubs[hub%hubs], 20*time.Second, true) {
			return true
		}
	}
	return false
}

// Whatever happens, a device gets each message once and in order, or is told that
// it may have missed some.
func TestRandom(t *testing.T) {
	var had, tolds int
	for range runs(t) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, store.Limits{Segment: 64, Age: 4_000, Bytes: 1 << 20})
			w.run(2*time.Second, w.rough, w.mild)
			for _, p := range w.phones {
				had, tolds = had+len(p.had), tolds+p.tolds
			}
		})
	}
	t.Logf("%d messages received, %d times told", had, tolds)
	if had == 0 || tolds == 0 {
		t.Error("that proves nothing")
	}
}

// Devices come and go, links break and calls are slow, but the log loses nothing.
// Nobody is told that anything may be missing.
func TestCalm(t *testing.T) {
	for range runs(t) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, store.Limits{Segment: 64, Age: 1 << 40, Bytes: 1 << 30})
			w.run(time.Second, w.mild)
			for _, p := range w.phones {
				if p.tolds > 0 {
					t.Errorf("%s was told %d times", p.name, p.tolds)
				}
			}
		})
	}
}

func runs(t *testing.T) int {
	if testing.Short() {
		return 2
	}
	return 10
}
