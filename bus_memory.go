package herald

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/faults"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/locallog"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/wake"
)

// A MemoryNetwork is a broker in memory. Its Buses see one another's packets,
// and no one else's. It serves a Hub that is alone, and tests of several Hubs.
// heraldtest.NewFaultyBus gives a test a Bus on it that can be cut off.
type MemoryNetwork struct {
	mu    sync.Mutex // above the mu of every Bus
	buses []*MemoryBus
	log   *locallog.Server // its mutex is above mu; nil until a Hub with a Retention comes
	key   []byte
}

// NewMemoryNetwork returns a network without Buses.
func NewMemoryNetwork() *MemoryNetwork { return &MemoryNetwork{} }

// Bus returns a new Bus on the network, one for each Hub. It must be closed.
func (n *MemoryNetwork) Bus() *MemoryBus {
	b := &MemoryBus{
		network: n,
		inbox:   newInbox(),
		topics:  make(map[string]struct{}),
		healed:  make(chan struct{}),
		wake:    wake.New(),
		quit:    make(chan struct{}),
	}
	close(b.healed)
	b.running.Go(b.run)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.buses = append(n.buses, b)
	return b
}

// A MemoryBus is a [Bus] on a MemoryNetwork. Its faults are heraldtest's to ask for.
type MemoryBus struct {
	network *MemoryNetwork
	inbox   *inbox.Inbox[Event]
	wake    wake.Signal // for run: packets are delayed
	quit    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	topics  map[string]struct{}
	delayed []delayedEvent // in the order of arrival
	delay   time.Duration
	losing  bool
	lost    time.Time     // when the first packet was lost whose loss is not reported yet
	healed  chan struct{} // closed while not cut off
	cut     bool
	closed  bool
}

// A delayedEvent is handed over when it is due.
type delayedEvent struct {
	event     Event
	published time.Time
	due       time.Time
}

var _ Bus = (*MemoryBus)(nil)

func init() {
	faults.OfBus = func(bus any) faults.Bus {
		b := bus.(*MemoryBus)
		return faults.Bus{Cut: b.cutOff, Heal: b.heal, Lose: b.lose, Delay: b.delayBy, Hand: b.handOver}
	}
}

var (
	errCut  = errors.New("herald: node is cut off")
	errLost = errors.New("herald: packets were lost")
)

// Publish hands packets to every subscribed Bus of the network.
func (b *MemoryBus) Publish(ctx context.Context, packets ...Packet) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	n := b.network
	n.mu.Lock() // one order for all
	defer n.mu.Unlock()
	if err := b.Health(); err == ErrClosed || err != nil && len(packets) > 0 {
		return fmt.Errorf("publish: %w", err)
	}
	for _, p := range packets {
		n.carry(p)
	}
	return nil
}

// carry hands a packet to every subscribed Bus. The caller holds n.mu.
func (n *MemoryNetwork) carry(p Packet) {
	now := time.Now()
	for _, to := range n.buses {
		to.arrive(p, now)
	}
}

// keep implements keeper.
func (b *MemoryBus) keep(_ context.Context, fences string, limits store.Limits) (*logs, error) {
	n := b.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.log == nil {
		n.key = []byte(rand.Text())
		n.log = locallog.New(limits.Segment, func(topic string, data []byte) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.carry(Packet{topic, data})
		})
	}
	return &logs{
		parts: []driver.Log{n.log.Log(fences, limits, b.Health)}, fences: []string{fences}, key: n.key,
		renew: func() {}, close: func() {},
	}, nil
}

func (b *MemoryBus) state() (closed, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed, b.cut
}

// arrive takes a packet that the network carries, and copies it.
func (b *MemoryBus) arrive(p Packet, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.topics[p.Topic]; !ok || b.cut || b.closed {
		return
	}
	if b.losing {
		if b.lost.IsZero() {
			b.lost = now
		}
		return
	}
	p.Data = slices.Clone(p.Data)
	e := delayedEvent{Event{Kind: EventPacket, Packet: p}, now, now.Add(b.delay)}
	if b.delay == 0 && len(b.delayed) == 0 {
		b.hand(e)
		return
	}
	b.delayed = append(b.delayed, e)
	b.wake.Set()
}

func (b *MemoryBus) hand(e delayedEvent) {
	b.inbox.Push([]Event{e.event}, Event{Kind: EventDown, Since: e.published, Err: errInboxFull})
}

// run hands over what was delayed, when it is due.
func (b *MemoryBus) run() {
	var due <-chan time.Time
	for {
		select {
		case <-b.wake:
		case <-due:
		case <-b.quit:
			return
		}
		due = nil
		if next := b.handDue(); next > 0 {
			due = time.After(next)
		}
	}
}

