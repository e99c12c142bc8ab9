package redislog

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

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

	// aloneHeader is that of a packet that was published without the log.
	aloneHeader = "1u0 0\n"

	maxHeader = 2 + 16 + 2*(1+20)
)

var errPacket = errors.New("malformed packet of the log")

// ParsePacket reads a packet of a topic. Its body is a part of data.
func ParsePacket(topic string, data []byte) (history.Packet, error) {
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
	end := bytes.IndexByte(data[:min(len(data), maxHeader+1)], '\n')
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

func parseEpoch(text string) history.Epoch {
	e, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0
	}
	return history.Epoch(e)
}

// parseLinks reads the links of an entry, of which each is '<prev>
// <length>:<topic>'.
func parseLinks(text string) (links []history.Link, ok bool) {
	for len(text) > 0 {
		space := strings.IndexByte(text, ' ')
		colon := strings.IndexByte(text, ':')
		if space < 0 || colon < space {
			return nil, false
		}
		prev, err1 := strconv.ParseUint(text[:space], 10, 64)
		n, err2 := strconv.ParseUint(text[space+1:colon], 10, 31)
		text = text[colon+1:]
		if err1 != nil || err2 != nil || int(n) > len(text) {
			return nil, false
		}
		links = append(links, history.Link{Topic: text[:n], Prev: history.Offset(prev)})
		text = text[n:]
	}
	return links, true
}
