package hubtest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// The flood has twice as many bytes as may wait for a hub that does not receive.
const (
	floodBytes   = 2 * inboxBytes
	floodMessage = 64 << 10
	floodWindow  = 8 // how many messages of a sender may be undelivered while nobody is slow
	floodUser    = "flood"
)

const (
	// inboxBytes is how many bytes may wait for Receive of a Bus. It has the value
	// that the root package has.
	inboxBytes = 64 << 20

	// heapSlack is how much memory the process may use beside those.
	heapSlack = 32 << 20

	// brokerSlack is how much the broker may grow during the flood.
	brokerSlack = 200 << 20
)

// slow is the index of the slow hub.
const slow = hubs - 1

func testSlow(t *testing.T, broker Broker) {
	handlers, receive := newGate(), newGate()
	config := calm
	config.ProbeTimeout = time.Hour // or the slow hub may reset its Bus, and fail a Send of its own
	config.OnMessage = func(ctx context.Context, _ *herald.Conn, _ herald.Message) { handlers.pass(ctx) }
	// When the slow hub goes on, its client gets the whole inbox at once.
	config.QueueBytes, config.QueueMessages = 2*floodBytes, 1<<16
	c := newCluster(t, broker, hubs, config, func(i int, bus herald.Bus) herald.Bus {
		if i != slow {
			return bus
		}
		return &gatedBus{bus, receive}
	})
	t.Cleanup(func() { // so that a test that has failed ends too
		handlers.open()
		receive.open()
	})
	c.populate()
	var flooded []*device
	for _, n := range c.nodes {
		flooded = append(flooded, c.connect(n, floodUser, "device"))
	}
	c.stallHandlers(handlers)
	c.stallReceive(broker, receive, flooded)
}

// stallHandlers blocks OnMessage for all clients of the slow hub while messages are
// sent. All devices must get them.
func (c *cluster) stallHandlers(handlers *gate) {
	c.Helper()
	handlers.close()
	blocked := 0
	for _, d := range c.devices {
		if d.Node != c.nodes[slow].NodeID() {
			continue
		}
		blocked++
		if err := d.conn.Write(c.Context(), websocket.MessageText, []byte("wait")); err != nil {
			c.Fatal(err)
		}
	}
	c.await("handlers that block", func() error {
		if n := handlers.waiting.Load(); int(n) != blocked {
			return fmt.Errorf("%d of %d", n, blocked)
		}
		return nil
	})
	c.send(200, 0).wait()
	c.fence()
	total := c.settle()
	handlers.open()
	c.Logf("%d handlers blocked: %v", blocked, total)
	if total.Failed > 0 || total.Lost > 0 {
		c.Errorf("while handlers block: %v", total)
	}
	c.expectNoGaps(make([]int, hubs))
}

// stallReceive floods all hubs while the slow one does not receive.
func (c *cluster) stallReceive(broker Broker, receive *gate, flooded []*device) {
	c.Helper()
	before, brokerBefore := liveHeap(), servertest.ResidentMemory(c, broker.pids()...)
	receive.close()
	brokerPeak := c.flood(broker, flooded)
	stalled := liveHeap()
	receive.open()
	c.fence()
	c.awaitHealthy()
	total := c.settle()
	if len(broker.pids()) == 0 {
		before = liveHeap() // including what the broker keeps in this process
	}
	c.Logf("flood of %d MB: the slow hub held %d MB, the broker grew by %d MB from %d: %v; gaps of the hubs: %v",
		floodBytes>>20, (stalled-before)>>20, (brokerPeak-brokerBefore)>>20, brokerBefore>>20, total, c.gaps())
	if stalled-before > inboxBytes+heapSlack {
		c.Errorf("a hub that does not receive held %d MB of %d: where is the bound?", (stalled-before)>>20, floodBytes>>20)
	}
	if brokerPeak-brokerBefore > brokerSlack {
		c.Errorf("the broker grew by %d MB for a hub that does not receive", (brokerPeak-brokerBefore)>>20)
	}
	if total.Failed > 0 {
		c.Errorf("who sends suffers from a hub that does not receive: %v", total)
	}
	gaps := make([]int, hubs)
	gaps[slow] = c.gaps()[slow]
	c.expectNoGaps(gaps) // for the other hubs

	c.send(50, 0).wait()
	c.fence()
	if after := c.settle(); after.Failed > 0 || after.Lost > total.Lost {
		c.Errorf("when the slow hub has caught up: %v; before that: %v", after, total)
	}
	c.expectNoGaps(gaps)
}

// flood sends to the flooded devices from every hub, as fast as those on the other
// hubs receive. It returns the most memory that the broker used meanwhile.
func (c *cluster) flood(broker Broker, flooded []*device) (peak int64) {
	c.Helper()
	c.rounds++
	var sending, watching sync.WaitGroup
	done := make(chan struct{})
	watching.Go(func() {
		for {
			peak = max(peak, servertest.ResidentMemory(c, broker.pids()...))
			select {
			case <-time.After(20 * time.Millisecond):
			case <-done:
				return
			}
		}
	})
	records, errs := make([][]load.Record, hubs), make([]error, hubs)
	for i := range c.nodes {
		sending.Go(func() { records[i], errs[i] = c.floodFrom(i, flooded) })
	}
	sending.Wait()
	close(done)
	watching.Wait()
	for i := range c.nodes {
		c.records[senderName(c.rounds, i)] = records[i]
		if errs[i] != nil {
			c.Error(errs[i])
		}
	}
	return peak
}

// floodFrom sends the i-th hub's part of the flood, and returns its records.
func (c *cluster) floodFrom(i int, flooded []*device) (records []load.Record, err error) {
	sender, padding := senderName(c.rounds, i), make([]byte, floodMessage)
	taken := 0
	for n := range floodBytes / floodMessage / hubs {
		r := load.Send(context.Background(), c.nodes[i].Hub, sender, n, "u:"+floodUser, padding)
		if records = append(records, r); r.Err == "" {
			taken++
		}
		deadline := time.Now().Add(patience)
		for _, d := range flooded {
			for d.Node != c.nodes[slow].NodeID() && d.count(sender) < taken-floodWindow {
				if time.Now().After(deadline) {
					return records, fmt.Errorf("%v got %d of the first %d messages of %s, and no more within %v, while %s does not receive",
						&d.Device, d.count(sender), taken, sender, patience, c.nodes[slow].NodeID())
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	return records, nil
}

// liveHeap returns the number of reachable bytes on the heap.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // the contents of a sync.Pool survive the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A gate blocks callers of pass while it is closed.
type gate struct {
	waiting atomic.Int64 // callers that are blocked

	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
}

func newGate() *gate {
	g := &gate{opened: make(chan struct{})}
	close(g.opened)
	return g
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
}

// open opens the gate. It may be called twice.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

// pass waits until the gate is open or ctx is done.
func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A gatedBus is a Bus whose Receive passes a gate first.
type gatedBus struct {
	herald.Bus
	gate *gate
}

// Receive returns the next event, once the gate is open.
func (b *gatedBus) Receive(ctx context.Context) (herald.Event, error) {
	if err := b.gate.pass(ctx); err != nil {
		return herald.Event{}, err
	}
	return b.Bus.Receive(ctx)
}
