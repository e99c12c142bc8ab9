package herald

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/wake"
)

// A Delivery says who has received a message. No session is in both lists.
type Delivery struct {
	// Received are the sessions whose client has the message; see [Hub.Deliver] for what
	// that means. Missed are the other sessions that the message was meant for: they have
	// given no receipt. Both are ordered oldest first. A session that has gone may have
	// no more than its ID and Node. Both are nil if there are more than 1,000 sessions
	// together, and for Everyone.
	Received, Missed []Session

	ReceivedTotal int // the number of sessions that have received the message
	MissedTotal   int // the number of those that have not
}

// maxDelivery is how long Deliver waits at most, and maxDelivered how many sessions
// it names.
const (
	maxDelivery  = time.Minute
	maxDelivered = 1_000
)

// lookAfter is how often Deliver looks whether the sessions that it waits for are still
// there.
const lookAfter = time.Second

// Deliver sends m as [Hub.Send] does, and waits until each connection of the target
// has received it or has missed it. A connection misses a message if its queue drops
// it, or if it is gone. If its node was killed, that is known when the node's lease
// has run out. Deliver waits until ctx is done, but for a minute at most. A
// session that has given no receipt by then is in Missed; that is no error.
//
// A receipt says that the client's WebSocket implementation has the message. Any
// client gives one, because it answers a ping that follows the message (RFC 6455
// sections 5.5.2 and 5.5.3). Such a receipt does not say that the application has read
// the message. With a Retention, a client that speaks the protocol of PROTOCOL.md gives
// a stronger receipt for a message that is kept: it acknowledges that its program has
// processed the message. A session in Missed may still have the message, because a
// receipt can be lost.
//
// The target's sessions are those that the Registry lists before the message goes
// out, and those that come so soon after that they get it too. For Everyone they are
// counted and not listed. A volatile message that is dropped for a busy client is
// missed, and so is one that gave up its place to a newer one (Message.Conflate).
// With a Retention the message is kept as one of Send is. If a client gets it only
// on its next connection, with what it missed, the session that ended is in Missed.
// If Except names an earlier connection of a client, its current one is in neither
// list.
//
// If the error is not nil, nothing is known of any session. The error is one that Send
// returns. Or it wraps ErrRegistryDown, because the sessions cannot be listed; then
// nothing was sent. If the Hub is shut down meanwhile the error is ErrClosed.
func (h *Hub) Deliver(ctx context.Context, t Target, m Message) (Delivery, error) {
	if err := cmp.Or(t.check(), m.check(h.config.MaxSendSize), t.checkSend()); err != nil {
		return Delivery{}, err
	}
	if t.nobody() {
		return Delivery{}, nil
	}
	d := &delivery{
		hub: h, target: t, filter: t.filter(), message: m,
		listed: make(map[receipts.ID]Session), sessions: make(map[receipts.ID]Session),
		call: receipts.NewCall(), changed: wake.New(),
	}
	err := h.follow(ctx, "Deliver", &t, &m, func(carried *carrier) error {
		d.carrier = carried
		return d.run(ctx)
	})
	if err != nil {
		return Delivery{}, err
	}
	result := d.result()
	h.stats.deliveriesReceived.Add(uint64(result.ReceivedTotal))
	h.stats.deliveriesMissed.Add(uint64(result.MissedTotal))
	return result, nil
}

// follow calls send, which is a Send or a Deliver, and tells the Tracer.
func (h *Hub) follow(ctx context.Context, call string, t *Target, m *Message, send func(*carrier) error) error {
	tracer := h.config.Tracer
	if tracer == nil {
		return send(nil)
	}
	sent, end := tracer.TraceSend(ctx, TracedSend{call, t.kind.String(), len(t.ids), m.len()})
	err := send(sent.encode())
	end(err)
	return err
}

// A delivery is a Deliver under way.
type delivery struct {
	hub     *Hub
	target  Target
	filter  filter
	message Message
	carrier *carrier                // for a Tracer
	listed  map[receipts.ID]Session // by the Registry, before the message goes out

	// Guarded by receiptsRoom.mu once it is open.

	call     *receipts.Call
	sessions map[receipts.ID]Session // listed, and those that nodes have reported
	probing  *probing                // of a probe only

	changed wake.Signal // a report has come
}

