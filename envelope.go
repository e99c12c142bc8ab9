package herald

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/wire"
)

// envelopeVersion is the newest envelope that this code understands. The version is the
// first byte of every packet's data; a packet of a later one is counted and makes a Gap.
// So a node sends what is new in a version only to nodes whose leases say that they
// understand it.
const envelopeVersion = 2

// version returns the version that brought the kind.
func (k envelopeKind) version() byte {
	if k >= kindQuestion {
		return 2
	}
	return 1
}

type envelopeKind uint8

// A notice is what a heartbeat says besides that its node lives.
type notice byte

const (
	noticeLeaving notice = 1 << iota // it is the node's last
	noticeLost                       // the Registry has lost leases: renew yours
	noticeKeeps                      // what the node sends goes through the log
)

const (
	kindMessage   envelopeKind = iota + 1 // to the Conns of the packet's topic
	kindDirect                            // to the Conns that the envelope lists
	kindCall                              // Join, Leave or Disconnect
	kindAnswer                            // to a call
	kindHeartbeat                         // to every node
	kindFenced                            // a message for which the sender wants receipts; to the Conns listed, or those of the topic
	kindReceipts                          // to the node that wants them
	kindQuestion                          // what a node knows of itself, or of Conns
	kindStatement                         // the answer
	kindProbe                             // kindFenced without a message
)

// Flags of a message's envelope.
const (
	flagVolatile = 1 << iota
	flagFilter   // Except, ExceptUser or On follow
	flagOn       // the filter's platforms hold, even if there are none
	flagCopies   // one of several packets of one Send that may reach a Conn twice
	flagExtended // extensions follow
	flagsKnown   = 1<<iota - 1
)

// Bounds of an envelope, besides those of its lists. A node refuses one that breaks them,
// and no node sends one, so that what a packet costs is in proportion to its bytes.
const (
	maxHeader     = maxListedBytes + 128<<10
	maxAnswer     = 1 << 10 // bytes of the error in an answer
	maxExtensions = 4 << 10 // bytes
)

var errMalformed = errors.New("malformed envelope")

// An envelope is the Hub's own wrapping of what goes over the Bus. An envelope
// that comes from there is not trusted: decodeEnvelope checks every length.
type envelope struct {
	kind     envelopeKind
	volatile bool
	filter   filter

	// All kinds after kindDirect have these, and messages whose other packets may reach
	// the same Conn.
	sender string
	id     uint64
	copies bool

	carrier *carrier      // of a message that a Tracer follows; a part of what was decoded
	conns   []string      // kindDirect, and kindFenced if it goes to a node
	message Message       // if it is to be encoded
	frame   []byte        // if it was decoded: the WebSocket frame, header and all
	key     *conflate.Key // the message's; nil if it has none
	call    call          // kindCall only
	err     string        // kindAnswer only: why it could not be done
	receipt *receipt      // kindFenced, kindProbe and kindReceipts only

	target    targetKind // kindQuestion only: 0 is the node itself
	ids       []string   // the target's
	statement []byte     // kindStatement only

	// kindHeartbeat only. Its number is the id.

	notice notice
	whole  int64 // the generation of the lease under which all entries of the node are
}

// names returns how many names the envelope lists.
func (e *envelope) names() int {
	f, c := &e.filter, &e.call
	return len(f.except) + len(f.exceptUsers) + len(f.platforms) + len(e.conns) + len(e.ids) + len(c.ids) + len(c.groups)
}

// encode returns the bytes of the envelope.
func (e *envelope) encode() []byte {
	return e.append(make([]byte, 0, 64+e.message.len()))
}

