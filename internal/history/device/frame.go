package device

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// A Kind says what a Frame is.
type Kind uint8

const (
	Message Kind = iota + 1
	Mark         // everything up to At has been sent
	Welcome      // the first frame
	Gap          // something may be missing: fetch it
	Answer       // to a probe; the connection makes it, not the Device
)

// A Verdict ends a resume.
type Verdict uint8

const (
	NoVerdict Verdict = iota
	Complete
	Incomplete
)

// A Frame is one message to a client that knows the protocol.
type Frame struct {
	Kind      Kind
	Partition int

	// Of a Message and a Mark. A Message that is not kept has no position. The
	// position of any other names the epoch in which the message was born, and says
	// that everything before it has been sent, too.
	At history.Point

	// Of a Message.

	ID   string // of one that has copies in other partitions, or ""
	Body []byte

	// Of a Welcome.

	Conn      string
	Positions history.Positions
	Resumed   bool // the Positions are the client's own, and it will get what it missed

	Verdict Verdict // of a Mark
	Dropped bool    // of a Gap: the queue was full, and the Gap is for all partitions
}

// A Letter is what a Device has to know of a message.
type Letter struct {
	ID     string   // of one that has copies in other partitions, or ""
	Except []string // connections that do not get it
}

// How many ids of messages with copies are remembered. A client recognizes copies
// across connections. While one partition is late, those of all others count: 1,000
// are half a minute at 33 a second. A Device only spares its client copies.
const (
	clientIDs = 1000
	deviceIDs = 64
)

// ids remembers the last messages that have copies.
type ids struct {
	last []string
	next int // the oldest, once there is no room for more
}

// again reports whether the id is remembered, and remembers it; at most most ids.
func (s *ids) again(id string, most int) bool {
	switch {
	case id == "":
	case slices.Contains(s.last, id):
		return true
	case len(s.last) < most:
		s.last = append(s.last, id)
	default:
		s.last[s.next] = id
		s.next = (s.next + 1) % most
	}
	return false
}
