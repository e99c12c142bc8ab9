package mqttbus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/pieces"
)

// Bounds of what waits for Receive. Beyond them packets are dropped, between
// an EventDown and an EventRestored.
const (
	inboxEvents = 1 << 18
	inboxBytes  = 64 << 20
)

// eventSize is about what an Event takes besides its bytes.
const eventSize = 128

func newInbox() *inbox.Inbox[herald.Event] {
	return inbox.New(inbox.Config[herald.Event]{
		Size:     func(e herald.Event) int { return eventSize + len(e.Packet.Data) },
		MaxItems: inboxEvents,
		MaxBytes: inboxBytes,
		Restored: herald.Event{Kind: herald.EventRestored},
		Refusal:  herald.ErrReceiving,
	})
}

// errInboxFull is why packets that nobody received were dropped.
var errInboxFull = errors.New("mqttbus: Receive is called too slowly")

const (
	// maxEvents and maxBytes are how much goes to the inbox together, which
	// bounds what waits there.
	maxEvents = 256
	maxBytes  = 1 << 20

	// maxAcks is how many bytes of acknowledgements wait to be written.
	maxAcks = 1 << 10

	// reportEvery is how often missing packets are reported.
	reportEvery = time.Second
)

// An inbound takes what comes on one subscribed link. All but live belongs to
// the link's reader.
type inbound struct {
	sub    *subscriber
	link   *link
	topics map[string]*subscription // by the name of the MQTT topic
	own    subscription             // the entry for the probe's topic
	events []herald.Event           // read and not yet in the inbox
	bytes  int                      // their size
	acks   []byte                   // not yet written

	// live is set once the EventRestored that the link brings is queued.
	live atomic.Bool

	// What the broker dropped.

	proof    int64 // when the last probe that came back was sent, on the Bus' clock
	lost     lost  // and not reported
	reports  int   // how many there were
	reported time.Time
}

// A lost is what is to be reported as lost.
type lost struct {
	err    error // nil: nothing
	all    int64 // when every topic began to lose, on the Bus' clock; 0: not every topic has
	topics map[string]struct{}
	since  int64 // when topics began to lose
}

// newInbound returns the successor of old, whose link is dead; old may be nil.
func newInbound(s *subscriber, old *inbound) *inbound {
	in := &inbound{sub: s, topics: make(map[string]*subscription), proof: s.clock()}
	if old != nil {
		in.lost, in.reports, in.reported = old.lost, old.reports, old.reported
	}
	return in
}

// changed takes the answer to a SUBSCRIBE or an UNSUBSCRIBE.
func (in *inbound) changed(a *answer) {
	for i, name := range a.names {
		_, known := in.topics[name]
		switch {
		case a.codes[i] >= 0x80:
		case a.kind == packets.UNSUBACK:
			delete(in.topics, name)
		case name == in.sub.probe:
			in.topics[name] = &in.own
		case !known:
			in.topics[name] = &subscription{topic: a.topics[i]}
		}
	}
}

// publish reads the rest of a PUBLISH (MQTT 5.0, section 3.3).
func (in *inbound) publish(r *bufio.Reader, h fixedHeader) error {
	b, err := r.Peek(2)
	if err != nil {
		return err
	}
	name := 2 + int(binary.BigEndian.Uint16(b))
	qos := h.flags >> 1 & 3
	if name > h.size || name > 2+maxTopicName || qos > 1 {
		return fmt.Errorf("%w: PUBLISH that nobody asked for", errProtocol)
	}
	if b, err = r.Peek(name); err != nil {
		return err
	}
	sub := in.topics[string(b[2:])]
	r.Discard(name)
	rest := h.size - name
	if qos == 1 {
		if b, err = r.Peek(2); err != nil {
			return err
		}
		in.acks = append(in.acks, packets.PUBACK<<4, 2, b[0], b[1])
		r.Discard(2)
		rest -= 2
	}
	properties, n, err := peekVarint(r, 0)
	if err != nil {
		return err
	}
	r.Discard(n)
	if rest -= n + properties; rest < 0 {
		return fmt.Errorf("%w: lengths in a PUBLISH", errProtocol)
	}
	if err := discard(r, properties); err != nil {
		return err
	}
	if retained := h.flags&1 != 0; sub == nil || retained {
		return discard(r, rest)
	}
	if sub == &in.own {
		return in.heard(r, rest)
	}
	return in.packet(r, sub, rest)
}

