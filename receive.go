package herald

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/deflate"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/loan"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/ring"
	"github.com/heraldgo/herald/internal/watching"
)

// receive takes what the Bus hands over, until the Bus is closed. It never
// writes to a socket, and never waits for a Conn, a confirmation or a
// callback.
func (h *Hub) receive(ctx context.Context) {
	var scratch []*Conn
	next := func(ctx context.Context) (Event, *loan.Buffer, error) {
		e, err := h.bus.Receive(ctx)
		return e, nil, err
	}
	if b, ok := h.bus.(*RedisBus); ok {
		next = b.receiveLent
	}
	for {
		e, lent, err := next(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, ErrClosed) {
				return
			}
			h.config.Logger.Error("herald: the Bus does not hand over", slog.Any("err", err))
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		switch e.Kind {
		case EventPacket:
			if isWatchTopic(e.Packet.Topic) {
				h.hearChanges(e.Packet)
				continue
			}
			if h.keeping != nil && e.Packet.Topic != topicHeartbeat {
				h.keeping.pushPacket(e.Packet)
				continue
			}
			scratch = h.take(e.Packet, nil, lent, scratch)
		case EventDown:
			h.gaps.down(e)
			if h.keeping != nil {
				h.keeping.pushLink(driver.Down, e.Topics)
			}
		case EventRestored:
			if h.keeping != nil {
				h.keeping.pushLink(driver.Restored, e.Topics)
			}
			if e.Topics == nil || slices.Contains(e.Topics, topicHeartbeat) {
				h.heartbeat.restart(e.Topics == nil)
			}
			h.gaps.restored(e)
			h.presence.doubt() // a failover may have lost entries too
			h.presence.housekeep()
			h.watching.Doubt()
		}
	}
}

// keepHeader bounds what queues keep in memory and do not count: they count a frame
// alone, but keep its whole envelope. If the rest of that is longer than the frame and
// keepHeader together, the frame is copied.
const keepHeader = 1 << 10

// take handles one packet. kept is its place in the log, if there is one, and lent the
// loan that its memory is on, if any. It returns scratch, whose memory it uses.
func (h *Hub) take(p Packet, kept *logged, lent *loan.Buffer, scratch []*Conn) []*Conn {
	clear(scratch)
	scratch = scratch[:0]
	own := p.Topic == topicHeartbeat || p.Topic == h.nodeTopic
	if !own {
		if scratch = h.index.appendConns(scratch, p.Topic); len(scratch) == 0 {
			h.unclaimed(p.Topic)
			return scratch
		}
	}
	h.stats.received.Add(1)
	e, err := decodeEnvelope(p.Data, h.maxFrame())
	if err == nil && own == (e.kind == kindMessage || e.kind == kindProbe) && e.kind != kindFenced {
		err = errMalformed
	}
	if err != nil {
		h.stats.malformed.Add(1)
		h.gaps.malformed(p.Topic, h.heartbeat.lastProof(), err)
		return scratch
	}
	if header := len(p.Data) - len(e.frame); header > len(e.frame)+keepHeader {
		e.frame, lent = bytes.Clone(e.frame), nil
	}
	switch e.kind {
	case kindMessage:
		h.deliver(&e, kept, lent, scratch)
	case kindDirect:
		for _, id := range e.conns {
			if c := h.index.withID(h.id, id); c != nil {
				scratch = append(scratch, c)
			} else {
				h.stats.gone.Add(1)
			}
		}
		h.deliver(&e, kept, lent, scratch)
	case kindCall:
		h.calls.push(incomingCall{call: e.call, filter: e.filter, sender: e.sender, id: e.id, bytes: len(p.Data) + callSize + nameSize*e.names()})
	case kindAnswer:
		h.heartbeat.answered(e.sender)
		h.calls.answered(e.id, e.sender, e.err)
	case kindFenced:
		h.deliverFenced(&e, kept, scratch)
	case kindReceipts:
		h.receipts.hear(e.sender, e.receipt.reports)
	case kindQuestion:
		h.inspector.push(&e)
	case kindStatement:
		h.inspector.hear(&e)
	case kindProbe:
		h.takeProbe(&e, scratch)
	case kindHeartbeat:
		counts := h.heartbeat.hear(&e)
		if counts && e.notice&noticeLost != 0 && e.sender != h.id {
			h.presence.renewSoon()
		}
		if e.notice&noticeLeaving != 0 {
			h.calls.left(e.sender)
		}
	}
	return scratch
}

