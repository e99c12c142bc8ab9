package device

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// A Host is the connection of a Device.
type Host interface {
	Holds(topic string) bool
	Open(body []byte) Letter

	// Recent is Feed.Recent of a partition.
	Recent(partition int, at history.Point) (packets []history.Packet, ok bool)
}

// Limits bound what a Device asks for at once.
type Limits struct {
	Survey int // entries of one survey
	Page   int // entries that it takes at once
	Live   int // how many packets may be left when it goes live: half the queue
}

// A Device is the server's side of one connection. It makes the frames of the
// connection's queue, in their order.
type Device struct {
	limits  Limits
	host    Host
	ids     []string // the ids of this connection and of those before it
	had     ids
	dropped bool // a Gap for dropped frames is in the queue
	cursors [history.MaxPartitions]cursor
}

// A state of a cursor: see the diagram in doc.go.
type state uint8

const (
	live state = iota
	asked
	reading
	trailing
)

// A cursor is where a device is in one partition.
type cursor struct {
	state state
	round uint64 // of the open question

	// Everything up to at is in the queue, or was told to be missing. Nothing up to
	// at is taken again.
	at      history.Point
	backlog history.Backlog
	told    bool // the client was told, since it came back, that something may be missing
}

// A Step says what to do after an input.
type Step struct {
	Frames []Frame // for the queue
	Ask    Ask     // if it has a round
}

// An Ask is a question to the log, to be put when the queue has room for a page
// and for what may be left at the end. Only the answer to the last one counts.
type Ask struct {
	Round uint64

	// A survey of the device's topics since From, or the entries at the first Page of
	// Offsets if there are any. The others will be asked for next.
	From    history.Point
	Offsets []history.Offset
	Page    int
	Most    int

	// Near says that the log is not asked: what comes next is what the host has as
	// recent, and Device.Follow takes it.
	Near bool
}

// Begin returns the Device of a new connection as it enters the index, and the frame
// that welcomes it. A client that comes back gives positions, and the ids of its last
// connections. Any other client begins where the node's feeds are now. They must have
// a position in every partition: otherwise a connection that ends before its first
// message would leave no trace.
func Begin(limits Limits, host Host, conn string, from history.Positions, last []string, feeds history.Positions) (*Device, Frame) {
	d := &Device{limits: limits, host: host, ids: append([]string{conn}, last...)}
	back := from != history.Positions{}
	welcome := Frame{Kind: Welcome, Conn: conn, Positions: feeds, Resumed: back}
	if back {
		// Never newer ones: the connection may end before everything has been sent.
		welcome.Positions = from
	}
	for i := range d.cursors {
		d.cursors[i].at = welcome.Positions[i]
		if back {
			d.cursors[i].state = asked
		}
	}
	return d, welcome
}

// Start begins the resume of one partition, if the device comes back. The topics that
// the device holds must be subscribed.
func (d *Device) Start(partition int) Step {
	c := &d.cursors[partition]
	if c.state == live {
		return Step{}
	}
	return Step{Ask: c.ask(d.limits.Survey)}
}

// Live reports whether the device takes what the feed of the partition hands on.
func (d *Device) Live(partition int) bool { return d.cursors[partition].state == live }

// Is reports whether an id is that of this connection, or of one before it.
func (d *Device) Is(conn string) bool { return slices.Contains(d.ids, conn) }

// Take takes a packet that the feed hands on for a topic that the device holds. A
// packet that is not kept goes to a device that is not live, too: no log has it.
func (d *Device) Take(partition int, p history.Packet, l Letter) (f Frame, ok bool) {
	if p.Kept && d.cursors[partition].state != live {
		return f, false
	}
	return d.take(partition, p, l)
}

func (d *Device) take(partition int, p history.Packet, l Letter) (f Frame, ok bool) {
	c := &d.cursors[partition]
	f = Frame{Kind: Message, Partition: partition, ID: l.ID, Body: p.Body}
	if p.Kept {
		if !c.behind(p.At) {
			return f, false
		}
		c.at, f.At = p.At, history.Point{Epoch: p.Born, Offset: p.At.Offset}
	}
	switch {
	case slices.ContainsFunc(l.Except, d.Is):
		return f, false
	case d.had.again(l.ID, deviceIDs):
		return Frame{Kind: Mark, Partition: partition, At: f.At}, p.Kept
	}
	return f, true
}

// behind reports whether the cursor is behind a point.
func (c *cursor) behind(at history.Point) bool {
	return c.at.Epoch == at.Epoch && c.at.Offset < at.Offset
}

// Awaits reports whether the device, because it is not live, has yet to read the entry
// at a point.
func (d *Device) Awaits(partition int, at history.Point) bool {
	c := &d.cursors[partition]
	return c.state != live && (c.at.Epoch != at.Epoch || c.at.Offset < at.Offset)
}

// Mark takes a Mark of the feed. The frame tells a client to which nothing was sent
// that it is up to date.
func (d *Device) Mark(partition int, at history.Point) (f Frame, ok bool) {
	c := &d.cursors[partition]
	if c.state != live || !c.behind(at) {
		return f, false
	}
	c.at = at
	return Frame{Kind: Mark, Partition: partition, At: at}, true
}

// Cross follows the feed into a new epoch. A cursor that is not live learns of it
// from the log.
func (d *Device) Cross(partition int, fork history.Fork) {
	if c := &d.cursors[partition]; c.state == live {
		c.at = fork.Cross(c.at)
	}
}

// Gap returns the frame that says that something may be missing in a partition.
func (d *Device) Gap(partition int) Frame { return Frame{Kind: Gap, Partition: partition} }

// Drop says that the full queue gave up a frame, which must be a Message. The Gap, if
// one is returned, takes its place.
func (d *Device) Drop(f Frame) (gap Frame, ok bool) {
	if f.At.Epoch == 0 || d.dropped {
		return gap, false
	}
	d.dropped = true
	return Frame{Kind: Gap, Dropped: true}, true
}

// Sent says that a frame has left the queue.
func (d *Device) Sent(f Frame) {
	if f.Dropped {
		d.dropped = false
	}
}
