package herald

import (
	"errors"
	"time"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/histogram"
	"github.com/heraldgo/herald/internal/lag"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/ring"
)

// An owner writes to a Conn's socket. There is one at any time: nobody, a writer
// that has the Conn on its list, or a goroutine that drains it.
type owner uint8

const (
	ownerNone owner = iota
	ownerWriter
	ownerDrain
)

// flushSize is how many bytes of a queue go into one write.
const flushSize = 64 << 10

// A queue is what waits to be written to one Conn. It is guarded by Conn.mu.
type queue struct {
	owner   owner
	blocked bool   // the socket does not take more at once
	doomed  bool   // the budget wants what is under way
	ping    bool   // goes before the frames
	dropped uint32 // messages, while the Conn was open

	// How much there is: with what stands above, in one line of the cache.

	bytes   int // the size of frames, and of those under way
	charged int // to the Hub's budget
	out     int // frames that the owner has taken

	// Frames that nobody has taken yet.

	frames ring.Ring[[]byte]
	first  [1][]byte // the memory of frames until there is a second one; see forget

	// Who takes note of what becomes of the frames: see noted.

	log    *connLog         // if the Hub has a Retention; set before the Conn is known
	fences *receipts.Fences // of the frames that want a receipt; nil if there is none
	meter  *lag.Meter       // of how long messages wait; nil if nobody measures it

	// Control frames, beside ping.

	pongs      []byte // frames; they go first
	closeFrame []byte // goes last

	// What the owner has taken, beside out.

	outBytes int    // the size of it
	rest     []byte // what of it is not written yet
	trying   int64  // on clock: since when the write that waits has; 0 is none
	wrote    int64  // on clock: when something was last written; 0 is never
}

// errDropped is enqueue's answer if the message is not queued although the Conn goes
// on: it is no error of the sender's.
var errDropped = errors.New("dropped for a busy client")

// enqueue hands a frame to the Conn, without waiting. The frame is shared and must not change.
func (c *Conn) enqueue(frame []byte, volatile bool) error {
	h := c.hub
	c.mu.Lock()
	q := &c.queue
	if c.state.closing() {
		c.mu.Unlock()
		h.stats.droppedClosed.Add(1)
		return ErrClosed
	}
	if volatile && (h.budget.tight.Load() || q.busy(&h.config) || q.full(&h.config, len(frame))) {
		q.dropped++
		c.mu.Unlock()
		h.stats.droppedVolatile.Add(1)
		return errDropped
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
		if !fits { // what is under way fills it
			q.dropped++
			change := q.settle()
			start := c.claim() // a Gap may have come in its place
			c.mu.Unlock()
			c.start(start)
			h.budget.change(change)
			h.stats.droppedFull.Add(1)
			return errDropped
		}
	}
	q.put(frame)
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

func (q *queue) put(frame []byte) {
	q.frames.Push(frame)
	q.bytes += len(frame)
}

// size is how many frames there are, those under way included.
func (q *queue) size() int { return q.frames.Len() + q.out }

func (q *queue) full(config *Config, n int) bool {
	return q.size() >= config.QueueMessages || q.bytes+n > config.QueueBytes && (q.log == nil || q.bytes-q.log.replayed+n > config.QueueBytes)
}

// busy says whether a volatile message is one too many.
func (q *queue) busy(config *Config) bool {
	return q.blocked || q.size() > config.QueueMessages/4 || q.bytes > config.QueueBytes/4
}

// makeRoom drops the oldest frames of a full queue that are not under way, until n bytes fit.
func (q *queue) makeRoom(config *Config, n int) (dropped int, fits bool) {
	if q.log.comesBack() {
		return q.log.makeRoom(q, config, n)
	}
	for !fits && q.frames.Len() > 0 {
		if q.noted() {
			q.lose(1)
		}
		q.bytes -= len(q.frames.Pop())
		dropped++
		fits = !q.full(config, n)
	}
	q.dropped += uint32(dropped)
	return dropped, fits
}

// giveUp gives up and returns the first n frames, or n messages of a client that can come back.
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
			if kindOf(*q.frames.At(i)) != 'm' {
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
		q.bytes -= len(q.frames.Pop())
	}
}

