package herald

import (
	"bytes"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/loan"
	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/wake"
)

// writers are the few goroutines that write to all plain TCP sockets. Each
// has a list of Conns that have something to write; while it is busy,
// messages pile up in their queues and share the next system call.
type writers struct {
	all []*writer
	wg  sync.WaitGroup
}

type writer struct {
	mu     sync.Mutex
	list   []*Conn
	closed bool

	wake wake.Signal // for run

	// Used by run alone.

	turn []*Conn
	raw  rawio.Writer
	buf  []byte

	now int64 // on clock: when the turn began

	bytes   atomic.Uint64
	written atomic.Uint64 // messages; each writer counts its own, because a shared counter would slow them all
}

func newWriters(n int) *writers {
	ws := &writers{}
	for range n {
		w := &writer{wake: wake.New(), buf: make([]byte, 0, flushSize)}
		ws.all = append(ws.all, w)
		ws.wg.Go(w.run)
	}
	return ws
}

// few is how many Conns the first writer has on its list before others are woken: to wake
// one costs as much as some writes.
const few = 16

// push puts a Conn that a writer owns on a list.
func (ws *writers) push(c *Conn) {
	if !ws.all[0].push(c, few) {
		ws.all[c.counter%uint64(len(ws.all))].push(c, math.MaxInt)
	}
}

// push returns false if there are limit Conns on the list.
func (w *writer) push(c *Conn, limit int) bool {
	w.mu.Lock()
	n := len(w.list)
	if n < limit {
		w.list = append(w.list, c)
	}
	w.mu.Unlock()
	if n == 0 {
		w.wake.Set()
	}
	return n < limit
}

func (ws *writers) written() (n uint64) {
	for _, w := range ws.all {
		n += w.written.Load()
	}
	return n
}

func (ws *writers) bytesWritten() (n uint64) {
	for _, w := range ws.all {
		n += w.bytes.Load()
	}
	return n
}

// close ends the writers when their lists are empty, and waits for them.
func (ws *writers) close() {
	for _, w := range ws.all {
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		w.wake.Set()
	}
	ws.wg.Wait()
}

// Broadcasts seldom come alone, and a long list takes a writer some milliseconds. So if a
// writer gets a list of many Conns after it was idle, it first waits for gather: what
// comes meanwhile shares the writes.
const (
	many   = 512
	gather = time.Millisecond
)

func (w *writer) run() {
	fresh := false // it was idle, and has not waited for gather since
	for {
		w.mu.Lock()
		w.turn, w.list = w.list, w.turn[:0]
		closed := w.closed
		w.mu.Unlock()
		if len(w.turn) == 0 {
			if closed {
				return
			}
			<-w.wake
			fresh = true
			continue
		}
		if fresh && len(w.turn) >= many {
			fresh = false
			time.Sleep(gather)
		}
		w.now = clock.Now()
		for i, c := range w.turn {
			w.flush(c)
			w.turn[i] = nil
		}
	}
}

// flushSize is how many bytes of a queue go into one write.
const flushSize = 64 << 10

// take returns the bytes to write next, or nil: one frame of the queue, or several that
// are joined in buf. The caller may use buf again only after written. lent is the loan of
// the one frame, if it is on loan; the caller may release it once the frame is written.
func (q *queue) take(buf []byte) (p []byte, lent *loan.Buffer, joined bool) {
	if len(q.rest) > 0 {
		return q.rest, nil, false
	}
	buf = buf[:0]
	if q.log == nil || q.frames.Len() == 0 || !q.log.greets() {
		if q.pongs != nil {
			buf, q.pongs = append(buf, q.pongs...), nil
		}
		if q.ping {
			buf, q.ping = q.appendPing(buf), false
		}
	}
	if alone := q.frames.Len() == 1 && q.closeFrame == nil; len(buf) == 0 && q.frames.Len() > 0 && (alone || len(q.frames.At(0).frame) >= flushSize/2) {
		f := q.takeFrame()
		return f.frame, f.loan, false
	}
	for q.frames.Len() > 0 && len(buf)+len(q.frames.At(0).frame) <= flushSize {
		f := q.takeFrame()
		buf = append(buf, f.frame...)
		f.loan.Release()
	}
	if q.frames.Len() == 0 && q.closeFrame != nil {
		buf, q.closeFrame = append(buf, q.closeFrame...), nil
	}
	if len(buf) == 0 {
		return nil, nil, false
	}
	return buf, nil, true
}

// appendPing appends a ping. A client need answer only the last of several pings (RFC
// 6455 section 5.5.3), so this one carries the token of the last fence before it. The
// frames that wait come after it.
func (q *queue) appendPing(buf []byte) []byte {
	if q.fences != nil {
		if token, ok := q.fences.Written(q.ends(q.frames.Len())); ok {
			return receipts.AppendFence(buf, token)
		}
	}
	return append(buf, frame.Ping, 0)
}

// takeFrame takes the first frame. If none is left, it gives up their memory, so that an
// idle Conn holds none.
func (q *queue) takeFrame() queued {
	f := q.frames.Pop()
	frame := f.frame
	if q.frames.Len() == 0 {
		q.forget()
	}
	q.out++
	q.outBytes += len(frame)
	if q.log != nil {
		q.fences.Sent(&frame[len(frame)-1])
		q.log.taken(frame)
	}
	if q.keys != nil {
		q.keys.Left(&frame[len(frame)-1])
	}
	return f
}

