package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

// A Frame is what the server sends in one WebSocket message: a header line, and the
// Body behind it.
type Frame struct {
	device.Frame

	User string // of a Welcome

	// Of a Gap, by the node's clock; zero if unknown.
	Since, Until time.Time

	N uint64 // of an Answer: the probe's
}

const (
	version = 1

	// maxID is how many bytes the id of a message, or of a connection, may have.
	maxID = 200

	// maxProbe is the highest number of a probe. JavaScript has no higher
	// integers.
	maxProbe = 1<<53 - 1
)

// A welcome is the JSON of a Welcome's line.
type welcome struct {
	Herald    int    `json:"herald"`
	Conn      string `json:"conn"`
	User      string `json:"user"`
	Positions string `json:"positions"`
	Resumed   bool   `json:"resumed"`
}

// A gap is the JSON of a Gap's line.
type gap struct {
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// AppendHeader appends the frame's header line. The Body follows it on the wire.
func AppendHeader(b []byte, f *Frame) []byte {
	switch f.Kind {
	case device.Message:
		b = append(b, 'm')
		switch {
		case f.At.Epoch != 0:
			b = history.AppendPosition(append(b, ' '), f.Partition, f.At)
		case f.ID != "":
			b = append(b, " -"...)
		}
		if f.ID != "" {
			b = append(append(b, ' '), f.ID...)
		}
	case device.Mark:
		b = history.AppendPosition(append(b, "p "...), f.Partition, f.At)
		switch f.Verdict {
		case device.Complete:
			b = append(b, " complete"...)
		case device.Incomplete:
			b = append(b, " incomplete"...)
		}
	case device.Welcome:
		at, _ := f.Positions.AppendText(nil) // it never fails
		b = appendJSON(append(b, "w "...), welcome{version, f.Conn, f.User, string(at), f.Resumed})
	case device.Gap:
		b = appendJSON(append(b, "g "...), gap{f.Since.UTC(), f.Until.UTC()})
	case device.Answer:
		b = strconv.AppendUint(append(b, "! "...), f.N, 10)
	}
	return append(b, '\n')
}

func appendJSON(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		// JSON has no times from the year 10,000 on, but the client still learns of
		// the gap.
		text = []byte("{}")
	}
	return append(b, text...)
}

var errFrame = errors.New("malformed frame")

// BareMark returns the partition of a line that is a mark without a verdict.
func BareMark(line []byte) (partition []byte, ok bool) {
	place, ok := bytes.CutPrefix(line, []byte("p "))
	if !ok || bytes.IndexByte(place, ' ') >= 0 {
		return nil, false
	}
	partition, _, ok = bytes.Cut(place, []byte("."))
	return partition, ok
}

// ParseFrame reads a frame of the server. Its Body is a part of data. A frame of a
// kind that this version does not know has Kind 0, and is to be ignored. After an
// error the client cannot know what it has missed.
func ParseFrame(data []byte) (f Frame, err error) {
	line, body, whole := bytes.Cut(data, []byte("\n"))
	if len(line) == 0 {
		return f, errFrame
	}
	name, rest, _ := bytes.Cut(line, []byte(" "))
	ok := true
	switch string(name) {
	case "m":
		f.Kind, f.Body = device.Message, body
		ok = f.message(rest)
	case "p":
		f.Kind = device.Mark
		ok = f.mark(rest)
	case "w":
		f.Kind = device.Welcome
		ok = f.welcome(rest)
	case "g":
		f.Kind = device.Gap
		var g gap
		if json.Unmarshal(rest, &g) == nil { // otherwise it is a Gap without times
			f.Since, f.Until = g.Since, g.Until
		}
	case "!":
		f.Kind = device.Answer
		n, _, _ := bytes.Cut(rest, []byte(" "))
		f.N, ok = probe(n)
	default:
		return Frame{}, nil
	}
	if !ok || !whole {
		return Frame{}, errFrame
	}
	return f, nil
}

func (f *Frame) message(fields []byte) bool {
	if len(fields) == 0 {
		return true
	}
	at, rest, _ := bytes.Cut(fields, []byte(" "))
	if string(at) != "-" && !f.position(at) {
		return false
	}
	if len(rest) == 0 {
		return true
	}
	id, _, _ := bytes.Cut(rest, []byte(" "))
	f.ID = string(id)
	return validID(f.ID)
}

func (f *Frame) mark(fields []byte) bool {
	at, rest, _ := bytes.Cut(fields, []byte(" "))
	verdict, _, _ := bytes.Cut(rest, []byte(" "))
	switch string(verdict) {
	case "complete":
		f.Verdict = device.Complete
	case "incomplete":
		f.Verdict = device.Incomplete
	}
	return f.position(at)
}

func (f *Frame) position(text []byte) bool {
	var err error
	f.Partition, f.At, err = history.ParsePosition(text)
	return err == nil
}

func (f *Frame) welcome(text []byte) bool {
	var w welcome
	if json.Unmarshal(text, &w) != nil || w.Herald != version || !validID(w.Conn) {
		return false
	}
	f.Conn, f.User, f.Resumed = w.Conn, w.User, w.Resumed
	return f.Positions.UnmarshalText([]byte(w.Positions)) == nil
}

// validID reports whether an id can be that of a message or of a connection: of
// characters that need no escapes in a URL's query (RFC 3986 section 2.3).
func validID(id string) bool {
	if id == "" || len(id) > maxID || id == "-" {
		return false
	}
	for _, c := range []byte(id) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' && c != '~' {
			return false
		}
	}
	return true
}

// probe reads the number of a probe, which has only one spelling.
func probe(text []byte) (n uint64, ok bool) {
	if len(text) > len("9007199254740991") {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	return n, err == nil && n <= maxProbe && (text[0] != '0' || len(text) == 1)
}
