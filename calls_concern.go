package herald

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/wire"
)

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
	b = wire.AppendStrings(b, c.ids)
	b = wire.AppendStrings(b, c.groups)
	b = binary.AppendUvarint(b, uint64(c.code))
	b = wire.AppendString(b, c.reason)
	return binary.AppendUvarint(b, uint64(c.before))
}

func (c *call) decode(d *wire.Decoder) {
	c.op = callOp(d.Byte())
	c.target = targetKind(d.Byte())
	c.ids = d.Names()
	c.groups = d.Names()
	code := d.Uvarint()
	c.code = StatusCode(code)
	c.reason = d.Text()
	c.before = int64(d.Uvarint())
	if c.op < opJoin || c.op > opDisconnect || c.target < targetUser || c.target > targetEveryone || code > 4999 {
		d.Bad = true
	}
	if c.op == opDisconnect && c.code.check(c.reason) != nil {
		d.Bad = true
	}
}

// concerned returns the Conns of this node that the call is about, each once.
func (h *Hub) concerned(in incomingCall) (conns []*Conn, err error) {
	if in.local != nil {
		return []*Conn{in.local}, nil
	}
	switch in.call.target {
	case targetConnection:
		for _, id := range in.call.ids {
			if c := h.local(id); c != nil {
				conns = append(conns, c)
			}
		}
	case targetUser:
		conns, err = h.index.connsOf(in.call.ids, userTopic)
	case targetGroup:
		conns, err = h.index.connsOf(in.call.ids, groupTopic)
	case targetEveryone:
		conns = h.index.appendConns(conns, topicEveryone)
	}
	if len(in.call.ids) > 1 {
		slices.SortFunc(conns, func(a, b *Conn) int { return cmp.Compare(a.counter, b.counter) })
		conns = slices.Compact(conns)
	}
	sieve := newSieve(h.id, &in.filter)
	conns = slices.DeleteFunc(conns, func(c *Conn) bool { return !sieve.passes(c) })
	if n := len(in.call.groups); n > 1 && n*len(conns) > maxChanges {
		err = fmt.Errorf("%w: %d connections and %d groups: must be at most %d memberships of a node in one call", ErrLimit, len(conns), n, maxChanges)
	}
	if err != nil {
		return nil, err
	}
	return conns, nil
}

// connsOf returns the Conns of several topics. One that belongs to many is
// there as often.
func (x *index) connsOf(names []string, topic func(string) string) (conns []*Conn, err error) {
	for i, name := range names {
		conns = x.appendConns(conns, topic(name))
		if i > 0 && len(conns) > maxChanges {
			return nil, fmt.Errorf("%w: target: its connections, as often as it names them: must be at most %d of a node in one call", ErrLimit, maxChanges)
		}
	}
	return conns, nil
}

// local returns the Conn of this node with the id, or nil.
func (h *Hub) local(id string) *Conn {
	if counter, ok := counterOf(h.id, id); ok {
		return h.index.get(counter)
	}
	return nil
}
