package herald

import (
	"cmp"
	"fmt"
	"slices"
)

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
