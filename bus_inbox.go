package herald

import (
	"errors"

	"github.com/heraldgo/herald/internal/inbox"
)

// Bounds of what waits for Receive. Beyond them packets are dropped, between
// an EventDown and an EventRestored.
const (
	inboxEvents = 1 << 18
	inboxBytes  = 64 << 20
)

// eventSize is about what an Event takes beside its bytes.
const eventSize = 128

// newInbox returns the queue between a Bus and Receive.
func newInbox() *inbox.Inbox[Event] {
	return inbox.New(inbox.Config[Event]{
		Size:     func(e Event) int { return eventSize + len(e.Packet.Data) },
		MaxItems: inboxEvents,
		MaxBytes: inboxBytes,
		Restored: Event{Kind: EventRestored},
		Refusal:  ErrReceiving,
	})
}

// errInboxFull is why packets were dropped that nobody received.
var errInboxFull = errors.New("herald: Receive is called too slowly")

// errReset is the reason of a gap that Reset made.
var errReset = errors.New("herald: bus was reset")
