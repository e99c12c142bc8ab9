// Package inbox is the bounded queue between the goroutine of a Bus that reads from
// the broker and the caller of Receive. It drops what it has no room for, so that the
// broker is never blocked, and reports the loss at its place in the queue.
package inbox

import (
	"context"
	"sync"

	"github.com/heraldgo/herald/internal/wake"
)

// A Config bounds an Inbox.
type Config[E any] struct {
	Size     func(E) int // bytes of an event
	MaxItems int
	MaxBytes int
	Restored E // the event that ends a gap

	// Earlier reports whether a loss began before another, of two events given to Lost. A Bus
	// that does not call Lost needs none.
	Earlier func(a, b E) bool

	// Refusal is the error of a Receive that is called while another waits.
	Refusal error
}

// An Inbox queues events. Gaps do not nest: however many reasons there are for one,
// the receiver sees one event that begins it and one Restored.
//
// Besides that gap, which concerns everything, each part of what is received may have
// a gap of its own (DownPart, RestorePart). While the gap of everything is open, the
// receiver hears nothing of parts. Gaps of parts that are still open when it ends
// begin anew after its Restored.
//
// All methods may be called concurrently. Receive is refused while another one waits.
type Inbox[E any] struct {
	config Config[E]
	ready  wake.Signal // holds one token while events may be waiting
	quit   chan struct{}

	mu      sync.Mutex
	queue   []E // events wait from head on
	head    int
	bytes   int
	waiting bool            // a Receive waits
	down    bool            // between Down and Restore
	full    bool            // dropping, until the queue is half empty
	late    bool            // full, and Lost has queued the last event all the same
	mark    bool            // the last event of the queue is a Restored
	parts   map[int]part[E] // between DownPart and RestorePart
	closed  error           // what Receive returns after Close
}

// A part is the gap of a part.
type part[E any] struct{ down, restored E }

// New returns an empty Inbox.
func New[E any](config Config[E]) *Inbox[E] {
	return &Inbox[E]{config: config, ready: wake.New(), quit: make(chan struct{})}
}

// Push queues events. It keeps them, but not the slice. If they do not fit, they are
// all dropped, and so is everything that comes until the receiver has caught up. lost
// is the event that begins such a gap. Push returns whether the events are in the
// queue.
func (b *Inbox[E]) Push(events []E, lost E) bool {
	b.mu.Lock()
	kept := b.push(events, lost)
	b.mu.Unlock()
	b.ready.Set()
	return kept
}

func (b *Inbox[E]) push(events []E, lost E) bool {
	if b.full || b.closed != nil || len(events) == 0 {
		return false
	}
	bytes := 0
	for _, e := range events {
		bytes += b.config.Size(e)
	}
	if !b.fits(len(events), bytes) {
		b.overflow(lost)
		return false
	}
	b.queue = append(b.queue, events...)
	b.bytes += bytes
	b.mark = false
	return true
}

func (b *Inbox[E]) fits(items, bytes int) bool {
	return len(b.queue)-b.head+items <= b.config.MaxItems && b.bytes+bytes <= b.config.MaxBytes
}

func (b *Inbox[E]) overflow(lost E) {
	b.begin(lost)
	b.full = true
	b.relieve()
}

// Down begins a gap with the event e. If a gap is open, e is left out: the event of
// the earlier gap has an earlier time, and covers it.
func (b *Inbox[E]) Down(e E) {
	b.mu.Lock()
	b.begin(e)
	b.down = true
	b.mu.Unlock()
	b.ready.Set()
}

// Restore ends the gap that Down began.
func (b *Inbox[E]) Restore() {
	b.mu.Lock()
	if b.down {
		b.down = false
		b.end()
	}
	b.mu.Unlock()
	b.ready.Set()
}

// Lost reports a loss that is over: a gap that begins with e, and ends. If a gap is
// open, it ends before e and goes on as the new one, because e may begin earlier or
// say more. If there is no room, e is queued all the same. Then the gap lasts until the
// receiver has caught up, and begins with the earliest of the losses that are reported
// until then.
func (b *Inbox[E]) Lost(e E) {
	b.mu.Lock()
	room := b.fits(2, b.config.Size(e)+b.config.Size(b.config.Restored))
	switch last := len(b.queue) - 1; {
	case b.closed != nil:
	case b.late:
		if b.config.Earlier(e, b.queue[last]) {
			b.pop(last)
			b.append(e)
		}
	case !room || b.covered():
		if b.covered() {
			b.append(b.config.Restored)
		}
		b.append(e)
		b.mark = false
		if !room {
			b.full, b.late = true, true
			b.relieve()
		}
	default:
		b.append(e)
		b.end()
	}
	b.mu.Unlock()
	b.ready.Set()
}

