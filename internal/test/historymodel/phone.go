package historymodel

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

var deviceLimits = device.Limits{Survey: 64, Page: 2, Live: 3}

// maxAhead is how many entries are read beyond a page.
const maxAhead = 3

// queueSize is how many frames a session's queue has room for.
const queueSize = 8

// A phone is one device: its client, what it has seen, and what it must have seen
// or been told of.
type phone struct {
	w       *world
	client  device.Client
	session *session // nil: offline
	oldest  bool     // its queue drops the oldest messages; otherwise the phone is cut

	forged history.Positions // positions that it claims to have, the next time
	liar   bool              // it has claimed to be somewhere else

	groups  map[string]bool // the topics that it belongs to
	covered bool            // true since its first welcome

	conns    []string                  // its connections, the newest last
	welcomes []string                  // those of conns that it knows
	had      map[int]*session          // by message: the session on which it came
	due      map[int]*[partitions]debt // by message

	told   [partitions]int           // the last step at which it was told of a loss
	last   [partitions]history.Point // the position of the last frame
	gapped [partitions]bool          // it was told after last, or has come back
	ended  [partitions]device.Verdict
}

// A debt says that the phone has to get a message or be told that it may lack it,
// if one of these topics has been its own all the time.
type debt struct {
	step int           // when it was acknowledged
	at   history.Point // where the message is in the log
	by   set
}

// A set is a set of topics.
type set uint8

func only(topic string) set { return 1 << slices.Index(topics[:], topic) }

// A session is one connection of a phone, as the node sees it.
type session struct {
	phone   *phone
	hub     *hub
	device  *device.Device
	dead    bool
	topics  map[string]bool
	joining map[string]bool // topics whose subscription is not confirmed
	frames  []queued
	ahead   [partitions]history.Excerpt // entries read beyond the last page
}

// A queued is a frame in a queue, and the step at which it was put there.
type queued struct {
	device.Frame
	step int
}

// Holds implements device.Host.
func (c *session) Holds(topic string) bool { return c.topics[topic] }

// Open implements device.Host.
func (c *session) Open(body []byte) device.Letter { return c.phone.w.message(body).letter }

// Recent implements device.Host.
func (c *session) Recent(partition int, at history.Point) ([]history.Packet, bool) {
	return c.hub.sides[partition].feed.Recent(at)
}

// connect begins a session, if all topics of the phone can be subscribed to.
func (p *phone) connect(h *hub) {
	if p.session != nil {
		return
	}
	var feeds history.Positions
	for i, s := range h.sides {
		feeds[i] = s.feed.At()
		if feeds[i].Epoch == 0 || !s.subscribed() {
			return
		}
	}
	c := &session{phone: p, hub: h, topics: make(map[string]bool), joining: make(map[string]bool)}
	id := p.w.name("conn")
	from, conns := p.client.Resume()
	if p.forged != (history.Positions{}) {
		from, p.forged = p.forged, history.Positions{}
	}
	var welcome device.Frame
	c.device, welcome = device.Begin(deviceLimits, c, id, from, conns, feeds)
	c.queue(welcome)
	h.sessions = append(h.sessions, c)
	for _, topic := range topics {
		if p.groups[topic] {
			c.topics[topic] = true
			h.sides[partitionOf(topic)].follow(topic)
		}
	}
	p.session = c
	p.conns = append(p.conns, id)
	p.ended = [partitions]device.Verdict{}
	p.covered = true
	for i := range h.sides {
		c.do(i, c.device.Start(i))
	}
	if p.covered && from != (history.Positions{}) {
		p.w.hit(resumed)
	}
}

