package herald

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/protocol"
	"github.com/heraldgo/herald/internal/receipts"
)

// A connLog is what a Conn has if the Hub has a Retention.
type connLog struct {
	c       *Conn
	k       *keeping
	session *driver.Session // if the client can come back; nil if it is a plain one
	resume  protocol.Resume // what the client said
	last    []string        // the ids of its last connections, the newest first

	// For a plain client. Used by the owner alone.

	floor []history.Point // by partition: the client gets only what is sent after it; nil until begin has set it

	// Used by the owner alone.

	fence    *fence // goes behind the message that is queued next
	expected int    // messages whose acknowledgement is a receipt, and that are not queued yet
	verdicts verdicts

	// Guarded by Conn.mu.

	welcomed bool // the welcome has been taken off the queue
	gap      bool // a Gap stands in the queue for what was dropped
	lines    int  // how many of the frames that the queue's owner has taken are no messages
	replayed int  // bytes in the queue that were read from the log, and do not count against QueueBytes
}

// Resumed reports whether the client has come back to where it was: it gets what it
// missed. Without a Retention, and for a client that does not speak the protocol of
// PROTOCOL.md, it is false.
func (c *Conn) Resumed() bool {
	return c.queue.log != nil && c.queue.log.resume.From != history.Positions{}
}

// Previous returns the id of the client's last connection before this one, or "" if
// there is none. So OnConnect can restore what belonged to that one. The client may
// have kept the id for any time, and several connections may name the same one.
func (c *Conn) Previous() string {
	if c.queue.log == nil || len(c.queue.log.last) == 0 {
		return ""
	}
	return c.queue.log.last[0]
}

// newConnLog reads what the client says when it connects.
func (k *keeping) newConnLog(c *Conn, r *http.Request) (*connLog, error) {
	l := &connLog{c: c, k: k}
	resume, asks, err := protocol.ParseQuery(r.URL.Query())
	if err != nil {
		return nil, &HTTPError{http.StatusBadRequest, err.Error()}
	}
	if asks {
		if k.plain() != "" {
			resume.From = history.Positions{}
		}
		l.resume, l.last = resume, k.verify(c.identity.User, resume.Conns)
		l.session = k.driver.NewSession(l, c.ID(), resume.From, l.last)
	}
	return l, nil
}

// begin makes the Conn, which is in the index, get what is sent from now on.
func (l *connLog) begin(ctx context.Context) error {
	if l.session != nil {
		return l.session.Begin(ctx)
	}
	return l.k.driver.At(ctx, func(feeds history.Positions) { l.floor = slices.Clone(feeds[:len(l.k.logs.parts)]) })
}

// join makes the Conn get what is sent to topics that it has just joined.
func (l *connLog) join(ctx context.Context, topics []string) error {
	if l.session == nil {
		return nil
	}
	return l.session.Join(ctx, l.k.logs.partitions(topics)...)
}

// took hands a packet to the session of a client that can come back, and returns true.
// For a plain Conn it returns true if the packet was sent before its floor, and is left
// out. Otherwise the caller queues it.
func (l *connLog) took(e *envelope, p *logged) bool {
	if l.session == nil {
		return p.Kept && l.sentBefore(p)
	}
	l.session.Take(p.partition, p.Packet, letter(e))
	return true
}

// sentBefore reports whether a packet that is in the log was sent before a plain Conn
// came.
func (l *connLog) sentBefore(p *logged) bool {
	return l.floor == nil || p.At.Epoch == l.floor[p.partition].Epoch && p.At.Offset <= l.floor[p.partition].Offset
}

// comesBack reports whether the client can come back.
func (l *connLog) comesBack() bool { return l != nil && l.session != nil }

func (l *connLog) end() {
	if l.session != nil {
		l.session.End()
	}
}

// drained notes that something has left the queue.
func (l *connLog) drained() {
	if l.session != nil {
		l.session.Drained()
	}
}

// The owner calls these: see driver.Conn.

func (l *connLog) Topics(partition int) []string {
	return l.k.split(l.c.hub.index.topicsOf(l.c))[partition]
}

func (l *connLog) Holds(topic string) bool { return l.c.hub.index.holds(l.c, topic) }

func (l *connLog) Open(body []byte) device.Letter {
	e := l.k.form.open(l.k, body)
	if e.frame == nil {
		return device.Letter{}
	}
	sieve := newSieve(l.k.node, &e.filter)
	if !sieve.passes(l.c) {
		return device.Letter{Except: []string{l.c.ID()}}
	}
	return letter(e)
}

