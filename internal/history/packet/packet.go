// Package packet has the form in which the log of a partition publishes: what a Bus
// hands over of it, and the fences between.
package packet

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/heraldgo/herald/internal/history"
)

// A packet is a header, a newline and the body. The header has the version, the
// kind, the epoch in hexadecimal, the offset of the packet or of the end of the
// log, and, of a packet that is kept, prev. A fence has its number there, and no
// body.
const (
	version = '1'
	kept    = 'k'
	unkept  = 'u'
	mark    = 'm'

	// Alone is the header of a packet that was published without the log.
	Alone = "1u0 0\n"

	// MaxHeader is the most bytes that a header has.
	MaxHeader = 2 + 16 + 2*(1+20) + 1

	most = 1 << 53 // where Lua's numbers stop to hold every one
)

var errPacket = errors.New("malformed packet of the log")

// Append appends a packet, as Parse reads it.
func Append(b []byte, p history.Packet) []byte {
	if !p.Kept {
		return append(end(header(b, unkept, p.At)), p.Body...)
	}
	b = strconv.AppendUint(append(header(b, kept, p.At), ' '), uint64(p.Prev), 10)
	return append(end(b), p.Body...)
}

// AppendFence appends a fence, as ParseFence reads it.
func AppendFence(b []byte, at history.Point, number uint64) []byte {
	return end(strconv.AppendUint(append(header(b, mark, at), ' '), number, 10))
}

func header(b []byte, kind byte, at history.Point) []byte {
	b = strconv.AppendUint(append(b, version, kind), uint64(at.Epoch), 16)
	return strconv.AppendUint(append(b, ' '), uint64(at.Offset), 10)
}

func end(b []byte) []byte { return append(b, '\n') }

// Parse reads a packet of a topic. Its body is a part of data.
func Parse(topic string, data []byte) (history.Packet, error) {
	kind, at, third, body, ok := parse(data)
	if !ok || kind != kept && kind != unkept || kind == kept && at.Epoch == 0 {
		return history.Packet{}, errPacket
	}
	p := history.Packet{Topic: topic, Body: body, Kept: kind == kept, At: at}
	if p.Kept {
		p.Born, p.Prev = at.Epoch, history.Offset(third)
	}
	return p, nil
}

// ParseFence reads what a fence published.
func ParseFence(data []byte) (end history.Point, number uint64, err error) {
	kind, end, number, body, ok := parse(data)
	if !ok || kind != mark || end.Epoch == 0 || len(body) > 0 {
		return history.Point{}, 0, errPacket
	}
	return end, number, nil
}

// parse reads a header. A packet that is not kept has no third field.
func parse(data []byte) (kind byte, at history.Point, third uint64, body []byte, ok bool) {
	end := bytes.IndexByte(data[:min(len(data), MaxHeader)], '\n')
	if end < 2 || data[0] != version {
		return 0, at, 0, nil, false
	}
	kind, body = data[1], data[end+1:]
	epoch, rest, _ := bytes.Cut(data[2:end], []byte{' '})
	offset, last, has := bytes.Cut(rest, []byte{' '})
	e, err1 := strconv.ParseUint(string(epoch), 16, 64)
	o, err2 := strconv.ParseUint(string(offset), 10, 64)
	var err3 error
	if has {
		third, err3 = strconv.ParseUint(string(last), 10, 64)
	}
	if err1 != nil || err2 != nil || err3 != nil || has == (kind == unkept) || o > most {
		return 0, at, 0, nil, false
	}
	return kind, history.Point{Epoch: history.Epoch(e), Offset: history.Offset(o)}, third, body, true
}
