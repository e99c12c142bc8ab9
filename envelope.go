package herald

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/wsframe"
)

// envelopeVersion is the newest envelope that this code understands, and
// the one it writes. It is the first byte of every packet's data; a packet of
// another version is counted and makes a Gap.
const envelopeVersion = 1

type envelopeKind uint8

const (
	kindMessage   envelopeKind = iota + 1 // to the Conns of the packet's topic
	kindDirect                            // to the Conns that the envelope lists
	kindCall                              // Join, Leave or Disconnect
	kindAnswer                            // to a call
	kindHeartbeat                         // to every node
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

// Bounds of an envelope. A node refuses one that breaks them, and no node sends
// one, so that what a packet costs is in proportion to its bytes.
const (
	maxListed      = 10_000  // in all lists together
	maxListedBytes = 1 << 20 // of their bytes
	maxHeader      = maxListedBytes + 128<<10
	maxAnswer      = 1 << 10 // bytes of the error in an answer
	maxExtensions  = 4 << 10 // bytes
)

var errMalformed = errors.New("malformed envelope")

// An envelope is the Hub's own wrapping of what goes over the Bus. What comes
// from there is not trusted: decodeEnvelope checks every length.
type envelope struct {
	kind     envelopeKind
	volatile bool
	filter   filter

	// Of a message of which other packets may reach the same Conn, of a call,
	// an answer, a heartbeat.
	sender string
	id     uint64
	copies bool

	conns   []string // kindDirect only
	message Message  // if it is to be encoded
	frame   []byte   // if it was decoded: the WebSocket frame, header and all
	call    call     // kindCall only
	err     string   // kindAnswer only: why it could not be done

	// Of kindHeartbeat, whose number is its id.

	notice notice
	whole  int64 // the generation of the lease under which all entries of the node are
}

// A filter narrows a target, wherever its Conns are.
type filter struct {
	except      []string
	exceptUsers []string
	platforms   []string
	on          bool
}

func (t Target) filter() filter {
	return filter{t.except, t.exceptUsers, t.platforms, t.on}
}

func (f *filter) empty() bool { return len(f.except) == 0 && len(f.exceptUsers) == 0 && !f.on }

// passesSession says whether the Session is not filtered out.
func (f filter) passesSession(s Session) bool {
	return !(f.on && !slices.Contains(f.platforms, s.Platform) ||
		slices.Contains(f.exceptUsers, s.User) || slices.Contains(f.except, s.ID))
}

// names returns how many names the envelope lists.
func (e *envelope) names() int {
	f, c := &e.filter, &e.call
	return len(f.except) + len(f.exceptUsers) + len(f.platforms) + len(e.conns) + len(c.ids) + len(c.groups)
}

// checkNames says whether one envelope may list so many names.
func checkNames(lists ...[]string) error {
	count, bytes := 0, 0
	for _, list := range lists {
		count += len(list)
		for _, name := range list {
			bytes += len(name)
		}
	}
	switch {
	case count > maxListed:
		return fmt.Errorf("%w: target: %d ids and names, with those of Except, ExceptUser, On and the groups: must be at most %d in one call", ErrInvalid, count, maxListed)
	case bytes > maxListedBytes:
		return fmt.Errorf("%w: target: ids and names of %d bytes, with those of Except, ExceptUser, On and the groups: must be at most %d in one call", ErrInvalid, bytes, maxListedBytes)
	}
	return nil
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
	b = append(b, envelopeVersion, byte(e.kind), flags)
	if flags&flagFilter != 0 {
		b = appendStrings(b, e.filter.except)
		b = appendStrings(b, e.filter.exceptUsers)
		b = appendStrings(b, e.filter.platforms)
	}
	if e.kind > kindDirect || e.copies {
		b = appendString(b, e.sender)
		b = binary.AppendUvarint(b, e.id)
	}
	switch e.kind {
	case kindMessage:
		return e.message.appendFrame(b)
	case kindDirect:
		return e.message.appendFrame(appendStrings(b, e.conns))
	case kindCall:
		b = e.call.append(b)
	case kindAnswer:
		b = appendString(b, e.err)
	case kindHeartbeat:
		b = binary.AppendUvarint(append(b, byte(e.notice)), uint64(e.whole))
	}
	return b
}

// decodeEnvelope returns what encode made b from, whose frame has at most
// maxFrame bytes. The frame is a part of b.
func decodeEnvelope(b []byte, maxFrame int) (envelope, error) {
	if len(b) < 3 {
		return envelope{}, errMalformed
	}
	if len(b) > maxHeader+maxFrame {
		return envelope{}, tooLarge(len(b), 0, maxFrame)
	}
	if b[0] != envelopeVersion {
		return envelope{}, fmt.Errorf("envelope of version %d: this node understands %d", b[0], envelopeVersion)
	}
	e := envelope{kind: envelopeKind(b[1])}
	flags := b[2]
	if flags > flagsKnown {
		return envelope{}, errMalformed
	}
	e.volatile = flags&flagVolatile != 0
	e.filter.on = flags&flagOn != 0
	e.copies = flags&flagCopies != 0
	d := decoder{rest: b[3:]}
	if flags&flagExtended != 0 {
		if err := d.extensions(); err != nil {
			return envelope{}, err
		}
	}
	if flags&flagFilter != 0 {
		e.filter.except = d.names()
		e.filter.exceptUsers = d.names()
		e.filter.platforms = d.strings()
	}
	if e.kind > kindDirect || e.copies {
		e.sender = d.string()
		e.id = d.uvarint()
	}
	switch e.kind {
	case kindMessage:
	case kindDirect:
		e.conns = d.names()
	case kindCall:
		e.call.decode(&d)
	case kindAnswer:
		e.err = d.string()
	case kindHeartbeat:
		e.notice = notice(d.byte())
		e.whole = int64(d.uvarint())
	default:
		d.bad = true
	}
	if d.bad || len(e.sender) > maxNodeID || len(e.err) > maxAnswer {
		return envelope{}, errMalformed
	}
	if len(b)-len(d.rest) > maxHeader || len(d.rest) > maxFrame {
		return envelope{}, tooLarge(len(b)-len(d.rest), len(d.rest), maxFrame)
	}
	if e.kind > kindDirect {
		if len(d.rest) > 0 {
			return envelope{}, errMalformed
		}
		return e, nil
	}
	if !wsframe.Valid(d.rest) {
		return envelope{}, errMalformed
	}
	e.frame = d.rest
	return e, nil
}

func tooLarge(header, frame, maxFrame int) error {
	return fmt.Errorf("envelope of %d bytes and a frame of %d: at most %d and %d are taken", header, frame, maxHeader, maxFrame)
}

// callOp is what a call asks of a node's Conns.
type callOp uint8

const (
	opJoin callOp = iota + 1
	opLeave
	opDisconnect
)

// A call is a change to the Conns of a Target, which each node applies to its
// own. The target's filter is the envelope's.
type call struct {
	op     callOp
	target targetKind
	ids    []string // the target's
	groups []string // Join and Leave only

	// Of Disconnect.

	code   StatusCode
	reason string
	before int64 // Conns with a later Since are spared; microseconds
}

func (c *call) append(b []byte) []byte {
	b = append(b, byte(c.op), byte(c.target))
	b = appendStrings(b, c.ids)
	b = appendStrings(b, c.groups)
	b = binary.AppendUvarint(b, uint64(c.code))
	b = appendString(b, c.reason)
	return binary.AppendUvarint(b, uint64(c.before))
}

func (c *call) decode(d *decoder) {
	c.op = callOp(d.byte())
	c.target = targetKind(d.byte())
	c.ids = d.names()
	c.groups = d.names()
	code := d.uvarint()
	c.code = StatusCode(code)
	c.reason = d.string()
	c.before = int64(d.uvarint())
	if c.op < opJoin || c.op > opDisconnect || c.target < targetUser || c.target > targetEveryone || code > 4999 {
		d.bad = true
	}
	if c.op == opDisconnect && c.code.check(c.reason) != nil {
		d.bad = true
	}
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

// A decoder takes values off rest. After the first that is not there, bad is
// set and all values are zero.
type decoder struct {
	rest   []byte
	listed int // names
	bad    bool
}

func (d *decoder) byte() byte {
	if d.bad || len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) string() string { return string(d.bytes()) }

// extensions takes off what newer nodes add to an envelope: the length of it
// all, then tags, each with a length and so many bytes. This code knows none.
// It skips even tags, and refuses odd ones, without which the rest would be
// misunderstood.
func (d *decoder) extensions() error {
	section := decoder{rest: d.bytes()}
	if d.bad || len(section.rest) > maxExtensions {
		return errMalformed
	}
	for len(section.rest) > 0 {
		tag := section.uvarint()
		section.bytes()
		if section.bad {
			return errMalformed
		}
		if tag%2 != 0 {
			return fmt.Errorf("envelope needs extension %d: this node does not know it", tag)
		}
	}
	return nil
}

// names are strings of which none is empty.
func (d *decoder) names() []string {
	list := d.strings()
	if len(list) > 0 && slices.Contains(list, "") {
		d.bad = true
	}
	return list
}

func (d *decoder) strings() []string {
	n := d.uvarint()
	if d.bad || n > uint64(min(maxListed-d.listed, len(d.rest))) { // each takes a byte at least
		d.bad = true
		return nil
	}
	if n == 0 {
		return nil
	}
	d.listed += int(n)
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.string())
	}
	return list
}