func (l *connLog) Room() bool {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	q, config := &l.c.queue, &l.c.hub.config
	return q.size() <= config.QueueMessages/4 && q.bytes <= config.QueueBytes/4
}

func (l *connLog) Queue(f device.Frame) {
	if l.k.plain() != "" && !unplace(&f) {
		return
	}
	if f.Kind != device.Message {
		l.put(l.encode(&f), 0, nil)
		return
	}
	forms := l.k.form.frame(l.k, &f)
	if forms == nil { // nobody here can read it
		l.put(anyGap, 0, nil)
		return
	}
	frame := forms.For(l.c.deflates)
	volatile, key := l.k.form.envelope.volatile, l.k.form.key(&f)
	l.place(&f, frame)
	if behind := l.fence; behind != nil {
		l.fence = nil
		l.c.enqueueFenced(behind.behind(frame), volatile, key, behind.want, behind.token)
	} else if err := l.c.enqueue(frame, volatile, key); err != nil {
		l.lose(frame)
	}
}

func (l *connLog) Gap(f device.Frame, since time.Time) {
	l.put(lineFrame(&protocol.Frame{Frame: f, Since: since, Until: time.Now()}), 0, nil)
}

func (l *connLog) Replay(f device.Frame) {
	if l.k.plain() != "" && !unplace(&f) {
		return
	}
	var b []byte
	var key *conflate.Key
	if f.Kind != device.Message {
		b = l.encode(&f)
	} else if forms := l.k.form.frame(l.k, &f); forms == nil { // nobody here can read it
		b = anyGap
	} else {
		b, key = forms.Plain, l.k.form.key(&f) // to compress it for this Conn alone would keep all others waiting
		l.place(&f, b)
	}
	l.put(b, len(b), key)
}

// encode returns the WebSocket frame of a device's frame that has no payload.
func (l *connLog) encode(f *device.Frame) []byte {
	p := protocol.Frame{Frame: *f, User: l.c.identity.User}
	if f.Kind == device.Welcome {
		p.Conn = l.k.sign(l.c.identity.User, f.Conn)
	}
	l.c.hub.stats.countResume(f, &l.verdicts, len(l.k.logs.parts))
	return lineFrame(&p)
}

// lineFrame returns the WebSocket frame of a line.
func lineFrame(p *protocol.Frame) []byte {
	line := protocol.AppendHeader(nil, p)
	return append(frame.AppendHeader(make([]byte, 0, frame.MaxHeader+len(line)), frame.Text, len(line)), line...)
}

// headed returns the frame of a message with a header line before its payload.
func headed(p *protocol.Frame, plain []byte) []byte {
	payload, _ := frame.Payload(plain)
	line := protocol.AppendHeader(make([]byte, 0, 64), p)
	b := make([]byte, 0, frame.MaxHeader+len(line)+len(payload))
	b = frame.AppendHeader(b, plain[0], len(line)+len(payload))
	return append(append(b, line...), payload...)
}

// put queues a frame, for which there is always room. replayed of its bytes do not count
// against QueueBytes. If it has a key, it replaces the waiting frame with that key, which
// was read from the log, too.
func (l *connLog) put(frame []byte, replayed int, key *conflate.Key) {
	c := l.c
	c.mu.Lock()
	if c.state.closing() {
		c.mu.Unlock()
		return
	}
	l.replayed += replayed
	if older, n := c.queue.older(key); older >= 0 {
		c.queue.supersede(older)
		l.replayed -= n
		c.hub.stats.conflated.Add(1)
	}
	if !c.queue.remark(frame) {
		c.queue.put(frame)
	}
	if key != nil {
		c.queue.remember(*key, frame)
	}
	change := c.queue.settle()
	start := c.claim()
	c.mu.Unlock()
	if kindOf(frame) == 'm' {
		c.hub.stats.delivered.Add(1)
	}
	c.start(start)
	if change != 0 && c.hub.budget.change(change) {
		c.hub.look()
	}
}

// mayProbe reports whether the client may send probes, which are answered even while
// OnMessage runs.
func (c *Conn) mayProbe() bool { return c.queue.log.comesBack() }

