package herald

import (
	"bytes"
	"errors"
	"time"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/histogram"
	"github.com/heraldgo/herald/internal/history/protocol"
	"github.com/heraldgo/herald/internal/lag"
	"github.com/heraldgo/herald/internal/loan"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/ring"
)

// An owner is who writes to a Conn's socket: nobody, a writer that has the Conn on its
// list, or a goroutine that drains it. There is one at any time.
type owner uint8

const (
	ownerNone owner = iota
	ownerWriter
	ownerDrain
)

// A queue is what waits to be written to one Conn. It is guarded by Conn.mu.
type queue struct {
	owner   owner
	blocked bool   // the socket does not take more at once
	doomed  bool   // the Conn is to be killed to free what its owner has taken
	ping    bool   // goes before the frames
	dropped uint32 // messages, while the Conn was open

	// Sizes, in one cache line with the fields above.

	bytes   int // the size of frames, and of those that the owner has taken
	charged int // to the Hub's budget
	out     int // frames that the owner has taken

	// Frames that nobody has taken yet.

	frames ring.Ring[queued]
	first  [1]queued // the memory of frames until there is a second one; see forget

	// What keeps track of the frames: see noted.

	log    *connLog         // if the Hub has a Retention; set before the Conn is known
	fences *receipts.Fences // of the frames that want a receipt; nil if there is none
	meter  *lag.Meter       // of how long messages wait; nil if nobody measures it
	keys   *conflate.Keys   // of messages that a newer one may replace; nil before the first

	// Control frames, besides ping.

	pongs      []byte // frames; they go first
	closeFrame []byte // goes last

	// What the owner has taken, besides out.

	outBytes int    // its size
	rest     []byte // the part that is not written yet
	trying   int64  // on clock: since when a write has been waiting; 0 if none is
	wrote    int64  // on clock: when something was last written; 0 if nothing was
}

// A queued is a frame, and the loan that its memory is on, if any.
type queued struct {
	frame []byte
	loan  *loan.Buffer
}

// errDropped is enqueue's answer if the message is dropped although the Conn goes on.
// Senders do not get it.
var errDropped = errors.New("dropped for a busy client")

// enqueue hands a frame to the Conn, without waiting. The frame is shared and must not
// change. If it has a key, it replaces the waiting one with that key.
func (c *Conn) enqueue(frame []byte, volatile bool, key *conflate.Key) error {
	return c.enqueueLent(frame, nil, volatile, key)
}

// enqueueLent is enqueue for a frame on loan; the caller holds the loan.
func (c *Conn) enqueueLent(frame []byte, lent *loan.Buffer, volatile bool, key *conflate.Key) error {
	h := c.hub
	c.mu.Lock()
	q := &c.queue
	if c.state.closing() {
		c.mu.Unlock()
		h.stats.droppedClosed.Add(1)
		return ErrClosed
	}
	older, gives := q.older(key)
	if volatile && (older < 0 && (h.budget.tight.Load() || q.busy(&h.config)) || q.overfull(&h.config, q.size()+1-min(gives, 1), q.bytes+len(frame)-gives)) {
		q.dropped++ // the older one stays: nothing comes in its place
		c.mu.Unlock()
		h.stats.droppedVolatile.Add(1)
		return errDropped
	}
	if older >= 0 {
		q.supersede(older)
		h.stats.conflated.Add(1)
	}
	if q.full(&h.config, len(frame)) {
		if !h.config.DropOldest {
			c.mu.Unlock()
			h.stats.droppedFull.Add(1)
			c.tooSlow(&h.stats.tooSlow)
			return ErrTooSlow
		}
		dropped, fits := q.makeRoom(&h.config, len(frame))
		h.stats.droppedFull.Add(uint64(dropped))
		if !fits { // what the owner has taken fills the queue
			q.dropped++
			change := q.settle()
			start := c.claim() // makeRoom may have queued a gap
			c.mu.Unlock()
			c.start(start)
			h.budget.change(change)
			h.stats.droppedFull.Add(1)
			return errDropped
		}
	}
	lent.Hold()
	q.putLent(frame, lent)
	if key != nil {
		q.remember(*key, frame)
	}
	change := 0
	if q.outgrown() {
		change = q.settle()
	}
	start := c.claim()
	c.mu.Unlock()
	h.stats.delivered.Add(1)
	c.start(start)
	if change != 0 && h.budget.change(change) {
		h.look()
	}
	return nil
}

