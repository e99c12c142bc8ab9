package herald

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/wake"
)

// A ProbeResult says how far a probe has come.
type ProbeResult struct {
	Listed time.Duration // from the call until the Registry had listed the target's sessions
	Sent   time.Duration // until the Bus had taken the probe; 0 if it was not sent
	Conns  []ProbedConn  // the target's connections, the oldest first

	// Elsewhere says where on the same Redis one of the users is connected, if the target
	// has no connection here: "Prefix x", or "database 1". It needs a RedisBus, and a Redis
	// user who may call PUBSUB CHANNELS, and PUBSUB SHARDCHANNELS on a Cluster.
	Elsewhere []string
}

// A ProbedConn says how far a probe has come on its way to one connection. Times are
// from the call of [Hub.Probe] on.
type ProbedConn struct {
	Session  Session
	Outcome  ProbeOutcome
	Reached  time.Duration // until this node heard that the connection's node had the probe; 0 if it did not
	Answered time.Duration // until this node heard of the client's answer; 0 if it did not
}

// A ProbeOutcome says where the way of a probe has ended.
type ProbeOutcome string

// The ends of a probe's way.
const (
	ProbeAnswered   ProbeOutcome = "answered"   // the client's WebSocket implementation has answered it
	ProbeUnanswered ProbeOutcome = "unanswered" // it is in the queue or written, and the client has not answered in time
	ProbeLost       ProbeOutcome = "lost"       // the queue gave it up, or the connection ended
	ProbeClosing    ProbeOutcome = "closing"    // the connection is being closed
	ProbeFull       ProbeOutcome = "full"       // the connection's queue had no room for it
	ProbeHeld       ProbeOutcome = "held"       // OnConnect has not returned
	ProbeLeftOut    ProbeOutcome = "left out"   // the target's On, Except or ExceptUser leaves the connection out
	ProbeGone       ProbeOutcome = "gone"       // the Registry lists the connection, and its node does not have it
	ProbeUnheard    ProbeOutcome = "unheard"    // the connection's node has not said that the probe came
	ProbeOlder      ProbeOutcome = "older"      // the node is of an older version of herald, which knows no probes
	ProbeUnsent     ProbeOutcome = "unsent"     // it was not sent: the Bus did not take it, or another node is older
)

// Probe finds out how far a message to the target would get. The target comes from User
// or Group. Probe sends a ping (RFC 6455 section 5.5.2) the way that a message goes:
// over the Bus to the target's topics, and through the queues of its connections. The
// clients' WebSocket implementations answer, and their programs see nothing of it. A
// probe takes no message's place: if a queue is full, that is the outcome. It counts as
// a message in Stats, and is not kept.
//
// Probe waits until the outcome of each connection is known or ctx is done, but for a
// minute at most. The error is one that Send returns, or wraps ErrRegistryDown if the
// sessions cannot be listed, or ErrLimit if there are more than 1,000, or is ErrClosed.
// The ProbeResult has what was known by then.
func (h *Hub) Probe(ctx context.Context, t Target) (ProbeResult, error) {
	if err := cmp.Or(t.check(), t.checkSend()); err != nil {
		return ProbeResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxDelivery)
	defer cancel()
	d := &delivery{
		hub: h, target: t, filter: t.filter(),
		listed: make(map[receipts.ID]Session), sessions: make(map[receipts.ID]Session),
		call: receipts.NewCall(), probing: newProbing(len(t.ids)), changed: wake.New(),
	}
	var result ProbeResult
	sessions, err := h.Sessions(ctx, Target{kind: t.kind, ids: t.ids})
	result.Listed = d.probing.age()
	if err == nil && len(sessions) > maxDelivered {
		err = fmt.Errorf("%w: %d sessions: a probe goes to %d at most", ErrLimit, len(sessions), maxDelivered)
	}
	if err != nil {
		return result, err
	}
	if len(sessions) == 0 && t.kind == targetUser {
		result.Elsewhere = h.elsewhere(ctx, t.topics())
		return result, nil
	}
	older := d.expect(ctx, sessions)
	if !older && d.call.Untaken() {
		id := h.calls.nextID.Add(1)
		h.receipts.open(id, d)
		defer h.receipts.close(id)
		if err = d.probe(ctx, id); err == nil {
			result.Sent = d.probing.age()
			err = d.wait(ctx)
		}
	}
	result.Conns = d.probed(sessions, result.Sent != 0)
	return result, err
}

// maxElsewhere is how many users are looked for elsewhere.
const maxElsewhere = 16

