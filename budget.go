package herald

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/wake"
)

// A budget bounds what waits in the queues of all Conns of this node.
//
// Queues charge it with what they hold, in steps, and with nothing while they are small.
// A message that waits in many queues is charged by each, and is in memory once. So the
// charges say no more than that it is time to look. Then the goroutine that made the last
// charge counts what is there, each message once, and others that charge meanwhile wait
// for it. A goroutine for this alone would come too late: on a busy machine gigabytes are
// queued before its turn.
type budget struct {
	limit int64 // 0 if there is none

	in    atomic.Int64 // all bytes that were ever charged
	out   atomic.Int64 // those of them that were given back
	next  atomic.Int64 // look when in has reached this
	tight atomic.Bool  // volatile messages are not queued

	wake wake.Signal // for watchQueues

	mu     sync.Mutex // held by the goroutine that looks
	doomed []*Conn    // to be killed by watchQueues, because that may do I/O
	excess int64      // what was held when queues were relieved; 0 once that is logged
}

const (
	// frameCost is what a frame takes besides its bytes: its place in a queue, the
	// envelope around it, and what memory is rounded up by.
	frameCost = 96

	// smallQueue is what a queue may hold without a charge, because all queues
	// share the counters. It is less than an idle Conn takes.
	smallQueue = 4 << 10
)

func (b *budget) init(limit int64) {
	b.limit = max(limit, 0)
	b.wake = wake.New()
	b.next.Store(b.low())
	if b.limit == 0 {
		b.next.Store(math.MaxInt64)
	}
}

// low is the level down to which full queues are relieved, and above which volatile
// messages are dropped.
func (b *budget) low() int64 { return b.limit - b.limit/8 }

// change adds n to the charges, or gives back -n if n is negative. It returns true if it
// is time to look.
func (b *budget) change(n int) bool {
	if n < 0 {
		b.out.Add(int64(-n))
	}
	return n > 0 && b.in.Add(int64(n)) >= b.next.Load()
}

// cost is what the queue's frames take, with their overhead.
func (q *queue) cost() int { return q.bytes + q.size()*frameCost }

// outgrown reports whether the queue has grown so far that a charge is due.
func (q *queue) outgrown() bool { return q.cost() >= q.charged+smallQueue }

// settle sets the queue's charge to its cost, and returns the change, which the caller
// passes to budget.change.
func (q *queue) settle() (change int) {
	cost := q.cost()
	if cost < smallQueue {
		cost = 0
	}
	change = cost - q.charged
	q.charged = cost
	return change
}

// look counts what waits in the queues if that may have become too much. If it has, the
// fullest queues are relieved. look does no I/O.
func (h *Hub) look() {
	b := &h.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.in.Load() >= b.next.Load() { // else another goroutine has looked meanwhile
		h.lookAgain()
	}
}

// lookAgain does what look does, even if that is not due. The caller holds budget.mu.
func (h *Hub) lookAgain() {
	b := &h.budget
	in := b.in.Load()
	held := in - b.out.Load()
	if held > b.low() {
		held = h.relieve()
	}
	tight := held > b.low()
	b.tight.Store(tight)
	// Until in reaches next, held cannot grow by more than this.
	b.next.Store(in + max(b.low()-held, b.limit/16))
	if tight || len(b.doomed) > 0 || b.excess > 0 {
		b.wake.Set()
	}
}