// handDue hands over what is due, and returns how long the next has to wait.
func (b *MemoryBus) handDue() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, e := range b.delayed {
		if wait := time.Until(e.due); wait > 0 {
			b.delayed = slices.Delete(b.delayed, 0, i)
			return wait
		}
		b.hand(e)
	}
	b.delayed = nil
	return 0
}

// Subscribe subscribes to topics. While the node is cut off it waits.
func (b *MemoryBus) Subscribe(ctx context.Context, topics ...string) error {
	err := b.change(ctx, topics, func(topic string) { b.topics[topic] = struct{}{} })
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Unsubscribe is the opposite of Subscribe, and waits in the same way.
func (b *MemoryBus) Unsubscribe(ctx context.Context, topics ...string) error {
	err := b.change(ctx, topics, func(topic string) { delete(b.topics, topic) })
	if err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	return nil
}

// change applies f to topics once the node is not cut off.
func (b *MemoryBus) change(ctx context.Context, topics []string, f func(string)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b.mu.Lock()
		closed, cut, healed := b.closed, b.cut, b.healed
		if !closed && !cut {
			for _, topic := range topics {
				f(topic)
			}
		}
		b.mu.Unlock()
		if closed {
			return ErrClosed
		}
		if !cut || len(topics) == 0 {
			return nil
		}
		select {
		case <-healed:
		case <-b.quit:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %w", ErrBusDown, ctx.Err(), errCut)
		}
	}
}

// handOver hands a packet over behind those that wait for Receive.
func (b *MemoryBus) handOver(topic string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hand(delayedEvent{event: Event{Kind: EventPacket, Packet: Packet{topic, slices.Clone(data)}}, published: time.Now()})
}

// Receive returns the next event.
func (b *MemoryBus) Receive(ctx context.Context) (Event, error) { return b.inbox.Receive(ctx) }

// Health returns an error if the Bus is closed or cut off.
func (b *MemoryBus) Health() error {
	switch closed, cut := b.state(); {
	case closed:
		return ErrClosed
	case cut:
		return fmt.Errorf("%w: %w", ErrBusDown, errCut)
	}
	return nil
}

// Reset reports a gap. A node that is cut off stays so.
func (b *MemoryBus) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reset(errReset)
}

func (b *MemoryBus) reset(why error) {
	b.down(why)
	b.losing = false
	if !b.cut {
		b.inbox.Restore()
	}
}

// down reports a gap that begins with the oldest packet that has not been
// handed over and never will be.
func (b *MemoryBus) down(why error) {
	since := time.Now()
	if len(b.delayed) > 0 {
		since = b.delayed[0].published
	}
	if !b.lost.IsZero() && b.lost.Before(since) {
		since = b.lost
	}
	b.delayed, b.lost = nil, time.Time{}
	b.inbox.Down(Event{Kind: EventDown, Since: since, Err: why})
}

// heraldtest.FaultyBus describes the faults.

func (b *MemoryBus) cutOff() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.cut && !b.closed {
		b.cut, b.healed = true, make(chan struct{})
		b.down(errCut)
	}
}

func (b *MemoryBus) lose(lose bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.losing = lose
}

func (b *MemoryBus) delayBy(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delay = d
}

func (b *MemoryBus) heal() {
	b.mu.Lock()
	healed, cut := b.healed, b.cut
	b.cut, b.delay = false, 0
	if cut || b.losing || !b.lost.IsZero() {
		b.reset(errLost) // after a Cut the gap is open, and has its cause
	}
	b.mu.Unlock()
	if cut {
		close(healed)
	}
}

// Close takes the Bus off the network and waits for its goroutine.
func (b *MemoryBus) Close() error {
	n := b.network
	n.mu.Lock()
	n.buses = slices.DeleteFunc(n.buses, func(other *MemoryBus) bool { return other == b })
	n.mu.Unlock()
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	b.delayed = nil
	b.mu.Unlock()
	if first {
		close(b.quit)
	}
	b.running.Wait()
	b.inbox.Close(ErrClosed)
	return nil
}

// Bounds of what waits for Receive. Beyond them packets are dropped, between
// an EventDown and an EventRestored.
const (
	inboxEvents = 1 << 18
	inboxBytes  = 64 << 20
)

// eventSize is about what an Event takes besides its bytes.
const eventSize = 128

// newInbox returns the queue between a Bus and Receive.
func newInbox() *inbox.Inbox[Event] {
	return inbox.New(inbox.Config[Event]{
		Size:     func(e Event) int { return eventSize + len(e.Packet.Data) },
		MaxItems: inboxEvents,
		MaxBytes: inboxBytes,
		Restored: Event{Kind: EventRestored},
		Refusal:  ErrReceiving,
	})
}

// errInboxFull is why packets that nobody received were dropped.
var errInboxFull = errors.New("herald: Receive is called too slowly")

// errReset is the cause of a gap that Reset made.
var errReset = errors.New("herald: bus was reset")
