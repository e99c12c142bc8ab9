package herald

import (
	"context"
	"encoding/binary"
	"strconv"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/redisregistry"
	"github.com/heraldgo/herald/internal/wake"
	"github.com/heraldgo/herald/internal/wire"
)

// A receiptsRoom has the receipts that this node waits for, and those that it owes
// to other nodes. One goroutine sends these, many in one packet.
type receiptsRoom struct {
	node    string // this one
	config  *Config
	publish func(context.Context, ...Packet) error

	mu         sync.Mutex
	deliveries map[uint64]*delivery

	outMu sync.Mutex // below Conn.mu
	out   []outgoingReport

	wake wake.Signal // for run
}

// An outgoingReport is a report on its way to the node that waits for it.
type outgoingReport struct {
	receipts.Wanted
	what    reported
	counter uint64
	conn    *Conn // reportTaken only: the Conn whose Session is to be reported, or nil
}

// maxReports is how many reports wait at most. More are dropped, and the node that
// waits for them counts the message as missed. reportsSize is how many bytes of
// reports share a packet.
const (
	maxReports  = 1 << 20
	reportsSize = 32 << 10
)

func newReceiptsRoom(node string, config *Config, publish func(context.Context, ...Packet) error) *receiptsRoom {
	return &receiptsRoom{node: node, config: config, publish: publish, deliveries: make(map[uint64]*delivery), wake: wake.New()}
}

func (r *receiptsRoom) open(id uint64, d *delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries[id] = d
}

func (r *receiptsRoom) close(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.deliveries, id)
}

func (r *receiptsRoom) done(d *delivery) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.call.Done()
}

// waiting reports whether there are listed connections that no node has reported on
// (untaken), and nodes that have not reported all of theirs (awaiting). nodes are those
// that have connections which are waited for.
func (r *receiptsRoom) waiting(d *delivery) (untaken, awaiting bool, nodes map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return d.call.Untaken(), d.call.Awaiting(), d.call.Nodes()
}

func (r *receiptsRoom) giveUp(d *delivery, gone func(receipts.ID, receipts.State) bool, left func(string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.call.GiveUp(gone, left)
}

// hear takes a node's reports. A node is believed about its own connections only.
func (r *receiptsRoom) hear(node string, reports []report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range reports {
		p := &reports[i]
		d := r.deliveries[p.id]
		if d == nil {
			continue // nobody waits for it any more
		}
		id := receipts.ID{Node: node, Counter: p.counter}
		switch p.what {
		case reportTaken, reportTakenNamed:
			if d.call.Take(id); p.session != nil {
				d.sessions[id] = *p.session
			}
		case reportReceived, reportMissed:
			d.call.Settle(id, p.what == reportReceived)
		case reportSpared:
			d.call.Spare(id)
		case reportTold:
			d.call.Told(node)
		case reportFull, reportHeld, reportClosing:
			d.call.Take(id)
			d.call.Settle(id, false)
		}
		if d.probing != nil {
			d.probing.note(d.call, id, p.what)
		}
		d.changed.Set()
	}
}

// owe has reports sent. It never waits.
func (r *receiptsRoom) owe(reports ...outgoingReport) {
	r.outMu.Lock()
	if len(r.out)+len(reports) <= maxReports {
		r.out = append(r.out, reports...)
	}
	r.outMu.Unlock()
	r.wake.Set()
}

// run sends reports until ctx is done.
func (r *receiptsRoom) run(ctx context.Context) {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		r.outMu.Lock()
		out := r.out
		r.out = nil
		r.outMu.Unlock()
		if len(out) > 0 {
			r.send(ctx, out)
		}
	}
}

// send publishes reports, those to one node in their order. If that fails they are
// lost, and the nodes that wait for them count the message as missed.
func (r *receiptsRoom) send(ctx context.Context, out []outgoingReport) {
	byNode := make(map[string]*receipt)
	var packets []Packet
	flush := func(node string) {
		e := envelope{kind: kindReceipts, sender: r.node, receipt: byNode[node]}
		packets = append(packets, Packet{nodeTopic(node), e.encode()})
		delete(byNode, node)
	}
	for _, o := range out {
		p := report{id: o.ID, what: o.what, counter: o.counter}
		if o.conn != nil {
			s := o.conn.Session()
			p.what, p.session = reportTakenNamed, &s
		}
		to := byNode[o.Node]
		if to == nil {
			to = &receipt{}
			byNode[o.Node] = to
		}
		before := to.encoded
		if to.encoded = p.append(before); len(to.encoded)-len(before) > maxListedBytes {
			p.what = reportTaken // without the Session, which no packet has room for
			to.encoded = p.append(before)
		}
		if to.n++; len(to.encoded) >= reportsSize {
			flush(o.Node)
		}
	}
	for node := range byNode {
		flush(node)
	}
	ctx, cancel := r.config.timeout(ctx)
	defer cancel()
	r.publish(ctx, packets...)
}

