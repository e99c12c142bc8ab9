// Package packet has the form of what the log of a partition publishes: packets, and
// the fences between them.
//
// A body is an envelope of package herald, whose flags say that extensions follow,
// even if it has none. A packet is the body with its place in the log as the first
// extension. Nodes that know nothing of logs skip it, so a cluster can be
// taken to a Retention node by node.
package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	"github.com/heraldgo/herald/internal/history"
)

// The beginning of a body: version, kind and flags of the envelope, and one byte that
// says how long its extensions are together.
const (
	head         = 3
	flagExtended = 1 << 4

	// MaxExtensions is how many bytes of extensions a body may have. The length of
	// those of a packet may then take two bytes.
	MaxExtensions = 127
)

// A place is the tag of the extension, its length and its text: the kind, the epoch
// in hexadecimal, the offset of the packet or of the end of the log and, if the
// packet is kept, prev. A fence is such a text with its number instead of prev.
const (
	tag    = 2 // even: it may be skipped
	kept   = 'k'
	unkept = 'u'
	mark   = 'm'

	maxText = 1 + 16 + 2*(1+20)

	// MaxPlace is how many bytes longer than its body a packet is at most.
	MaxPlace = 1 + 2 + maxText

	most = 1 << 53 // Lua's numbers hold each integer up to here
)

var errPacket = errors.New("malformed packet of the log")

// Body returns a copy of an envelope as a body.
func Body(envelope []byte) []byte {
	if envelope[head-1]&flagExtended != 0 {
		return bytes.Clone(envelope)
	}
	flags := envelope[head-1] | flagExtended
	return slices.Concat(envelope[:head-1], []byte{flags, 0}, envelope[head:])
}

// Append appends a packet, as Parse reads it.
func Append(b []byte, p history.Packet) []byte {
	text := make([]byte, 0, maxText)
	if p.Kept {
		text = strconv.AppendUint(append(begin(text, kept, p.At), ' '), uint64(p.Prev), 10)
	} else if p.At.Epoch != 0 {
		text = begin(text, unkept, p.At)
	} else {
		return append(b, p.Body...) // published without the log
	}
	b = append(b, p.Body[:head]...)
	b = binary.AppendUvarint(b, uint64(2+len(text))+uint64(p.Body[head]))
	b = append(append(b, tag, byte(len(text))), text...)
	return append(b, p.Body[head+1:]...)
}

// AppendFence appends a fence, as ParseFence reads it.
func AppendFence(b []byte, at history.Point, number uint64) []byte {
	return strconv.AppendUint(append(begin(b, mark, at), ' '), number, 10)
}

func begin(b []byte, kind byte, at history.Point) []byte {
	b = strconv.AppendUint(append(b, kind), uint64(at.Epoch), 16)
	return strconv.AppendUint(append(b, ' '), uint64(at.Offset), 10)
}

// Parse reads a packet of a topic. A packet without a place was published without the
// log. The packet's Body is the whole of data.
func Parse(topic string, data []byte) (history.Packet, error) {
	p := history.Packet{Topic: topic, Body: data}
	if len(data) <= head || data[head-1]&flagExtended == 0 || data[head] == 0 {
		return p, nil
	}
	all, n := binary.Uvarint(data[head:])
	rest := data[head+max(n, 0):]
	if n <= 0 || all < 2 || all > uint64(len(rest)) {
		return history.Packet{}, errPacket
	}
	if rest[0] != tag {
		return p, nil
	}
	length := uint64(rest[1])
	if length > all-2 {
		return history.Packet{}, errPacket
	}
	kind, at, third, ok := parse(rest[2 : 2+length])
	if !ok || kind == mark {
		return history.Packet{}, errPacket
	}
	p.At = at
	if p.Kept = kind == kept; p.Kept {
		p.Born, p.Prev = at.Epoch, history.Offset(third)
	}
	return p, nil
}

// ParseFence reads what a fence published.
func ParseFence(data []byte) (end history.Point, number uint64, err error) {
	kind, end, number, ok := parse(data)
	if !ok || kind != mark {
		return history.Point{}, 0, errPacket
	}
	return end, number, nil
}

// parse reads a text. That of a packet that is not kept has no third field.
func parse(text []byte) (kind byte, at history.Point, third uint64, ok bool) {
	if len(text) < 2 || len(text) > maxText {
		return 0, at, 0, false
	}
	kind = text[0]
	epoch, rest, _ := bytes.Cut(text[1:], []byte{' '})
	offset, last, has := bytes.Cut(rest, []byte{' '})
	e, err1 := strconv.ParseUint(string(epoch), 16, 64)
	o, err2 := strconv.ParseUint(string(offset), 10, 64)
	var err3 error
	if has {
		third, err3 = strconv.ParseUint(string(last), 10, 64)
	}
	known := kind == kept || kind == unkept || kind == mark
	if !known || err1 != nil || err2 != nil || err3 != nil || has == (kind == unkept) || e == 0 || o > most {
		return 0, at, 0, false
	}
	return kind, history.Point{Epoch: history.Epoch(e), Offset: history.Offset(o)}, third, true
}