// hearChanges hands the changes of a group to those who watch it.
func (h *Hub) hearChanges(p Packet) {
	groupTopic := string(p.Topic[0]-'w'+'g') + p.Topic[1:]
	watched, err := h.watching.Hear(groupTopic, p.Data)
	if !watched {
		h.unclaimed(p.Topic)
		return
	}
	h.stats.received.Add(1)
	if err != nil { // its Room asks for the list
		h.stats.malformed.Add(1)
	}
}

// putChanges publishes changes to those who watch their topics.
func (h *Hub) putChanges(changes []Change) {
	encoded := make([]watching.Change, len(changes))
	for i, c := range changes {
		encoded[i] = watching.Change{Topic: c.Topic, Number: c.Number, Session: encodeSession(c.Session), Left: c.Left}
	}
	h.changes.Put(encoded)
}

// unclaimed counts a packet that is for nobody here.
func (h *Hub) unclaimed(topic string) {
	if h.follower.Follows(topic) {
		h.stats.lingering.Add(1)
	} else {
		h.stats.foreign.Add(1)
	}
}

// fewHolders is how many Conns at most hold memory that is on loan.
const fewHolders = 16

// deliver puts a message into the queues of those Conns that it is for.
func (h *Hub) deliver(e *envelope, kept *logged, lent *loan.Buffer, conns []*Conn) {
	if e.carrier != nil || len(conns) > fewHolders {
		lent = nil // the Tracer may keep a part of it; and if many count holders, that costs more than garbage
	}
	defer lent.Release()
	taken := 0
	if end := h.followed(e); end != nil {
		defer func() { end(taken) }()
	}
	var had map[uint64]struct{}
	if e.copies {
		had = h.copies.of(e.sender, e.id)
	}
	frame := deflate.Frame{Plain: e.frame}
	sieve := newSieve(h.id, &e.filter)
	if busTook := h.heartbeat.unmeasured.Load(); busTook != 0 {
		defer h.measureLag(clock.Now()-busTook, &sieve, conns)
	}
	for _, c := range conns {
		if !sieve.passes(c) || kept != nil && c.queue.log.took(e, kept) {
			continue
		}
		if had != nil {
			if _, again := had[c.counter]; again {
				continue
			}
			had[c.counter] = struct{}{}
		}
		f, in := frame.For(c.deflates), lent
		if f[0] != e.frame[0] { // compressed, in memory of its own
			in = nil
		}
		c.enqueueLent(f, in, e.volatile, e.key)
		taken++
	}
}

// followed tells the Tracer that a delivery begins. It returns the function that ends it,
// or nil.
func (h *Hub) followed(e *envelope) (end func(conns int)) {
	if e.carrier == nil || h.config.Tracer == nil {
		return nil
	}
	return h.config.Tracer.TraceDelivery(e.carrier.decode())
}

// measureLag has one of a message's Conns, at random, measure its lag. sent is when the
// message was sent, as far as is known.
func (h *Hub) measureLag(sent int64, sieve *sieve, conns []*Conn) {
	if len(conns) == 0 {
		return
	}
	c := conns[rand.IntN(len(conns))]
	if !sieve.passes(c) {
		return
	}
	h.heartbeat.unmeasured.Store(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state.closing():
	case c.queue.size() > 0:
		c.queue.measure(sent, &h.stats.lag)
	default: // it is written already
		h.stats.lag.Observe(time.Duration(clock.Now() - sent))
	}
}