func (e *envelope) append(b []byte) []byte {
	flags := byte(0)
	if e.volatile {
		flags |= flagVolatile
	}
	if !e.filter.empty() {
		flags |= flagFilter
	}
	if e.filter.on {
		flags |= flagOn
	}
	if e.copies {
		flags |= flagCopies
	}
	if e.carrier != nil || e.key != nil {
		flags |= flagExtended
	}
	b = append(b, e.kind.version(), byte(e.kind), flags)
	if flags&flagExtended != 0 {
		b = e.appendExtensions(b)
	}
	if flags&flagFilter != 0 {
		b = wire.AppendStrings(b, e.filter.except)
		b = wire.AppendStrings(b, e.filter.exceptUsers)
		b = wire.AppendStrings(b, e.filter.platforms)
	}
	if e.kind > kindDirect || e.copies {
		b = wire.AppendString(b, e.sender)
		b = binary.AppendUvarint(b, e.id)
	}
	switch e.kind {
	case kindMessage:
		return e.message.appendFrame(b)
	case kindDirect:
		return e.message.appendFrame(wire.AppendStrings(b, e.conns))
	case kindFenced:
		b = wire.AppendStrings(e.receipt.append(b), e.conns)
		return e.message.appendFrame(b)
	case kindReceipts:
		b = append(binary.AppendUvarint(b, uint64(e.receipt.n)), e.receipt.encoded...)
	case kindCall:
		b = e.call.append(b)
	case kindAnswer:
		b = wire.AppendString(b, e.err)
	case kindQuestion:
		b = wire.AppendStrings(append(b, byte(e.target)), e.ids)
	case kindStatement:
		b = wire.AppendString(b, string(e.statement))
	case kindProbe:
		b = e.receipt.append(b)
	case kindHeartbeat:
		b = binary.AppendUvarint(append(b, byte(e.notice)), uint64(e.whole))
	}
	return b
}

// decodeEnvelope decodes what encode has made. The frame is a part of b, and has at most
// maxFrame bytes.
func decodeEnvelope(b []byte, maxFrame int) (e envelope, err error) {
	if len(b) < 3 {
		return envelope{}, errMalformed
	}
	if len(b) > maxHeader+maxFrame {
		return envelope{}, tooLarge(len(b), 0, maxFrame)
	}
	e.kind = envelopeKind(b[1])
	if b[0] != e.kind.version() {
		return envelope{}, fmt.Errorf("envelope of version %d and kind %d: this node understands version %d", b[0], e.kind, envelopeVersion)
	}
	flags := b[2]
	if flags > flagsKnown {
		return envelope{}, errMalformed
	}
	e.volatile = flags&flagVolatile != 0
	e.filter.on = flags&flagOn != 0
	e.copies = flags&flagCopies != 0
	d := wire.Decoder{Rest: b[3:], Limit: maxListed}
	if flags&flagExtended != 0 {
		section := d.Bytes()
		if d.Bad || len(section) > maxExtensions {
			return envelope{}, errMalformed
		}
		if err := e.decodeExtensions(section); err != nil {
			return envelope{}, err
		}
	}
	if flags&flagFilter != 0 {
		e.filter.except = d.Names()
		e.filter.exceptUsers = d.Names()
		e.filter.platforms = d.Strings()
	}
	if e.kind > kindDirect || e.copies {
		e.sender = d.Text()
		e.id = d.Uvarint()
	}
	switch e.kind {
	case kindMessage:
	case kindDirect:
		e.conns = d.Names()
	case kindCall:
		e.call.decode(&d)
	case kindAnswer:
		e.err = d.Text()
	case kindHeartbeat:
		e.notice = notice(d.Byte())
		e.whole = int64(d.Uvarint())
	case kindFenced:
		e.receipt = decodeReceipt(&d)
		e.conns = d.Names()
	case kindReceipts:
		e.receipt = decodeReports(&d, e.sender)
	case kindQuestion:
		e.target, e.ids = targetKind(d.Byte()), d.Names()
		d.Bad = d.Bad || e.target > targetEveryone
	case kindStatement:
		e.statement = d.Bytes()
	case kindProbe:
		e.receipt = decodeReceipt(&d)
	default:
		d.Bad = true
	}
	if d.Bad || len(e.sender) > maxNodeID || len(e.err) > maxAnswer {
		return envelope{}, errMalformed
	}
	if len(b)-len(d.Rest) > maxHeader || len(d.Rest) > maxFrame {
		return envelope{}, tooLarge(len(b)-len(d.Rest), len(d.Rest), maxFrame)
	}
	if e.kind > kindDirect && e.kind != kindFenced {
		if len(d.Rest) > 0 {
			return envelope{}, errMalformed
		}
		return e, nil
	}
	if !frame.Valid(d.Rest) {
		return envelope{}, errMalformed
	}
	e.frame = d.Rest
	return e, nil
}