// DownPart begins the gap of a part with the event down; restored is to end it. down
// is left out if a gap is open that covers it. A link that flaps while nobody
// receives must not fill the queue: if down does not fit, the gap concerns
// everything, and begins with lost.
func (b *Inbox[E]) DownPart(i int, down, restored, lost E) {
	b.mu.Lock()
	if _, open := b.parts[i]; !open && b.closed == nil {
		if b.parts == nil {
			b.parts = make(map[int]part[E])
		}
		b.parts[i] = part[E]{down, restored}
		bytes := b.config.Size(down) + b.config.Size(restored)
		switch {
		case b.covered():
		case b.fits(2, bytes):
			b.append(down)
			b.mark = false
		default:
			b.overflow(lost)
		}
	}
	b.mu.Unlock()
	b.ready.Set()
}

// RestorePart ends the gap that DownPart began, if there is one.
func (b *Inbox[E]) RestorePart(i int) {
	b.mu.Lock()
	if p, open := b.parts[i]; open {
		delete(b.parts, i)
		if !b.covered() {
			b.append(p.restored)
			b.mark = false
		}
	}
	b.mu.Unlock()
	b.ready.Set()
}

// covered reports whether further gaps are not reported: the gap of everything is open,
// or the Inbox is closed.
func (b *Inbox[E]) covered() bool { return b.down || b.full || b.closed != nil }

// begin queues e unless a gap is open. If the receiver has not yet seen the end of
// the last gap, that is opened again, so that a flapping link does not fill the
// queue.
func (b *Inbox[E]) begin(e E) {
	switch {
	case b.covered():
	case b.mark:
		b.pop(len(b.queue) - 1)
		b.mark = false
	default:
		b.append(e)
	}
}

// end queues Restored if there is no reason left for a gap of everything, and then
// the events that begin the gaps of parts.
func (b *Inbox[E]) end() {
	if b.covered() {
		return
	}
	b.append(b.config.Restored)
	for _, p := range b.parts {
		b.append(p.down)
	}
	b.mark = len(b.parts) == 0
}

// relieve takes events again once the queue is half empty.
func (b *Inbox[E]) relieve() {
	if b.full && len(b.queue)-b.head <= b.config.MaxItems/2 && b.bytes <= b.config.MaxBytes/2 {
		b.full, b.late = false, false
		b.end()
	}
}

func (b *Inbox[E]) append(e E) {
	b.queue = append(b.queue, e)
	b.bytes += b.config.Size(e)
}

// pop removes queue[i], which must be the first or the last event.
func (b *Inbox[E]) pop(i int) E {
	var none E
	e := b.queue[i]
	b.queue[i] = none
	b.bytes -= b.config.Size(e)
	if i == len(b.queue)-1 {
		b.queue = b.queue[:i]
	}
	return e
}

// Receive returns the next event. It waits for one until ctx is done, and then
// returns the error of ctx, or until Close, and then returns that of Close. While
// another Receive waits it takes nothing, and returns Config.Refusal at once.
func (b *Inbox[E]) Receive(ctx context.Context) (E, error) {
	for waited := false; ; waited = true {
		e, ok, err := b.next(waited)
		if ok || err != nil {
			return e, err
		}
		select {
		case <-b.ready:
		case <-b.quit:
		case <-ctx.Done():
			b.mu.Lock()
			b.waiting = false
			b.mu.Unlock()
			return e, ctx.Err()
		}
	}
}

// keep is how many events an empty queue keeps memory for.
const keep = 1 << 10

// next returns the next event, or notes that its caller waits for one. waited says
// whether the caller has waited before.
func (b *Inbox[E]) next(waited bool) (e E, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return e, false, b.closed
	}
	if b.waiting && !waited {
		return e, false, b.config.Refusal
	}
	b.waiting = b.head == len(b.queue)
	if b.waiting {
		return e, false, nil
	}
	e = b.pop(b.head)
	if b.head >= len(b.queue) { // it was the last
		b.mark = false
		b.queue, b.head = b.queue[:0], 0
		if cap(b.queue) > keep {
			b.queue = nil
		}
	} else if b.head++; b.head > keep && b.head > len(b.queue)/2 {
		n := copy(b.queue, b.queue[b.head:])
		clear(b.queue[n:])
		b.queue, b.head = b.queue[:n], 0
	}
	b.relieve()
	return e, true, nil
}

// Close empties the Inbox; Receive returns err from now on. It may be called
// twice.
func (b *Inbox[E]) Close(err error) {
	b.mu.Lock()
	first := b.closed == nil
	if first {
		b.closed = err
		b.queue, b.head, b.bytes = nil, 0, 0
	}
	b.mu.Unlock()
	if first {
		close(b.quit)
	}
}