// elsewhere returns where else on this Hub's Redis somebody follows one of the topics. It
// is only a hint, so an error counts as no answer.
func (h *Hub) elsewhere(ctx context.Context, topics []string) (found []string) {
	b, ok := h.bus.(*RedisBus)
	if !ok {
		return nil
	}
	for _, topic := range topics[:min(len(topics), maxElsewhere)] {
		some, _ := b.elsewhere(ctx, topic)
		found = append(found, some...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// expect lists those of the sessions that the probe is meant for. It reports whether one of
// the sessions is on a node that knows no probes. Such a node would take one for a loss,
// even if its session is left out, because it gets what goes to the topic.
func (d *delivery) expect(ctx context.Context, sessions []Session) (older bool) {
	versions := d.hub.presence.versions(ctx) // asks the Registry, or a node that has just come would count as an older one
	for _, s := range sessions {
		id := sessionID(s)
		old := versions[s.Node] < int(kindProbe.version())
		older = older || old
		if !d.filter.passesSession(s) {
			d.probing.conns[id] = ProbedConn{Outcome: ProbeLeftOut}
			continue
		}
		if old {
			d.probing.conns[id] = ProbedConn{Outcome: ProbeOlder}
			continue
		}
		d.listed[id], d.sessions[id] = s, s
		d.call.List(id)
	}
	return older
}

// probe hands the probe to the Bus.
func (d *delivery) probe(ctx context.Context, id uint64) error {
	h := d.hub
	deadline, _ := ctx.Deadline()
	o := outgoings.Get().(*outgoing)
	defer o.release()
	h.pack(o, &d.target, &envelope{
		kind: kindProbe, sender: h.id, id: id, filter: d.filter,
		receipt: &receipt{within: time.Until(deadline), named: true},
	})
	ctx, release := h.sendEnds.Now().Bound(ctx)
	defer release()
	return h.publish(ctx, o.packets...)
}

// probed returns the outcomes, also of connections that the Registry did not list.
func (d *delivery) probed(sessions []Session, sent bool) []ProbedConn {
	r := d.hub.receipts
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range sessions {
		d.sessions[sessionID(s)] = s
	}
	conns := make([]ProbedConn, 0, len(d.sessions))
	for id, s := range d.sessions {
		c := d.probing.conns[id]
		c.Session = s
		switch {
		case c.Outcome != "":
		case !sent:
			c.Outcome = ProbeUnsent
		case d.probing.told[id.Node]:
			c.Outcome = ProbeGone
		default:
			c.Outcome = ProbeUnheard
		}
		conns = append(conns, c)
	}
	slices.SortFunc(conns, func(a, b ProbedConn) int { return compareSessions(a.Session, b.Session) })
	return conns
}

// A probing is what has been heard of a probe. Guarded by receiptsRoom.mu.
type probing struct {
	begun int64 // on clock
	names int   // how many the target has
	conns map[receipts.ID]ProbedConn
	told  map[string]bool // nodes that have told of all their connections; none if there are several names
}

func newProbing(names int) *probing {
	return &probing{begun: clock.Now(), names: names, conns: make(map[receipts.ID]ProbedConn), told: make(map[string]bool)}
}

func (t *probing) age() time.Duration { return time.Duration(clock.Now() - t.begun) }

// note takes a node's report.
func (t *probing) note(call *receipts.Call, id receipts.ID, what reported) {
	if what == reportTold {
		if t.names > 1 { // the probe comes in a packet for each name, and this is about one of them
			return
		}
		t.told[id.Node] = true // it does not have connections that it has not reported
		call.GiveUp(func(o receipts.ID, s receipts.State) bool { return o.Node == id.Node && s == receipts.Listed }, func(string) bool { return false })
		return
	}
	c := t.conns[id]
	c.Reached = cmp.Or(c.Reached, t.age())
	switch what {
	case reportTaken, reportTakenNamed:
		c.Outcome = ProbeUnanswered
	case reportReceived:
		c.Outcome, c.Answered = ProbeAnswered, t.age()
	case reportMissed:
		c.Outcome = ProbeLost
	case reportClosing:
		c.Outcome = ProbeClosing
	case reportFull:
		c.Outcome = ProbeFull
	case reportHeld:
		c.Outcome = ProbeHeld
	}
	t.conns[id] = c
}

// takeProbe queues a probe for those Conns that it is for, and reports on each.
func (h *Hub) takeProbe(e *envelope, conns []*Conn) {
	want := receipts.Wanted{Node: e.sender, ID: e.id, Until: clock.Now() + int64(min(e.receipt.within, maxDelivery))}
	token := receipts.Token(rand.Uint64())
	fence := receipts.AppendFence(make([]byte, 0, receipts.FenceSize), token)
	sieve := newSieve(h.id, &e.filter)
	for _, c := range conns {
		if sieve.passes(c) {
			c.takeProbe(want, token, fence)
		}
	}
	h.receipts.owe(outgoingReport{Wanted: want, what: reportTold})
}

// takeProbe queues a fence that has no message, and reports that, or why it does not.
func (c *Conn) takeProbe(want receipts.Wanted, token receipts.Token, fence []byte) {
	h := c.hub
	c.mu.Lock()
	q := &c.queue
	report := outgoingReport{Wanted: want, counter: c.counter}
	switch {
	case c.state.closing():
		report.what = reportClosing
	case c.state != connOpen:
		report.what = reportHeld
	case q.full(&h.config, len(fence)):
		report.what = reportFull
	}
	if report.what != 0 {
		c.mu.Unlock()
		h.receipts.owe(report)
		return
	}
	report.what, report.conn = reportTaken, c
	h.receipts.owe(report) // before it can be answered
	end := &fence[len(fence)-1]
	c.openFences().Add(want, token, end, clock.Now())
	q.put(fence)
	q.fences.Queued(end)
	change := 0
	if q.outgrown() {
		change = q.settle()
	}
	start := c.claim()
	c.mu.Unlock()
	if !q.log.comesBack() {
		h.stats.delivered.Add(1)
	}
	c.start(start)
	if change != 0 && h.budget.change(change) {
		h.look()
	}
}