// cut ends the session. The frames in its queue or on their way are lost.
func (p *phone) cut() {
	c := p.session
	if c == nil {
		return
	}
	c.dead, p.session = true, nil
	if len(p.welcomes) == 0 { // it was never let in
		p.covered = false
		clear(p.due)
	}
	c.hub.sessions = slices.DeleteFunc(c.hub.sessions, func(o *session) bool { return o == c })
	for _, topic := range topics {
		if !c.topics[topic] {
			continue
		}
		c.hub.sides[partitionOf(topic)].unfollow(topic)
	}
	for _, s := range c.hub.sides {
		s.asks = slices.DeleteFunc(s.asks, func(a ask) bool { return a.session == c })
	}
}

// forget makes the client start anew, without a position.
func (p *phone) forget() {
	p.cut()
	p.client = device.Client{}
	p.covered, p.liar, p.welcomes = false, false, nil
	p.forged = history.Positions{}
	clear(p.had)
	clear(p.due)
}

// forge makes the client hostile: it claims to be somewhere else.
func (p *phone) forge(epochs, offset int) {
	p.forget()
	p.liar = true
	for i, c := range p.w.clusters {
		p.forged[i] = history.Point{Epoch: 1 << 40, Offset: history.Offset(offset)}
		if known := c.w.hubs[0].sides[i].feed.At().Epoch; epochs == 0 && known != 0 {
			p.forged[i].Epoch = known
		}
	}
}

// join makes the phone belong to a topic. Its session does at once, but the phone
// may rely on that only when the subscription is confirmed.
func (p *phone) join(topic string) {
	if p.groups[topic] {
		return
	}
	c := p.session
	if c == nil {
		p.groups[topic] = true
		return
	}
	if c.topics[topic] {
		return
	}
	c.topics[topic], c.joining[topic] = true, true
	part := partitionOf(topic)
	c.hub.sides[part].follow(topic)
	c.do(part, c.device.Join(part))
	p.w.hit(joined)
}

// confirm confirms the subscriptions of a session that are not confirmed yet.
func (p *phone) confirm() {
	if p.session == nil {
		return
	}
	for _, topic := range topics {
		if p.session.joining[topic] && p.session.hub.sides[partitionOf(topic)].subscribed() {
			delete(p.session.joining, topic)
			p.groups[topic] = true
		}
	}
}

func (p *phone) leave(topic string) {
	if c := p.session; c != nil && c.topics[topic] {
		delete(c.topics, topic)
		delete(c.joining, topic)
		c.hub.sides[partitionOf(topic)].unfollow(topic)
		p.w.hit(left)
	}
	delete(p.groups, topic)
	for _, due := range p.due {
		for i := range due {
			due[i].by &^= only(topic)
		}
	}
}

// room reports whether the queue has room for an answer.
func (c *session) room() bool { return len(c.frames) <= queueSize/2 }

func (c *session) do(partition int, step device.Step) {
	for _, f := range step.Frames {
		c.queue(f)
	}
	if a := step.Ask; a.Round != 0 && !c.dead {
		s := c.hub.sides[partition]
		topics := make(map[string]int)
		for topic := range c.topics {
			if partitionOf(topic) == partition {
				topics[topic] = 1
			}
		}
		s.asks = append(s.asks, ask{
			session: c, topics: topicsOf(topics), round: a.Round, from: a.From,
			offsets: a.Offsets, page: a.Page, most: a.Most, epoch: a.From.Epoch, near: a.Near,
		})
		if len(a.Offsets) == 0 {
			c.ahead[partition] = history.Excerpt{} // these entries are of another survey
		}
	}
}

// queue puts a frame into the queue. Only messages can be too many.
func (c *session) queue(f device.Frame) {
	if c.dead {
		return
	}
	w := c.phone.w
	if f.Kind == device.Message && len(c.frames) >= queueSize {
		if !c.phone.oldest {
			w.hit(tooSlow)
			c.phone.cut()
			return
		}
		c.dropOldest()
	}
	c.frames = append(c.frames, queued{f, w.step})
}

