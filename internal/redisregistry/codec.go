package redisregistry

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/heraldgo/herald/internal/netstring"
	"github.com/heraldgo/herald/internal/places"
)

// What a Redis Registry writes. Names may be any bytes, so each is a
// netstring, <length>:<bytes>. The body is what the owner of a Session gave.
//
//	value   1 <generation> <since µs> <answer> <node><user><body>
//	lease   1 <generation> <renewed µs> <ttl µs> <connections> <version>
//	member  u|o <id> <topic>, the last two netstrings without a space
//
// The 1 is the format. A later version of herald may append fields to a value
// and to a lease, which this one skips; what it cannot read without knowing
// more begins with another number.
//
// The scripts read generation, since, answer, node and user of a value. The
// answer is 1 if the Session's Add said that its user came online.

// registryFormat begins every value and lease; lua/common.lua has it, too.
const registryFormat = "1"

// MaxLease is the longest that a lease may be: the keys under it last no longer. A
// record that claims more counts as this long; lua/common.lua has it, too.
const MaxLease = keyLasts

// encoded is a length that few values and members exceed. Up to it they are put
// together on the stack.
const encoded = 256

// bodyOf returns the part of a value that a node knows: all but generation, since
// and answer.
func bodyOf(s Session) string {
	b := make([]byte, 0, encoded)
	return string(append(netstring.Append(netstring.Append(b, s.Node), s.User), s.Body...))
}

// decodeValue returns the Session with this id and its lease's generation, or false
// if the value is not of this format.
func decodeValue(id, value string) (s Session, generation int64, ok bool) {
	head := strings.SplitN(value, " ", 5)
	if len(head) != 5 || head[0] != registryFormat {
		return Session{}, 0, false
	}
	generation, err := strconv.ParseInt(head[1], 10, 64)
	since, err2 := strconv.ParseInt(head[2], 10, 64)
	if err != nil || err2 != nil {
		return Session{}, 0, false
	}
	s = Session{ID: id, Since: time.UnixMicro(since)}
	if s.Node, s.Body, ok = netstring.Cut(head[4]); ok {
		s.User, s.Body, ok = netstring.Cut(s.Body)
	}
	if !ok {
		return Session{}, 0, false
	}
	return s, generation, true
}

// decodeHolder returns the lease that a value lives by, or false if the value is not
// of this format.
func decodeHolder(value string) (Lease, bool) {
	format, rest, _ := strings.Cut(value, " ")
	generation, rest, _ := strings.Cut(rest, " ")
	_, rest, _ = strings.Cut(rest, " ") // since
	_, rest, _ = strings.Cut(rest, " ") // answer
	g, err := strconv.ParseInt(generation, 10, 64)
	node, _, ok := netstring.Cut(rest)
	return Lease{node, g}, ok && err == nil && format == registryFormat
}

// isOfOtherFormat reports whether a lease record or a value begins with the number
// of another format: then it is of another version of herald, and no stray.
func isOfOtherFormat(s string) bool {
	format, _, ok := strings.Cut(s, " ")
	_, err := strconv.ParseUint(format, 10, 16)
	return ok && err == nil && format != registryFormat
}

// decodeNode returns the Node of a lease record. The caller sets Alive. If the record
// is not of this format, the Node has only its ID, and an Err that says why.
func decodeNode(id, record string) Node {
	fields := strings.SplitN(record, " ", 7) // 6, and what a later version has appended
	if fields[0] != registryFormat {
		if isOfOtherFormat(record) {
			return Node{ID: id, Err: fmt.Errorf("its lease has format %s, and this version of herald understands %s", fields[0], registryFormat)}
		}
		return Node{ID: id, Err: fmt.Errorf("its lease is none of herald's: %.40q", record)}
	}
	var n [5]int64
	for i := range n {
		ok := i+1 < len(fields)
		if ok {
			number, err := strconv.ParseInt(fields[i+1], 10, 64)
			n[i], ok = number, err == nil && number >= 0 && (i < 3 || number <= math.MaxInt32)
		}
		if !ok {
			return Node{ID: id, Err: fmt.Errorf("its lease is none of herald's: %.40q", record)}
		}
	}
	return Node{
		ID:         id,
		Generation: n[0],
		Renewed:    time.UnixMicro(n[1]),
		TTL:        time.Duration(min(n[2], MaxLease.Microseconds())) * time.Microsecond,
		Conns:      int(n[3]),
		Version:    int(n[4]),
	}
}

// memberOf returns the member that an index has for a place.
func memberOf(p places.Place) string {
	b := append(make([]byte, 0, encoded), 'o')
	if p.User {
		b[0] = 'u'
	}
	return string(netstring.Append(netstring.Append(b, p.ID), p.Topic))
}

// decodePlace is the opposite of memberOf. It returns false if herald cannot have
// written the member.
func decodePlace(member string) (p places.Place, ok bool) {
	if member == "" {
		return places.Place{}, false
	}
	p.User = member[0] == 'u'
	rest := member[1:]
	if p.ID, rest, ok = netstring.Cut(rest); !ok {
		return places.Place{}, false
	}
	p.Topic, _, ok = netstring.Cut(rest)
	return p, ok
}