// packet reads the payload of a PUBLISH to a topic that is subscribed.
func (in *inbound) packet(r *bufio.Reader, sub *subscription, size int) error {
	b, err := r.Peek(min(size, stampSize))
	if err != nil {
		return err
	}
	m, ok := parseStamp(b)
	if !ok {
		in.lose(errForeign, sub, seen{proof: in.proof, reports: -1})
		return discard(r, size)
	}
	switch v, was := sub.look(m, in.proof, in.reports); v {
	case again:
		return discard(r, size)
	case missing:
		in.lose(errMissing, sub, was)
	}
	r.Discard(stampSize)
	if size -= stampSize; size > inboxBytes {
		in.lose(errHuge, sub, seen{proof: in.proof, reports: -1})
		return discard(r, size)
	}
	data, err := pieces.Read(r, size, nil)
	if err != nil {
		return err
	}
	in.events = append(in.events, herald.Event{Kind: herald.EventPacket, Packet: herald.Packet{Topic: sub.topic, Data: data}})
	if in.bytes += len(data); len(in.events) == maxEvents || in.bytes >= maxBytes || len(in.acks) >= maxAcks {
		in.flush()
	}
	return nil
}

// heard reads the payload of a probe: when it was sent.
func (in *inbound) heard(r *bufio.Reader, size int) error {
	b, err := r.Peek(min(size, 8))
	if err != nil {
		return err
	}
	if len(b) == 8 {
		// A time that cannot be is not ours.
		if at := int64(binary.BigEndian.Uint64(b)); at >= in.proof && at <= in.sub.clock() {
			in.proof = at
			in.flush()
			in.sub.echo.Hear(uint64(at))
		}
	}
	return discard(r, size)
}

// lose notes that packets to the topic of sub were lost after was. A broker that
// drops packets of one topic may have dropped some of others, and nobody misses the
// last packet of a topic. So the first hole counts for all topics. A hole that may go
// back to before the last report counts for its own topic alone.
func (in *inbound) lose(err error, sub *subscription, was seen) {
	in.lost.err = err
	if was.reports == in.reports {
		if in.lost.all == 0 || was.proof < in.lost.all {
			in.lost.all = was.proof
		}
		return
	}
	if len(in.lost.topics) == 0 || was.proof < in.lost.since {
		in.lost.since = was.proof
	}
	if in.lost.topics == nil {
		in.lost.topics = make(map[string]struct{})
	}
	in.lost.topics[sub.topic] = struct{}{}
}

// report queues what was lost, as a gap that is over, because packets still come. It
// waits while another gap is open: that would swallow this one, which may go back
// further.
func (in *inbound) report() {
	if in.lost.err == nil || !in.live.Load() || time.Since(in.reported) < reportEvery {
		return
	}
	var events []herald.Event
	gap := func(since int64, topics []string) {
		events = append(events,
			herald.Event{Kind: herald.EventDown, Topics: topics, Since: in.sub.wall(since), Err: in.lost.err},
			herald.Event{Kind: herald.EventRestored, Topics: topics})
	}
	if in.lost.all != 0 {
		gap(in.lost.all, nil)
	}
	if len(in.lost.topics) > 0 {
		gap(in.lost.since, slices.Collect(maps.Keys(in.lost.topics)))
	}
	if in.push(events) {
		in.lost = lost{}
		in.reports++
		in.reported = time.Now()
	}
}

// flush moves what has been read to the inbox, and acknowledges it.
func (in *inbound) flush() {
	in.report()
	if len(in.events) > 0 {
		in.push(in.events)
		clear(in.events)
		in.events, in.bytes = in.events[:0], 0
	}
	if len(in.acks) > 0 {
		if _, err := in.link.write(in.acks); err != nil {
			in.link.fail(err)
		}
		in.acks = in.acks[:0]
	}
}

func (in *inbound) push(events []herald.Event) bool {
	return in.sub.inbox.Push(events, herald.Event{Kind: herald.EventDown, Since: in.sub.uplink.Proved(), Err: errInboxFull})
}

// discard reads n bytes.
func discard(r *bufio.Reader, n int) error {
	_, err := r.Discard(n)
	return err
}