// openFences returns the Conn's fences. The caller holds c.mu.
func (c *Conn) openFences() *receipts.Fences {
	if c.queue.fences == nil {
		c.queue.fences = receipts.NewFences(c.settled)
	}
	return c.queue.fences
}

// enqueueFenced enqueues a frame that ends with a fence. The fence is open before it
// is queued, because it may be answered at once.
func (c *Conn) enqueueFenced(fenced []byte, volatile bool, key *conflate.Key, want receipts.Wanted, token receipts.Token) {
	q, end := &c.queue, &fenced[len(fenced)-1]
	c.mu.Lock()
	c.openFences().Add(want, token, end, clock.Now())
	c.mu.Unlock()
	err := c.enqueue(fenced, volatile, key)
	c.mu.Lock()
	if err == nil {
		q.fences.Queued(end)
	} else {
		q.fences.Lose(end)
	}
	c.mu.Unlock()
}

// settled reports that a fence has been answered, or never will be. The caller holds
// c.mu.
func (c *Conn) settled(w receipts.Wanted, received bool) {
	what := reportMissed
	if received {
		what = reportReceived
	}
	c.hub.receipts.owe(outgoingReport{Wanted: w, what: what, counter: c.counter})
}

// receipt takes the payload of a pong, and reports whether a fence has asked for one.
func (c *Conn) receipt(payload []byte) (asked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := &c.queue
	asked = q.fences.Pong(payload)
	if q.fences.Empty() {
		q.fences = nil
	}
	return asked
}

// owesReceipt reports whether a pong is awaited.
func (c *Conn) owesReceipt() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.queue.fences.Empty()
}

// A reported is what a node says of a receipt.
type reported uint8

const (
	reportTaken      reported = iota + 1 // the message is for this Conn
	reportTakenNamed                     // and this is its Session
	reportReceived                       // a pong or an acknowledgement has come
	reportMissed                         // none will come
	reportSpared                         // the target's filter leaves the Conn out
	reportTold                           // this node has reported on all of its Conns

	// For a probe, instead of reportTaken.

	reportFull    // the Conn's queue has no room
	reportHeld    // OnConnect has not returned
	reportClosing // the Conn is being closed
)

// A receipt is the part of an envelope that is about receipts.
type receipt struct {
	// kindFenced only.

	within time.Duration // how long the sender waits
	named  bool          // it wants to know Sessions

	// kindReceipts only.

	encoded []byte // n reports, if they are to be sent
	n       int
	reports []report // the reports, if they were decoded
}

func (r *receipt) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(max(r.within.Milliseconds(), 0)))
	if r.named {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeReceipt(d *wire.Decoder) *receipt {
	ms := min(d.Uvarint(), uint64(maxDelivery.Milliseconds()))
	named := d.Byte()
	d.Bad = d.Bad || named > 1
	return &receipt{within: time.Duration(ms) * time.Millisecond, named: named == 1}
}

// A report says what has become of the message, with this id, for one Conn of the
// node that reports.
type report struct {
	id      uint64
	what    reported
	counter uint64
	session *Session // of reportTakenNamed
}

func (p *report) append(b []byte) []byte {
	b = binary.AppendUvarint(b, p.id)
	b = append(b, byte(p.what))
	b = binary.AppendUvarint(b, p.counter)
	if p.what == reportTakenNamed {
		s := encodeSession(*p.session)
		b = wire.AppendString(b, s.User)
		b = binary.AppendVarint(b, s.Since.UnixMicro())
		b = wire.AppendString(b, s.Body)
	}
	return b
}

// decodeReports decodes the reports of the node.
func decodeReports(d *wire.Decoder, node string) *receipt {
	r := &receipt{}
	for n := d.Uvarint(); n > 0 && !d.Bad; n-- {
		p := report{id: d.Uvarint(), what: reported(d.Byte()), counter: d.Uvarint()}
		switch {
		case p.what < reportTaken || p.what > reportClosing:
			d.Bad = true
		case p.what == reportTakenNamed:
			id := node + "." + strconv.FormatUint(p.counter, 10)
			encoded := redisregistry.Session{ID: id, Node: node, User: d.Text(), Since: time.UnixMicro(d.Varint()), Body: d.Text()}
			s, ok := decodeSession(encoded)
			p.session, d.Bad = &s, d.Bad || !ok
		}
		r.reports = append(r.reports, p)
	}
	return r
}