func (q *queue) put(frame []byte) { q.putLent(frame, nil) }

func (q *queue) putLent(frame []byte, lent *loan.Buffer) {
	q.frames.Push(queued{frame, lent})
	q.bytes += len(frame)
}

// remark replaces a waiting mark of the same partition that has no verdict, if only such
// marks are behind it. So the marks for copies that were left out do not pile up.
func (q *queue) remark(mark []byte) bool {
	partition, ok := bareMark(mark)
	for i := q.frames.Len() - 1; ok && i >= 0; i-- {
		f := &q.frames.At(i).frame
		var other []byte
		if other, ok = bareMark(*f); ok && bytes.Equal(other, partition) {
			q.bytes += len(mark) - len(*f)
			*f = mark
			return true
		}
	}
	return false
}

// bareMark returns the partition of a frame that is a mark without a verdict.
func bareMark(f []byte) (partition []byte, ok bool) {
	line, _ := frame.Payload(f)
	partition, ok = protocol.BareMark(line)
	return partition, ok && f[0] == frame.Text
}

// size is how many frames there are, with those that the owner has taken.
func (q *queue) size() int { return q.frames.Len() + q.out }

func (q *queue) full(config *Config, n int) bool {
	return q.overfull(config, q.size()+1, q.bytes+n)
}

// overfull reports whether a queue of this many frames and bytes exceeds its bounds.
func (q *queue) overfull(config *Config, frames, bytes int) bool {
	return frames > config.QueueMessages || bytes > config.QueueBytes && (q.log == nil || bytes-q.log.replayed > config.QueueBytes)
}

// busy reports whether the queue is too busy for a volatile message.
func (q *queue) busy(config *Config) bool {
	return q.blocked || q.size() > config.QueueMessages/4 || q.bytes > config.QueueBytes/4
}

// makeRoom drops the oldest frames that are not taken, until n more bytes fit.
func (q *queue) makeRoom(config *Config, n int) (dropped int, fits bool) {
	if q.log.comesBack() {
		return q.log.makeRoom(q, config, n)
	}
	for !fits && q.frames.Len() > 0 {
		if q.noted() {
			q.lose(1)
		}
		q.bytes -= len(q.frames.Pop().frame)
		dropped++
		fits = !q.full(config, n)
	}
	q.dropped += uint32(dropped)
	return dropped, fits
}

// giveUp gives up and returns the first n frames, or messages if a client can come back.
func (q *queue) giveUp(n int) (given []waiting) {
	if q.log.comesBack() {
		return q.log.giveUp(q, n)
	}
	given = q.appendWaiting(nil, n)
	q.drop(n)
	return given
}

// messages returns how many of the frames that nobody has taken are messages.
func (q *queue) messages() (n int) {
	n = q.frames.Len()
	if q.log.comesBack() {
		for i := range q.frames.Len() {
			if kindOf(q.frames.At(i).frame) != 'm' {
				n--
			}
		}
	}
	return n
}

// drop gives up the first n frames.
func (q *queue) drop(n int) {
	q.lose(n)
	q.dropped += uint32(n)
	for range n {
		q.bytes -= len(q.frames.Pop().frame)
	}
}

// noted reports whether anything keeps track of what becomes of the frames.
func (q *queue) noted() bool {
	return q.log != nil || q.fences != nil || q.meter != nil || q.keys != nil
}

// lose notes that the first n frames will not be written.
func (q *queue) lose(n int) {
	q.meter.Dropped(q.out, n)
	if q.fences != nil || q.keys != nil {
		for _, end := range q.ends(n) {
			q.fences.Lose(end)
			q.keys.Left(end)
		}
	}
}

// older returns where in frames the message with the key waits, and how many bytes it
// has, or -1 if none waits.
func (q *queue) older(key *conflate.Key) (i, n int) {
	if key == nil {
		return -1, 0
	}
	if i = q.keys.Find(*key, q.frames.Len(), q.end); i < 0 {
		return -1, 0
	}
	return i, len(q.frames.At(i).frame)
}