// watchQueues kills Conns and logs, so that those who look need not wait for that. While
// volatile messages are dropped it also looks again, because nobody else may.
func (h *Hub) watchQueues(ctx context.Context) {
	b := &h.budget
	if b.limit == 0 {
		return
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	told := int64(0) // on clock
	took := time.Duration(0)
	for {
		timed := false
		select {
		case <-b.wake:
		case <-timer.C:
			timed = true
		case <-ctx.Done():
			return
		}
		b.mu.Lock()
		if timed { // look here rather than lower next, so that no one who queues has to
			began := clock.Now()
			h.lookAgain()
			took = time.Duration(clock.Now() - began)
		}
		doomed, excess := b.doomed, b.excess
		b.doomed, b.excess = nil, 0
		b.mu.Unlock()
		for _, c := range doomed {
			c.kill(ErrTooSlow)
		}
		if excess > 0 {
			if told == 0 || clock.Now()-told > int64(time.Minute) {
				h.config.Logger.Warn("herald: more than MaxQueuedBytes waits for clients; the fullest queues give up theirs", slog.Int64("bytes", excess))
			}
			told = clock.Now()
		}
		timer.Reset(time.Hour)
		if b.tight.Load() {
			timer.Reset(max(100*time.Millisecond, 10*took)) // a million small messages take half a second
		}
	}
}

// relieve counts what waits. If that is more than the limit, the fullest queues give up
// theirs until no more than low is left. It returns how much waits then.
func (h *Hub) relieve() (held int64) {
	b := &h.budget
	held, refs := h.weigh()
	if held <= b.limit {
		return held
	}
	b.excess = held
	shares := h.shares(refs)
	for held > b.low() && len(shares) > 0 {
		last := len(shares) - 1
		s := shares[last]
		shares = shares[:last]
		for _, f := range s.c.shed() {
			if refs[f.end]--; refs[f.end] == 0 {
				held -= int64(f.cost)
			}
		}
		// Its queue may still be fuller than the next one.
		if left := shareOf(s.c.appendWaiting(nil), refs); left > 0 && (left < s.size || s.c.isClosing()) {
			i, _ := slices.BinarySearchFunc(shares, left+1, func(s share, size int64) int { return cmp.Compare(s.size, size) })
			shares = slices.Insert(shares, i, share{s.c, left})
		}
	}
	held, _ = h.weigh()
	return held
}

// A waiting is a frame in a queue, or what the queue's owner has taken. Frames with their
// end in one place are one frame in memory.
type waiting struct {
	end  *byte
	cost int
}

// weigh returns how much waits in all queues, each frame counted once, and in how many
// queues each frame is.
func (h *Hub) weigh() (held int64, refs map[*byte]int) {
	refs = make(map[*byte]int)
	var frames []waiting
	for _, c := range h.holders() {
		frames = c.appendWaiting(frames[:0])
		for _, f := range frames {
			if refs[f.end]++; refs[f.end] == 1 {
				held += int64(f.cost)
			}
		}
	}
	return held, refs
}

// holders returns all Conns that may have something in their queue.
func (h *Hub) holders() []*Conn {
	closing := h.closing.list()
	open := h.index.appendConns(nil, topicEveryone)
	return append(closing, slices.DeleteFunc(open, (*Conn).isClosing)...)
}

// A share is what a Conn's queue holds. Of a frame that is in several queues, each has a
// part.
type share struct {
	c    *Conn
	size int64 // in parts of a byte, because a small message may be in thousands of queues
}

func shareOf(frames []waiting, refs map[*byte]int) (size int64) {
	for _, f := range frames {
		size += int64(f.cost) << 16 / int64(max(refs[f.end], 1))
	}
	return size
}

// shares returns the Conns whose queues hold something, the fullest last.
func (h *Hub) shares(refs map[*byte]int) (shares []share) {
	var frames []waiting
	for _, c := range h.holders() {
		frames = c.appendWaiting(frames[:0])
		if size := shareOf(frames, refs); size > 0 {
			shares = append(shares, share{c, size})
		}
	}
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(a.size, b.size) })
	return shares
}

func (c *Conn) appendWaiting(dst []waiting) []waiting {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.appendUnderWay(c.queue.appendWaiting(dst, c.queue.frames.Len()))
}

func (q *queue) appendUnderWay(dst []waiting) []waiting {
	if n := len(q.rest); n > 0 && !q.doomed {
		dst = append(dst, waiting{&q.rest[n-1], q.outBytes + frameCost})
	}
	return dst
}

// appendWaiting appends the first n frames that nobody has taken.
func (q *queue) appendWaiting(dst []waiting, n int) []waiting {
	for i := range n {
		dst = append(dst, waiting{q.end(i), len(q.frames.At(i).frame) + frameCost})
	}
	return dst
}

// ends returns the last bytes of the first n frames, which tell them apart.
func (q *queue) ends(n int) []*byte {
	ends := make([]*byte, n)
	for i := range ends {
		ends[i] = q.end(i)
	}
	return ends
}

// end returns the last byte of the i-th frame.
func (q *queue) end(i int) *byte {
	f := q.frames.At(i).frame
	return &f[len(f)-1]
}

// shed makes the Conn give up what waits in its queue, and returns that. With DropOldest
// it is the older half; otherwise it is all, and the Conn is closed. A closing Conn that
// has only what its owner has taken gives that up with its socket: it is doomed.
func (c *Conn) shed() (given []waiting) {
	h := c.hub
	c.mu.Lock()
	q := &c.queue
	n := q.frames.Len()
	dropped := 0
	switch {
	case c.state >= connClosing && n == 0:
		given = q.appendUnderWay(nil)
		q.doomed = true
		c.mu.Unlock()
		h.budget.doomed = append(h.budget.doomed, c)
		return given
	case h.config.DropOldest && n > 0 && !c.state.closing():
		given = q.giveUp((n + 1) / 2)
		dropped = len(given)
	default:
		given, dropped = q.appendWaiting(nil, n), q.messages()
		q.drop(n)
	}
	if q.frames.Len() == 0 {
		q.forget()
	}
	change := q.settle()
	closing := c.state.closing() || h.config.DropOldest && n > 0
	c.mu.Unlock()
	h.budget.change(change)
	h.stats.droppedBudget.Add(uint64(dropped))
	if !closing {
		c.tooSlow(&h.stats.overBudget)
	}
	return given
}

// A connSet is a set of Conns.
type connSet struct {
	mu  sync.Mutex
	set map[*Conn]struct{}
}

func (s *connSet) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[c] = struct{}{}
}

func (s *connSet) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.set, c)
}

func (s *connSet) list() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.set))
}