// written notes that all that was taken has been written, and returns how many messages
// that were.
func (q *queue) written() (messages int) {
	frames := q.out
	messages = frames
	q.bytes -= q.outBytes
	if q.log != nil {
		q.log.replayed = max(0, q.log.replayed-q.outBytes)
		messages -= q.log.lines
		q.log.lines = 0
	}
	q.out, q.outBytes, q.rest = 0, 0, nil
	if q.meter != nil {
		if q.meter.Passed(frames); q.frames.Len() == 0 {
			q.meter = nil
		}
	}
	return messages
}

// flush writes once what the Conn has, without waiting. If the socket does not take all
// of it, the rest is left to a drain.
func (w *writer) flush(c *Conn) {
	c.mu.Lock()
	p, lent, joined := c.queue.take(w.buf)
	if p == nil {
		c.queue.owner = ownerNone
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()

	n, err := w.raw.Write(c.socket.raw, p)
	if err != nil {
		c.kill(c.writeError(err))
		return
	}

	w.bytes.Add(uint64(n))
	c.mu.Lock()
	if n > 0 {
		c.queue.wrote = w.now
	}
	if n < len(p) {
		if joined {
			p = append([]byte(nil), p...)
		}
		if c.state == connDead {
			c.mu.Unlock()
			return
		}
		c.queue.rest = p[n:]
		c.queue.blocked = true
		c.claimDrain()
		c.mu.Unlock()
		c.start(ownerDrain)
		return
	}
	lent.Release()
	frames := c.queue.written()
	change := 0
	if c.queue.charged > 0 {
		change = c.queue.settle()
	}
	more := c.queue.hasWork()
	if !more {
		c.queue.owner = ownerNone
	}
	last := c.state > connClosing
	c.mu.Unlock()
	if change != 0 {
		c.hub.budget.change(change)
	}
	if c.queue.log != nil {
		c.queue.log.drained()
	}
	w.written.Add(uint64(frames))
	switch {
	case more:
		w.push(c, math.MaxInt)
	case last:
		c.finish()
	}
}

// drainBuffers are for drain. Few are in use at a time.
var drainBuffers = sync.Pool{New: func() any { b := make([]byte, 0, flushSize); return &b }}

// drain writes what the Conn has until there is nothing more, and waits if it must. It
// serves sockets that take no more at once, and those that are not plain TCP.
func (c *Conn) drain() {
	defer c.hub.wg.Done()
	for first := true; ; first = false {
		var buf *[]byte // nil for a small write: a client that takes nothing must not keep a large buffer
		c.mu.Lock()
		p := c.queue.rest
		if len(p) == 0 {
			buf = drainBuffers.Get().(*[]byte)
			joined := false
			if p, _, joined = c.queue.take(*buf); len(p) < flushSize/2 || !joined {
				if joined {
					p = bytes.Clone(p)
				}
				drainBuffers.Put(buf)
				buf = nil
			}
		}
		c.queue.rest = p // for the budget, which counts what is held
		if p == nil {
			c.mu.Unlock()
			// An expired deadline would fail the next raw write.
			c.socket.conn.SetWriteDeadline(time.Time{})
			c.mu.Lock()
			if c.queue.hasWork() {
				c.mu.Unlock()
				continue
			}
			c.queue.owner = ownerNone
			c.queue.blocked = false
			last := c.state > connClosing
			c.mu.Unlock()
			if last {
				c.finish()
			}
			return
		}
		c.queue.trying = clock.Now()
		if !first && c.queue.size() > 0 {
			c.queue.measure(c.queue.trying, nil)
		}
		c.mu.Unlock()
		if err := c.writeAll(p); err != nil {
			c.kill(c.writeError(err))
			return
		}
		c.mu.Lock()
		frames := c.queue.written()
		c.queue.trying, c.queue.wrote = 0, clock.Now()
		change := c.queue.settle()
		c.mu.Unlock()
		if buf != nil {
			drainBuffers.Put(buf)
		}
		c.hub.budget.change(change)
		if c.queue.log != nil {
			c.queue.log.drained()
		}
		c.hub.stats.written.Add(uint64(frames))
	}
}

// writeAll writes p, with WriteTimeout for each piece.
func (c *Conn) writeAll(p []byte) error {
	for len(p) > 0 {
		piece := p[:min(len(p), flushSize)]
		if err := c.socket.conn.SetWriteDeadline(time.Now().Add(c.hub.config.WriteTimeout)); err != nil {
			return err
		}
		n, err := c.socket.conn.Write(piece)
		c.hub.stats.bytesWritten.Add(uint64(n))
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// writeError returns the cause with which a failed write ends a Conn. The Conn keeps its
// owner, because what that has taken must not be taken again.
func (c *Conn) writeError(err error) error {
	if !os.IsTimeout(err) {
		return err
	}
	if !c.isClosing() {
		c.hub.stats.tooSlow.Add(1)
	}
	return ErrTooSlow
}