func sessionID(s Session) receipts.ID {
	_, counter := cutID(s.ID)
	return receipts.ID{Node: s.Node, Counter: counter}
}

// run sends the message, and returns when all sessions are settled or ctx is done.
func (d *delivery) run(ctx context.Context) error {
	h := d.hub
	ctx, cancel := context.WithTimeout(ctx, maxDelivery)
	defer cancel()
	if err := d.list(ctx); err != nil {
		return err
	}
	id := h.calls.nextID.Add(1)
	h.receipts.open(id, d)
	defer h.receipts.close(id)
	if err := d.send(ctx, id); err != nil {
		return err
	}
	return d.wait(ctx)
}

// list finds the sessions that the message is meant for.
func (d *delivery) list(ctx context.Context) error {
	switch d.target.kind {
	case targetConnection:
		for _, id := range d.target.ids {
			if node, counter := cutID(id); !slices.Contains(d.filter.except, id) {
				d.call.List(receipts.ID{Node: node, Counter: counter})
			}
		}
		return nil
	case targetEveryone:
		nodes, err := d.hub.Nodes(ctx)
		for _, n := range nodes {
			if n.Conns > 0 {
				d.call.Await(n.ID, n.Conns)
			}
		}
		return err
	}
	sessions, err := d.hub.Sessions(ctx, d.target)
	for _, s := range sessions {
		id := sessionID(s)
		d.listed[id] = s
		d.call.List(id)
	}
	maps.Copy(d.sessions, d.listed)
	return err
}

// send hands the message to the Bus.
func (d *delivery) send(ctx context.Context, id uint64) error {
	h := d.hub
	deadline, _ := ctx.Deadline()
	o := outgoings.Get().(*outgoing)
	defer o.release()
	h.pack(o, &d.target, &envelope{
		kind: kindFenced, sender: h.id, id: id, volatile: d.message.volatile, filter: d.filter, message: d.message, carrier: d.carrier,
		receipt: &receipt{within: time.Until(deadline), named: d.target.kind != targetEveryone},
	})
	return h.sendPacked(ctx, o, &d.target, &d.message)
}