// dropOldest drops the oldest message. The Gap in its place tells of it, or one
// that is there already.
func (c *session) dropOldest() {
	w := c.phone.w
	i := slices.IndexFunc(c.frames, func(f queued) bool { return f.Kind == device.Message })
	if i < 0 {
		return
	}
	gap, ok := c.device.Drop(c.frames[i].Frame)
	c.frames = slices.Delete(c.frames, i, i+1)
	if ok {
		c.frames = slices.Insert(c.frames, i, queued{Frame: gap})
		w.hit(droppedOldest)
	}
	for i := range c.frames {
		if c.frames[i].Dropped {
			c.frames[i].step = w.step
		}
	}
}

// receive takes the next frame off the socket.
func (p *phone) receive() {
	c := p.session
	f, step := c.frames[0].Frame, c.frames[0].step
	c.frames = c.frames[1:]
	c.device.Sent(f)
	if p.w.trace != nil {
		p.w.note("%s gets %d of %d: at %v, verdict %d, id %q, body %v", p.name(), f.Kind, f.Partition, f.At, f.Verdict, f.ID, f.Body)
	}
	p.look(f)
	message, missing := p.client.Receive(f)
	if missing {
		for i := range p.told {
			if f.Dropped || i == f.Partition {
				p.told[i] = max(p.told[i], step)
			}
		}
		p.w.tolds++
	}
	if f.Verdict != device.NoVerdict {
		p.ended[f.Partition] = f.Verdict
		p.w.hit(verdict(f.Verdict))
	}
	if f.Kind == device.Message && !message {
		p.w.hit(copyAtClient)
	}
	if message {
		p.got(f)
	}
}

// look checks the order of the frames.
func (p *phone) look(f device.Frame) {
	switch {
	case f.Kind == device.Welcome:
		p.welcomes = append(p.welcomes, f.Conn)
		copy(p.last[:], f.Positions[:])
		p.gapped = [partitions]bool{true, true}
		return
	case f.Dropped:
		p.gapped = [partitions]bool{true, true}
	case f.Kind == device.Gap:
		p.gapped[f.Partition] = true
	}
	if f.At.Epoch == 0 || p.liar {
		return
	}
	last := &p.last[f.Partition]
	if f.At.Epoch == last.Epoch && (f.At.Offset < last.Offset || f.Kind == device.Message && f.At.Offset == last.Offset) {
		p.w.fail("%s: a frame at %v after one at %v", p.name(), f.At, *last)
	}
	if !p.gapped[f.Partition] {
		p.lookBetween(f.Partition, *last, f.At)
	}
	*last, p.gapped[f.Partition] = f.At, false
}

// lookBetween checks that nothing is missing between two consecutive frames, if the
// log still has it. The client must be told of a loss before it gets what lies
// behind it. A queue that drops the oldest tells of all losses in the place of the
// first.
func (p *phone) lookBetween(partition int, from, to history.Point) {
	if p.oldest {
		return
	}
	for n, due := range p.due {
		owed := due[partition]
		if owed.by == 0 || owed.at.Epoch != from.Epoch || owed.at.Epoch != to.Epoch ||
			owed.at.Offset <= from.Offset || owed.at.Offset >= to.Offset {
			continue
		}
		if p.w.clusters[partition].keeps(owed.at) {
			p.w.fail("%s: between %v and %v it lacks message %d, and is not told there", p.name(), from, to, n)
		}
	}
}

// got checks a message that the client has received.
func (p *phone) got(f device.Frame) {
	m := p.w.message(f.Body)
	// A message that is not kept may still be on its way to another node.
	if on := p.had[m.n]; on == p.session || on != nil && !m.unkept {
		p.w.fail("%s: message %d twice", p.name(), m.n)
	}
	for _, id := range m.letter.Except {
		if slices.Contains(p.welcomes[max(0, len(p.welcomes)-5):], id) {
			p.w.fail("%s: message %d, from which %s was excepted", p.name(), m.n, id)
		}
	}
	p.had[m.n] = p.session
	delete(p.due, m.n)
}

func (p *phone) name() string {
	if p == p.w.phones[0] {
		return "phone 0"
	}
	return "phone 1"
}
