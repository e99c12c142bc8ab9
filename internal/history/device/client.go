package device

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// A Client is what a device remembers from one connection to the next. It takes
// the frames of a connection in their order. The zero Client has never been
// connected.
type Client struct {
	been      bool // it was connected: from then on something may be missing
	positions history.Positions
	conns     []string // of its last connections, the newest first
	had       ids
	trails    [history.MaxPartitions]history.Trail
}

// MaxConns is how many of its last connections a client names.
const MaxConns = 4

// NewClient returns a Client that goes on where another one was: with what the Resume
// of that one returned.
func NewClient(from history.Positions, conns []string) *Client {
	return &Client{been: true, positions: from, conns: slices.Clone(conns)}
}

// Resume returns what the client says when it connects.
func (c *Client) Resume() (from history.Positions, conns []string) {
	return c.positions, slices.Clone(c.conns)
}

// Receive takes a frame. It reports whether the frame is a message that the client has
// not had, and whether something may be missing.
func (c *Client) Receive(f Frame) (message, missing bool) {
	switch f.Kind {
	case Welcome:
		missing = c.begin(f.Positions) && !f.Resumed
		c.conns = slices.Insert(c.conns, 0, f.Conn)
		c.conns = c.conns[:min(len(c.conns), MaxConns)]
		return false, missing
	case Message:
		again := c.had.again(f.ID, clientIDs)
		if f.At.Epoch != 0 {
			again = c.move(f.Partition, f.At) || again
		}
		return !again, false
	case Mark:
		c.move(f.Partition, f.At)
	}
	return false, f.Kind == Gap || f.Verdict == Incomplete
}

// Plain says that the first frame of a connection was no Welcome: the node keeps
// nothing, and its messages have no positions. The client forgets where it was, or it
// would get all of them again later. Plain returns whether something may be missing.
func (c *Client) Plain() (missing bool) { return c.begin(history.Positions{}) }

// begin begins a connection. It reports whether there was one before.
func (c *Client) begin(at history.Positions) (been bool) {
	for i, p := range at {
		c.move(i, p)
	}
	been, c.been = c.been, true
	return been
}

// move notes a position, which never goes back within an epoch. It returns whether
// the client has been there before, in an epoch that it had left.
func (c *Client) move(partition int, to history.Point) (before bool) {
	at, trail := &c.positions[partition], &c.trails[partition]
	before = trail.Passed(to)
	switch {
	case at.Epoch == to.Epoch:
		to.Offset = max(to.Offset, at.Offset)
	case at.Epoch != 0:
		trail.Leave(*at)
	}
	*at = to
	return before
}