// copies remembers, for messages that come in several packets, which Conns
// have had them. The packets of one Send come close together, so that few
// messages need be remembered.
type copies struct {
	had   map[copyKey]map[uint64]struct{}
	order ring.Ring[copyKey]
	conns int // in all of had except the last
}

type copyKey struct {
	sender string
	id     uint64
}

// maxCopies is how many messages are remembered, and maxCopyConns how many Conns for all
// of them together.
const (
	maxCopies    = 4_096
	maxCopyConns = 1 << 18
)

func (s *copies) of(sender string, id uint64) map[uint64]struct{} {
	key := copyKey{sender, id}
	if had, ok := s.had[key]; ok {
		return had
	}
	if s.had == nil {
		s.had = make(map[copyKey]map[uint64]struct{})
	}
	if n := s.order.Len(); n > 0 {
		s.conns += len(s.had[*s.order.At(n - 1)])
	}
	for s.order.Len() >= maxCopies || s.conns > maxCopyConns && s.order.Len() > 1 {
		oldest := s.order.Pop()
		s.conns -= len(s.had[oldest])
		delete(s.had, oldest)
	}
	had := make(map[uint64]struct{})
	s.had[key] = had
	s.order.Push(key)
	return had
}

// deliverFenced puts a message into the queues of those Conns that it is for, with a
// fence behind it, and reports these Conns. All of them get the same fence.
func (h *Hub) deliverFenced(e *envelope, kept *logged, conns []*Conn) {
	var takers []*Conn
	if end := h.followed(e); end != nil {
		defer func() { end(len(takers)) }()
	}
	want := receipts.Wanted{Node: e.sender, ID: e.id, Until: clock.Now() + int64(min(e.receipt.within, maxDelivery))}
	var reports []outgoingReport
	add := func(what reported, counter uint64, c *Conn) {
		reports = append(reports, outgoingReport{Wanted: want, what: what, counter: counter, conn: c})
	}
	for _, id := range e.conns {
		c := h.index.withID(h.id, id)
		if c == nil {
			h.stats.gone.Add(1)
			counter, _ := counterOf(h.id, id)
			add(reportMissed, counter, nil)
			continue
		}
		conns = append(conns, c)
	}
	var had map[uint64]struct{}
	if e.copies {
		had = h.copies.of(e.sender, e.id)
	}
	sieve := newSieve(h.id, &e.filter)
	takers = conns[:0]
	for _, c := range conns {
		if was := c.queue.log.was(e.filter.except); was || !sieve.passes(c) {
			if was || len(e.conns) > 0 { // else nobody has listed it
				add(reportSpared, c.counter, nil)
			}
			continue
		}
		plain := kept != nil && !c.queue.log.comesBack()
		if plain && c.queue.log.took(e, kept) {
			add(reportMissed, c.counter, nil)
			continue
		}
		if _, again := had[c.counter]; again {
			if kept != nil && !plain {
				c.queue.log.took(e, kept)
			}
			continue
		}
		if had != nil {
			had[c.counter] = struct{}{}
		}
		named := c
		if !e.receipt.named || len(takers) >= maxDelivered {
			named = nil
		}
		add(reportTaken, c.counter, named)
		takers = append(takers, c)
	}
	add(reportTold, 0, nil)
	h.receipts.owe(reports...) // before any of them can be settled
	frame := deflate.Frame{Plain: e.frame}
	f := &fence{want: want, token: receipts.Token(rand.Uint64())}
	for _, c := range takers {
		if kept != nil && c.queue.log.comesBack() {
			c.queue.log.tookFenced(e, kept, f)
		} else {
			c.enqueueFenced(f.behind(frame.For(c.deflates)), e.volatile, e.key, want, f.token)
		}
	}
}