// supersede gives up the i-th frame, a message with a key, because a newer one comes.
func (q *queue) supersede(i int) {
	old := q.frames.Remove(i).frame
	end := &old[len(old)-1]
	q.keys.Cut(end)
	q.fences.Lose(end)
	q.meter.Dropped(q.out+i, 1)
	q.bytes -= len(old)
}

// remember notes that the frame, which is queued last, has a key.
func (q *queue) remember(key conflate.Key, frame []byte) {
	if q.keys == nil {
		q.keys = new(conflate.Keys)
	}
	q.keys.Add(key, &frame[len(frame)-1])
}

// ping queues a ping.
func (c *Conn) ping() {
	c.mu.Lock()
	c.queue.ping = !c.state.closing()
	start := c.claim()
	c.mu.Unlock()
	c.start(start)
}

// maxPongs is how many bytes of pongs wait at most: sixteen of the longest.
const maxPongs = 2 << 10

// pong queues the answer to a ping. If too many wait, it stands for all of them (RFC 6455
// section 5.5.3).
func (c *Conn) pong(payload []byte) {
	c.mu.Lock()
	if q := &c.queue; !c.state.closing() {
		if len(q.pongs)+2+len(payload) > maxPongs {
			q.pongs = q.pongs[:0]
		}
		q.pongs = append(frame.AppendHeader(q.pongs, frame.Pong, len(payload)), payload...)
	}
	start := c.claim()
	c.mu.Unlock()
	c.start(start)
}

// clear drops the frames that are not taken, and returns how many were messages.
func (q *queue) clear() (dropped int) {
	dropped = q.frames.Len()
	if q.noted() {
		dropped = q.messages()
		q.lose(q.frames.Len())
	}
	q.bytes = q.outBytes
	q.forget()
	return dropped
}

// empty drops everything, and returns how many were messages.
func (q *queue) empty() (dropped int) {
	dropped = q.messages() + q.out
	if q.log != nil {
		dropped -= q.log.lines
		q.log.lines = 0
	}
	q.fences.LoseAll()
	q.fences, q.meter, q.keys = nil, nil, nil
	q.forget()
	q.bytes, q.out, q.outBytes, q.rest = 0, 0, 0, nil
	q.pongs, q.ping, q.closeFrame = nil, false, nil
	return dropped
}

// forget drops the frames and their memory, except for that of one frame.
func (q *queue) forget() { q.frames, q.first[0] = ring.Ring[queued]{Buf: q.first[:]}, queued{} }

func (q *queue) hasWork() bool {
	return len(q.rest) > 0 || q.frames.Len() > 0 || q.ping || q.pongs != nil || q.closeFrame != nil
}

// claim makes the Conn someone's, if it is nobody's and there is something
// to write. The caller calls start with the answer, after unlocking.
func (c *Conn) claim() owner {
	q := &c.queue
	if q.owner != ownerNone || !c.state.writing() || !q.hasWork() {
		return ownerNone
	}
	if c.socket.raw != nil {
		q.owner = ownerWriter
	} else {
		c.claimDrain()
	}
	return q.owner
}

// claimDrain makes the Conn a drain's. The caller, who holds c.mu, calls start after
// unlocking. The drain is counted here, because the Conn is not dead yet: its own count
// keeps Shutdown waiting.
func (c *Conn) claimDrain() {
	c.queue.owner = ownerDrain
	c.hub.wg.Add(1)
}

// start sets the new owner to work, if there is one. There is none for most messages, so
// this is small enough to be inlined.
func (c *Conn) start(o owner) {
	if o != ownerNone {
		c.work(o)
	}
}

func (c *Conn) work(o owner) {
	if o == ownerDrain {
		go c.drain()
		return
	}
	c.hub.writers.push(c)
}

// measure begins to measure how long the last frame waits, unless another one is being
// measured. The frame came at since.
func (q *queue) measure(since int64, tell *histogram.Histogram) {
	if q.meter == nil {
		q.meter = new(lag.Meter)
	}
	q.meter.Begin(since, q.size(), tell)
}

// oldest returns about how long the oldest frame has waited.
func (q *queue) oldest() time.Duration {
	if q.size() == 0 {
		return 0
	}
	return max(since(q.trying), q.meter.Age())
}
