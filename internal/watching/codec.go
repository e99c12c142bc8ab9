package watching

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/heraldgo/herald/internal/wire"
)

// What goes over the Bus is a version and changes:
//
//	change  <number> <left: 1, or 0> <id> {<node> <user> <since µs> <body>, of one who came}
const version = 1

var errMalformed = errors.New("malformed changes")

func appendChange(b []byte, c Change) []byte {
	b = binary.AppendUvarint(b, uint64(c.Number))
	if c.Left {
		return wire.AppendString(append(b, 1), c.Session.ID)
	}
	b = wire.AppendString(append(b, 0), c.Session.ID)
	b = wire.AppendString(wire.AppendString(b, c.Session.Node), c.Session.User)
	b = binary.AppendVarint(b, c.Session.Since.UnixMicro())
	return wire.AppendString(b, c.Session.Body)
}

// decode returns the changes of a packet. It does not trust the packet.
func decode(b []byte) (changes []Change, err error) {
	d := wire.Decoder{Rest: b}
	if d.Byte() != version {
		return nil, errMalformed
	}
	for len(d.Rest) > 0 && !d.Bad {
		c := Change{Number: int64(d.Uvarint())}
		c.Left = d.Byte() == 1
		c.Session.ID = d.Text()
		if !c.Left {
			c.Session.Node, c.Session.User = d.Text(), d.Text()
			c.Session.Since = time.UnixMicro(d.Varint())
			c.Session.Body = d.Text()
		}
		changes = append(changes, c)
	}
	if d.Bad {
		return nil, errMalformed
	}
	return changes, nil
}