func tooLarge(header, frame, maxFrame int) error {
	return fmt.Errorf("envelope of %d bytes and a frame of %d: at most %d and %d are taken", header, frame, maxHeader, maxFrame)
}

// maxFrame returns the most bytes that the frame of a message has.
func (h *Hub) maxFrame() int { return int(h.config.MaxSendSize) + frame.MaxHeader }

// Extensions are tags, each followed by a length and that many bytes. The length of them
// all comes first. A node skips even tags that it does not know. It refuses unknown odd
// ones, because without them the rest would be misunderstood. Tag 2, the place in the
// log, is internal/history/packet's.
const (
	tagTrace = 4
	tagKey   = 6 // the Sum of a message's key
)

// appendExtensions appends what a message has, packet.MaxExtensions at most.
func (e *envelope) appendExtensions(b []byte) []byte {
	at := len(b)
	b = append(b, 0)
	if e.carrier != nil {
		b = append(append(b, tagTrace, byte(len(e.carrier))), e.carrier[:]...)
	}
	if e.key != nil {
		b = append(append(b, tagKey, conflate.SumSize), e.key.Sum[:]...)
	}
	b[at] = byte(len(b) - at - 1)
	return b
}

func (e *envelope) decodeExtensions(section []byte) error {
	d := wire.Decoder{Rest: section}
	for len(d.Rest) > 0 {
		tag, value := d.Uvarint(), d.Bytes()
		switch {
		case d.Bad:
			return errMalformed
		case tag == tagTrace && len(value) == len(carrier{}):
			e.carrier = (*carrier)(value)
		case tag == tagKey && len(value) == conflate.SumSize:
			e.key = &conflate.Key{Sum: conflate.Sum(value)}
		case tag%2 != 0:
			return fmt.Errorf("envelope needs extension %d: this node does not know it", tag)
		}
	}
	return nil
}

// An outgoing is the packets of one Send. A Bus keeps nothing of them (promise
// 7), so their memory is used again.
type outgoing struct {
	packets []Packet
	data    []byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// keepData and keepPackets bound the memory that is used again.
const (
	keepData    = 64 << 10
	keepPackets = 64
)

func (o *outgoing) release() {
	clear(o.packets)
	if cap(o.data) <= keepData && cap(o.packets) <= keepPackets {
		outgoings.Put(o)
	}
}

// pack makes what carries a message to the target: one packet a topic. e is of
// kindMessage, kindFenced or kindProbe, and has all but what the target asks for.
func (h *Hub) pack(o *outgoing, t *Target, e *envelope) {
	o.packets = o.packets[:0]
	ids := t.ids
	if len(ids) > 1 {
		ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	}
	if key := e.message.key; key != "" {
		e.key = &conflate.Key{Sum: conflate.SumOf(byte(t.kind), ids, key)}
	}
	switch t.kind {
	case targetEveryone:
		o.data = e.append(o.data[:0])
		o.packets = append(o.packets, Packet{topicEveryone, o.data})
		return
	case targetConnection:
		if e.kind == kindMessage {
			e.kind = kindDirect
		}
		byNode := make(map[string][]string)
		for _, id := range ids {
			node, _ := cutID(id)
			byNode[node] = append(byNode[node], id)
		}
		for node, ids := range byNode {
			e.conns = ids
			o.packets = append(o.packets, Packet{nodeTopic(node), e.encode()})
		}
		return
	}
	name := userTopic
	if t.kind == targetGroup {
		name = groupTopic
		if len(ids) > 1 { // a Conn may belong to several
			if e.copies = true; e.kind == kindMessage {
				e.sender, e.id = h.id, h.calls.nextID.Add(1)
			}
		}
	}
	o.data = e.append(o.data[:0])
	for _, id := range ids {
		o.packets = append(o.packets, Packet{name(id), o.data})
	}
}