// noted says whether anybody takes note of what becomes of the frames.
func (q *queue) noted() bool { return q.log != nil || q.fences != nil || q.meter != nil }

// lose takes note that the first n frames will not be written.
func (q *queue) lose(n int) {
	q.meter.Dropped(q.out, n)
	if q.fences != nil {
		for _, end := range q.ends(n) {
			q.fences.Lose(end)
		}
	}
}

// ends returns the last bytes of the first n frames, which tell them apart.
func (q *queue) ends(n int) []*byte {
	ends := make([]*byte, n)
	for i := range ends {
		f := *q.frames.At(i)
		ends[i] = &f[len(f)-1]
	}
	return ends
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

// pong queues the answer to a ping. If too many wait, it goes for all of them (RFC
// 6455 section 5.5.3).
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

// clear drops the frames that are not under way, and returns how many were messages.
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
	q.fences, q.meter = nil, nil
	q.forget()
	q.bytes, q.out, q.outBytes, q.rest = 0, 0, 0, nil
	q.pongs, q.ping, q.closeFrame = nil, false, nil
	return dropped
}

// forget gives up the memory of the frames, but for that of one.
func (q *queue) forget() { q.frames, q.first[0] = ring.Ring[[]byte]{Buf: q.first[:]}, nil }

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

// claimDrain makes the Conn a drain's. The caller, who holds c.mu, calls start
// after unlocking. The drain is counted here, while the Conn is not dead: its
// own count keeps Shutdown's Wait.
func (c *Conn) claimDrain() {
	c.queue.owner = ownerDrain
	c.hub.wg.Add(1)
}

// start sets the new owner to work, if there is one. Most messages find none, so this
// is inlined.
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

// take returns the bytes to write next, or nil. They are a frame of the queue, or frames
// joined in buf, whose bytes the caller overwrites only after written.
func (q *queue) take(buf []byte) (p []byte, joined bool) {
	if len(q.rest) > 0 {
		return q.rest, false
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
	if alone := q.frames.Len() == 1 && q.closeFrame == nil; len(buf) == 0 && q.frames.Len() > 0 && (alone || len(*q.frames.At(0)) >= flushSize/2) {
		return q.takeFrame(), false
	}
	for q.frames.Len() > 0 && len(buf)+len(*q.frames.At(0)) <= flushSize {
		buf = append(buf, q.takeFrame()...)
	}
	if q.frames.Len() == 0 && q.closeFrame != nil {
		buf, q.closeFrame = append(buf, q.closeFrame...), nil
	}
	if len(buf) == 0 {
		return nil, false
	}
	return buf, true
}

// appendPing appends a ping. A client need answer only the last of several pings
// (RFC 6455 section 5.5.3), so that this one carries what the last fence before it
// did. The frames that wait come after it.
func (q *queue) appendPing(buf []byte) []byte {
	if q.fences != nil {
		if token, ok := q.fences.Written(q.ends(q.frames.Len())); ok {
			return receipts.AppendFence(buf, token)
		}
	}
	return append(buf, frame.Ping, 0)
}

// takeFrame takes the first frame. An idle Conn holds no memory for frames.
func (q *queue) takeFrame() []byte {
	frame := q.frames.Pop()
	if q.frames.Len() == 0 {
		q.forget()
	}
	q.out++
	q.outBytes += len(frame)
	if q.log != nil {
		q.fences.Sent(&frame[len(frame)-1])
		q.log.taken(frame)
	}
	return frame
}

// written takes note that all that was taken has been written, and returns how many messages.
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

// measure begins to measure how long the last frame waits, which came at since, unless
// another frame is being measured.
func (q *queue) measure(since int64, tell *histogram.Histogram) {
	if q.meter == nil {
		q.meter = new(lag.Meter)
	}
	q.meter.Begin(since, q.size(), tell)
}

// oldest returns how long the oldest frame has waited, about.
func (q *queue) oldest() time.Duration {
	if q.size() == 0 {
		return 0
	}
	return max(since(q.trying), q.meter.Age())
}