// control takes a client's message apart if it is text that begins with "@". It returns
// the frame of the application's message, or nil if there is none.
func (l *connLog) control(message []byte) []byte {
	if !l.comesBack() || message[0] != frame.Text {
		return message
	}
	payload, ok := frame.Payload(message)
	if !ok || len(payload) == 0 || payload[0] != '@' {
		return message
	}
	c, err := protocol.ParseControl(payload)
	switch {
	case err != nil:
		l.c.shut(&CloseError{Code: StatusPolicyViolation, Reason: "text that begins with @ is not as PROTOCOL.md says"})
		return nil
	case c.Kind == protocol.Text:
		b := frame.AppendHeader(make([]byte, 0, frame.MaxHeader+len(c.Text)), frame.Text, len(c.Text))
		return append(b, c.Text...)
	case !l.c.allow(): // a message of the application is counted when it is delivered
	case c.Kind == protocol.Ack:
		l.c.acknowledged(&c.Positions)
	case c.Kind == protocol.Probe:
		l.answer(c.N)
	}
	return nil
}

// answer answers a probe. A client whose queue is full reads too little to be told that
// its socket lives.
func (l *connLog) answer(n uint64) {
	l.c.mu.Lock()
	full := l.c.queue.full(&l.c.hub.config, lineRoom)
	l.c.mu.Unlock()
	if !full {
		l.put(lineFrame(&protocol.Frame{Frame: device.Frame{Kind: device.Answer}, N: n}), 0, nil)
	}
}

// bare is the line of a message that is not kept.
var bare = protocol.Frame{Frame: device.Frame{Kind: device.Message}}

// anyGap stands for messages that were dropped, or that this node cannot read. Nobody
// knows since when.
var anyGap = lineFrame(&protocol.Frame{Frame: device.Frame{Kind: device.Gap}})

// dropMessages gives up messages of the queue, the oldest first, until enough says
// so. What is no message stays, and a Gap stands where the first one was.
func (l *connLog) dropMessages(q *queue, enough func() bool) (dropped int) {
	for range q.frames.Len() {
		f := q.frames.At(0).frame
		switch message := kindOf(f) == 'm'; {
		case !message || enough():
			q.bytes -= len(q.frames.Pop().frame)
			q.put(f)
		default:
			q.drop(1)
			dropped++
			l.putGap(q)
		}
	}
	return dropped
}

// makeRoom is queue.makeRoom for a client that can come back. It goes on until a quarter
// of the queue is free, because it has to look at all of it.
func (l *connLog) makeRoom(q *queue, config *Config, n int) (dropped int, fits bool) {
	dropped = l.dropMessages(q, func() bool {
		return q.size() <= config.QueueMessages*3/4 && q.bytes+n <= config.QueueBytes*3/4
	})
	fits = !q.full(config, n)
	if !fits {
		l.putGap(q) // in place of the new message
	}
	return dropped, fits
}

// giveUp is queue.giveUp for a client that can come back.
func (l *connLog) giveUp(q *queue, n int) (given []waiting) {
	l.dropMessages(q, func() bool {
		if len(given) == n {
			return true
		}
		given = q.appendWaiting(given, 1) // which dropMessages drops now
		return false
	})
	return given
}

// putGap queues a Gap for what is dropped, unless one stands in the queue.
func (l *connLog) putGap(q *queue) {
	if !l.gap {
		l.gap = true
		q.put(anyGap)
	}
}

// greets reports whether the welcome is still to come: nothing goes before it.
func (l *connLog) greets() bool { return l.session != nil && !l.welcomed }

// taken notes that a frame has been taken off the queue.
func (l *connLog) taken(f []byte) {
	if l.session == nil {
		return
	}
	kind := kindOf(f)
	switch kind {
	case 'w':
		l.welcomed = true
	case 'g':
		l.gap = false
	}
	if kind != 'm' {
		l.lines++
	}
}

// kindOf returns the first character of a frame's line, or 0 if it is a fence alone. A
// fence may lie behind it. Only messages are compressed.
func kindOf(f []byte) byte {
	switch {
	case f[0] == frame.Ping:
		return 0
	case f[0]&frame.Compressed != 0:
		return 'm'
	}
	payload, ok := frame.Payload(f)
	if !ok && len(f) > receipts.FenceSize {
		payload, _ = frame.Payload(f[:len(f)-receipts.FenceSize])
	}
	if len(payload) == 0 {
		return 0
	}
	return payload[0]
}
