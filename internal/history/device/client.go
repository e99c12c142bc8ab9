package device

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// A Client is what a device remembers from one connection to the next. It takes
// the frames of a connection in their order.
type Client struct {
	positions history.Positions
	conns     []string // the last ones, the newest first
	had       ids
	trails    [history.MaxPartitions]history.Trail
}

// maxConns is how many of its last connections a client names.
const maxConns = 4

// Resume returns what the client says when it connects.
func (c *Client) Resume() (from history.Positions, conns []string) {
	return c.positions, slices.Clone(c.conns)
}

// Receive takes a frame. It says whether that is a message which the client has
// not had, and whether something may be missing.
func (c *Client) Receive(f Frame) (message, missing bool) {
	switch f.Kind {
	case Welcome:
		for i, at := range f.Positions {
			c.move(i, at)
		}
		c.conns = slices.Insert(c.conns, 0, f.Conn)
		c.conns = c.conns[:min(len(c.conns), maxConns)]
	case Message:
		again := c.had.again(f.ID)
		if f.At.Epoch != 0 {
			again = c.move(f.Partition, f.At) || again
		}
		return !again, false
	case Mark:
		c.move(f.Partition, f.At)
	}
	return false, f.Kind == Gap || f.Verdict == Incomplete
}

// move notes a position. It says whether the client has been there before.
func (c *Client) move(partition int, to history.Point) (before bool) {
	at, trail := &c.positions[partition], &c.trails[partition]
	if at.Epoch != to.Epoch {
		trail.Leave(*at)
	}
	*at = to
	return trail.Passed(to)
}
