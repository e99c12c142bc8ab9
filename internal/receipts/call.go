package receipts

import "iter"

// An ID names a connection: its node, and its number there.
type ID struct {
	Node    string
	Counter uint64
}

// A State is what is known of one connection that a message was sent to. It never
// goes back, so no connection is both received and missed.
//
//	        its node has queued it        its node has a pong
//	listed ────────────────────────▶ taken ──────────────────▶ received
//	  │                                │
//	  │ it has gone, or its node       │ it was dropped, or the connection
//	  ▼                                ▼ or its node has gone
//	missed ◀───────────────────────────┘
type State uint8

// The states of a connection.
const (
	Listed State = iota + 1
	Taken
	Received
	Missed
)

// A Call is what the node that has sent a message knows of its receipts. NewCall
// makes one.
type Call struct {
	states map[ID]State
	open   int // in Listed or Taken

	// Of a message to everyone, whose receivers nobody lists: the nodes that have not
	// told theirs yet, and how many connections each has.

	nodes map[string]int
	lost  int // connections of nodes that have gone without telling
}

// NewCall returns a Call that waits for nobody.
func NewCall() *Call { return &Call{states: make(map[ID]State), nodes: make(map[string]int)} }

// List adds a connection that the message is meant for.
func (c *Call) List(id ID) {
	if c.states[id] == 0 {
		c.states[id] = Listed
		c.open++
	}
}

// Await adds a node that has conns connections and will tell them.
func (c *Call) Await(node string, conns int) { c.nodes[node] = conns }

// Told notes that a node has told all of its connections.
func (c *Call) Told(node string) { delete(c.nodes, node) }

// Take notes that the message is in the connection's queue.
func (c *Call) Take(id ID) {
	switch c.states[id] {
	case 0:
		c.open++
	case Listed:
	default:
		return
	}
	c.states[id] = Taken
}

// Settle notes that the message was received, or will not be. It counts only for a
// connection that is known and not settled yet.
func (c *Call) Settle(id ID, received bool) {
	if s := c.states[id]; s != Listed && s != Taken {
		return
	}
	c.open--
	if c.states[id] = Missed; received {
		c.states[id] = Received
	}
}

// Spare removes a listed connection that the message was not meant for after all.
func (c *Call) Spare(id ID) {
	if c.states[id] == Listed {
		delete(c.states, id)
		c.open--
	}
}

// GiveUp settles as missed the open connections for which gone returns true, and
// stops waiting for the nodes for which left returns true.
func (c *Call) GiveUp(gone func(id ID, s State) bool, left func(node string) bool) {
	for id, s := range c.states {
		if gone(id, s) {
			c.Settle(id, false)
		}
	}
	for node, conns := range c.nodes {
		if left(node) {
			c.lost += conns
			delete(c.nodes, node)
		}
	}
}

// Untaken reports whether nothing has been heard yet of some listed connection.
func (c *Call) Untaken() bool {
	for _, s := range c.states {
		if s == Listed {
			return true
		}
	}
	return false
}

// Awaiting reports whether a node has yet to tell its connections.
func (c *Call) Awaiting() bool { return len(c.nodes) > 0 }

// Nodes returns the nodes of the open connections.
func (c *Call) Nodes() map[string]bool {
	nodes := make(map[string]bool)
	for id, s := range c.states {
		if s < Received {
			nodes[id.Node] = true
		}
	}
	return nodes
}

// Done reports whether there is nothing more to wait for.
func (c *Call) Done() bool { return c.open == 0 && len(c.nodes) == 0 }

// Count returns how many connections have received the message, and how many, as far
// as is known, have not.
func (c *Call) Count() (received, missed int) {
	missed = c.lost
	for _, conns := range c.nodes {
		missed += conns
	}
	for _, s := range c.states {
		if s == Received {
			received++
		} else {
			missed++
		}
	}
	return received, missed
}

// All returns the connections, and whether each has received the message.
func (c *Call) All() iter.Seq2[ID, bool] {
	return func(yield func(ID, bool) bool) {
		for id, s := range c.states {
			if !yield(id, s == Received) {
				return
			}
		}
	}
}