// wait waits for the receipts.
func (d *delivery) wait(ctx context.Context) error {
	h := d.hub
	ticker := time.NewTicker(lookAfter)
	defer ticker.Stop()
	for !h.receipts.done(d) {
		select {
		case <-d.changed:
		case <-ticker.C:
			d.look(ctx)
		case <-h.stopped:
			return ErrClosed
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// look settles sessions that have gone without a report: with their node, or before the
// message came to it. While the Registry does not answer, no session is known to have
// gone.
func (d *delivery) look(ctx context.Context) {
	h := d.hub
	ctx, cancel := context.WithTimeout(ctx, lookAfter)
	defer cancel()
	untaken, awaiting, nodes := h.receipts.waiting(d)
	gone := d.goneNodes(ctx, nodes)
	unlisted := make(map[receipts.ID]bool)
	if untaken && d.target.kind != targetConnection {
		if sessions, err := h.Sessions(ctx, d.target); err == nil {
			for id := range d.listed {
				unlisted[id] = true
			}
			for _, s := range sessions {
				delete(unlisted, sessionID(s))
			}
		}
	}
	left := func(string) bool { return false }
	if awaiting {
		if nodes, err := h.Nodes(ctx); err == nil {
			left = func(node string) bool {
				return !slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == node && n.Conns > 0 })
			}
		}
	}
	h.receipts.giveUp(d, func(id receipts.ID, s receipts.State) bool {
		return gone[id.Node] || s == receipts.Listed && unlisted[id]
	}, left)
}

// goneNodes returns the nodes that no longer live. One that has only just come may not be
// known yet, so the Registry is asked, too.
func (d *delivery) goneNodes(ctx context.Context, nodes map[string]bool) map[string]bool {
	presence := d.hub.presence
	drop := func() {
		for node := range presence.heartbeat.living() {
			delete(nodes, node)
		}
	}
	if drop(); len(nodes) == 0 {
		return nil
	}
	if _, _, err := presence.listNodes(ctx); err != nil {
		return nil
	}
	drop()
	return nodes
}

// result says what is known now.
func (d *delivery) result() Delivery {
	r := d.hub.receipts
	r.mu.Lock()
	defer r.mu.Unlock()
	var result Delivery
	result.ReceivedTotal, result.MissedTotal = d.call.Count()
	if d.target.kind == targetEveryone || result.ReceivedTotal+result.MissedTotal > maxDelivered {
		return result
	}
	for id, received := range d.call.All() {
		s, ok := d.sessions[id]
		if !ok {
			s = Session{ID: id.Node + "." + strconv.FormatUint(id.Counter, 10), Node: id.Node}
		}
		if received {
			result.Received = append(result.Received, s)
		} else {
			result.Missed = append(result.Missed, s)
		}
	}
	slices.SortFunc(result.Received, compareSessions)
	slices.SortFunc(result.Missed, compareSessions)
	return result
}

// A fence goes behind one message to Conns whose clients can come back. If the message
// has a position it needs none, because the client acknowledges the position.
type fence struct {
	want  receipts.Wanted
	token receipts.Token

	plain, packed fenced // packed has the message compressed
}

// A fenced is the frame of a message, and that frame with the fence.
type fenced struct{ message, both []byte }

// behind returns the frame with the fence behind it, made once for all Conns.
func (f *fence) behind(message []byte) []byte {
	made := &f.plain
	if message[0]&frame.Compressed != 0 {
		made = &f.packed
	}
	if made.message == nil || !same(made.message, message) {
		made.message = message
		made.both = receipts.AppendFence(append(make([]byte, 0, len(message)+receipts.FenceSize), message...), f.token)
	}
	return made.both
}

// tookFenced does what took does, with a receipt for the message.
func (l *connLog) tookFenced(e *envelope, p *logged, f *fence) {
	place, ok := l.acknowledges(p)
	if !ok {
		l.fence = f
		if l.took(e, p); l.fence != nil { // it is not queued, but comes with what was missed
			l.fence = nil
			l.c.settled(f.want, false)
		}
		return
	}
	l.expect(f.want, place)
	if l.took(e, p); !l.session.Awaits(place.Partition, p.At) {
		l.c.mu.Lock()
		l.expected = l.c.queue.fences.Pass(place)
		l.c.mu.Unlock()
	}
}

// expect opens a receipt for a message that is queued next, or later when it is read from
// the log.
func (l *connLog) expect(want receipts.Wanted, place receipts.Place) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.closing() {
		c.settled(want, false)
		return
	}
	c.openFences().Expect(want, place, clock.Now())
	l.expected++
}

// acknowledges returns the place of a message that the client will acknowledge. There is
// none if the client resumed from a position ahead of the message, because it would
// acknowledge that without having the message.
func (l *connLog) acknowledges(p *logged) (place receipts.Place, ok bool) {
	if !p.Kept || l.k.plain() != "" {
		return place, false
	}
	place = receipts.Place{Partition: p.partition, At: history.Point{Epoch: p.Born, Offset: p.At.Offset}}
	from := l.resume.From[place.Partition]
	return place, from.Epoch != place.At.Epoch || from.Offset < place.At.Offset
}

// place notes that the frame of a message is queued next, if its receipt is expected.
func (l *connLog) place(f *device.Frame, frame []byte) {
	if l.expected == 0 {
		return
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.expected = l.c.queue.fences.Place(receipts.Place{Partition: f.Partition, At: f.At}, &frame[len(frame)-1])
}

// lose notes that a frame is not queued.
func (l *connLog) lose(frame []byte) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.c.queue.fences.Lose(&frame[len(frame)-1])
}

// acknowledged settles the receipts of messages that the client says it has processed.
func (c *Conn) acknowledged(positions *history.Positions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.fences == nil {
		return
	}
	for i, at := range positions {
		if at.Epoch != 0 {
			c.queue.fences.Ack(receipts.Place{Partition: i, At: at})
		}
	}
	if c.queue.fences.Empty() {
		c.queue.fences = nil
	}
}

// was reports whether one of the connections is an earlier one of the client's.
func (l *connLog) was(connections []string) bool {
	return l != nil && slices.ContainsFunc(l.last, func(id string) bool { return slices.Contains(connections, id) })
}
