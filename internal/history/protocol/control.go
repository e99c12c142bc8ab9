package protocol

import (
	"bytes"
	"errors"
	"strconv"

	"github.com/heraldgo/herald/internal/history"
)

// A ControlKind says what a text message of a client is.
type ControlKind uint8

const (
	Text  ControlKind = iota // for the application
	Ack                      // everything up to the Positions is processed
	Probe                    // to be answered with its number
)

// A Control is what a client says in one text message.
type Control struct {
	Kind      ControlKind
	Text      []byte // of a Text
	Positions history.Positions
	N         uint64
}

var errControl = errors.New("malformed control message")

// ParseControl reads a text message of a client. Text is a part of data. Binary
// messages are the application's and never come here.
func ParseControl(data []byte) (c Control, err error) {
	rest, control := bytes.CutPrefix(data, []byte("@"))
	if !control {
		return Control{Text: data}, nil
	}
	if len(rest) == 0 {
		return c, errControl
	}
	ok := false
	switch rest[0] {
	case '@':
		return Control{Text: rest}, nil
	case ' ':
		c.Kind = Ack
		ok = c.Positions.UnmarshalText(rest[1:]) == nil && c.Positions != history.Positions{}
	case '?':
		c.Kind = Probe
		c.N, ok = probe(rest[1:])
	}
	if !ok {
		return Control{}, errControl
	}
	return c, nil
}

// AppendControl appends what a client sends for c.
func AppendControl(b []byte, c *Control) []byte {
	switch c.Kind {
	case Ack:
		b, _ = c.Positions.AppendText(append(b, "@ "...)) // it never fails
	case Probe:
		b = strconv.AppendUint(append(b, "@?"...), c.N, 10)
	default:
		if bytes.HasPrefix(c.Text, []byte("@")) {
			b = append(b, '@')
		}
		b = append(b, c.Text...)
	}
	return b
}
