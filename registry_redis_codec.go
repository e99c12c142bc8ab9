package herald

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heraldgo/herald/internal/places"
)

// What a Redis Registry writes. Names may be any bytes, so each is a
// netstring, <length>:<bytes>.
//
//	value   1 <generation> <since µs> <answer> <node><user><device><platform><remote address><meta>
//	meta    {<key><value>}
//	lease   1 <generation> <renewed µs> <ttl µs> <connections> <version>
//	member  u|o <connection id> <topic>, the last two netstrings without a space
//
// The 1 is the format. A later version of herald may append fields to a value
// and to a lease, which this one skips; what it cannot read without knowing
// more begins with another number.
//
// The scripts read generation, since, answer, node and user of a value. The
// answer is 1 if the Session's Add said that its user came online.

// registryFormat begins every value and lease; lua/common.lua has it, too.
const registryFormat = "1"

// maxLease is the longest that a lease may be: what lies under it lasts no longer.
// A record that claims more is not believed; lua/common.lua has it, too.
const maxLease = keyLasts

func appendNetstring(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

// cutNetstring cuts the first netstring off s.
func cutNetstring(s string) (field, rest string, ok bool) {
	length, rest, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(length, 10, 31)
	if !ok || err != nil || n > uint64(len(rest)) {
		return "", "", false
	}
	return rest[:n], rest[n:], true
}

// encodeBody returns the part of a value that a node knows: all but
// generation, since and answer.
func encodeBody(s Session) string {
	var b []byte
	for _, field := range []string{s.Node, s.User, s.Device, s.Platform, s.RemoteAddr} {
		b = appendNetstring(b, field)
	}
	var meta []byte
	for _, key := range slices.Sorted(maps.Keys(s.Meta)) {
		meta = appendNetstring(appendNetstring(meta, key), s.Meta[key])
	}
	return string(appendNetstring(b, string(meta)))
}

// decodeValue returns the Session with this id and its lease's generation,
// or false if the value is none of this format.
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
	rest, meta := head[4], ""
	for _, field := range []*string{&s.Node, &s.User, &s.Device, &s.Platform, &s.RemoteAddr, &meta} {
		if *field, rest, ok = cutNetstring(rest); !ok {
			return Session{}, 0, false
		}
	}
	for meta != "" {
		var key, val string
		if key, meta, ok = cutNetstring(meta); !ok {
			return Session{}, 0, false
		}
		if val, meta, ok = cutNetstring(meta); !ok {
			return Session{}, 0, false
		}
		if s.Meta == nil {
			s.Meta = make(map[string]string)
		}
		s.Meta[key] = val
	}
	return s, generation, true
}

// decodeHolder returns the lease that a value lives by, or false if the value
// is none of this format.
func decodeHolder(value string) (Lease, bool) {
	format, rest, _ := strings.Cut(value, " ")
	generation, rest, _ := strings.Cut(rest, " ")
	_, rest, _ = strings.Cut(rest, " ") // since
	_, rest, _ = strings.Cut(rest, " ") // answer
	g, err := strconv.ParseInt(generation, 10, 64)
	node, _, ok := cutNetstring(rest)
	return Lease{node, g}, ok && err == nil && format == registryFormat
}

// isOfOtherFormat says whether a lease record or a value begins with the number
// of another format: then it is of another version of herald, and no stray.
func isOfOtherFormat(s string) bool {
	format, _, ok := strings.Cut(s, " ")
	_, err := strconv.ParseUint(format, 10, 16)
	return ok && err == nil && format != registryFormat
}

// decodeNode returns the Node of a lease record, Alive being left to the
// caller. If the record is none of this format the Node has its id, and Err
// says why.
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
		TTL:        time.Duration(min(n[2], maxLease.Microseconds())) * time.Microsecond,
		Conns:      int(n[3]),
		Version:    int(n[4]),
	}
}

// memberOf returns what an index has for a place.
func memberOf(p places.Place) string {
	b := []byte{'o'}
	if p.User {
		b[0] = 'u'
	}
	return string(appendNetstring(appendNetstring(b, p.ID), p.Topic))
}

// decodePlace returns false if the member is none of herald's.
func decodePlace(member string) (p places.Place, ok bool) {
	if member == "" {
		return places.Place{}, false
	}
	p.User = member[0] == 'u'
	rest := member[1:]
	if p.ID, rest, ok = cutNetstring(rest); !ok {
		return places.Place{}, false
	}
	p.Topic, _, ok = cutNetstring(rest)
	return p, ok
}
