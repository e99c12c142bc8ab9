package redisbus

import (
	"errors"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/loan"
)

// A Packet is a herald.Packet.
type Packet struct {
	Topic string
	Data  []byte
}

// packet is met by Packet and by herald.Packet, which converts to it.
type packet interface {
	~struct {
		Topic string
		Data  []byte
	}
}

// A Kind is a herald.EventKind, with the same values.
type Kind uint8

// The kinds of events.
const (
	KindPacket Kind = iota + 1
	KindDown
	KindRestored
)

// An Event is a herald.Event.
type Event struct {
	Kind   Kind
	Packet Packet
	Topics []string
	Since  time.Time
	Err    error
	Hidden bool         // of a KindDown: the log may look whole although it lacks packets
	Loan   *loan.Buffer // the memory of the packet, if that is on loan; the receiver of the event holds it
}

// Bounds of what waits for Receive. Beyond them packets are dropped, between
// a KindDown and a KindRestored.
const (
	inboxEvents = 1 << 18
	inboxBytes  = 64 << 20
)

// eventSize is roughly the memory of an Event without its packet's data.
const eventSize = 128

func newInbox() *inbox.Inbox[Event] {
	return inbox.New(inbox.Config[Event]{
		Size:     func(e Event) int { return eventSize + len(e.Packet.Data) },
		MaxItems: inboxEvents,
		MaxBytes: inboxBytes,
		Restored: Event{Kind: KindRestored},
		Earlier:  earlier,
		Refusal:  errs.Receiving,
	})
}

func earlier(a, b Event) bool { return a.Since.Before(b.Since) }

// errInboxFull is the reason of a gap in which packets were dropped because nobody
// received them.
var errInboxFull = errors.New("herald: Receive is called too slowly")

// errReset is the reason of a gap that Reset made.
var errReset = errors.New("herald: bus was reset")
