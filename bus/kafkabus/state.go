package kafkabus

import (
	"cmp"
	"errors"
	"sync"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/inbox"
)

// Bounds of what waits for Receive. Beyond them packets are dropped, between
// an EventDown and an EventRestored.
const (
	inboxEvents = 1 << 18
	inboxBytes  = 64 << 20
)

// eventSize is about what an Event takes besides its bytes.
const eventSize = 128

func newInbox() *inbox.Inbox[herald.Event] {
	return inbox.New(inbox.Config[herald.Event]{
		Size:     func(e herald.Event) int { return eventSize + len(e.Packet.Data) },
		MaxItems: inboxEvents,
		MaxBytes: inboxBytes,
		Restored: herald.Event{Kind: herald.EventRestored},
		Refusal:  herald.ErrReceiving,
	})
}

var (
	// errInboxFull is why packets that nobody received were dropped.
	errInboxFull = errors.New("kafkabus: Receive is called too slowly")

	// errReset is the reason of a gap that Reset made.
	errReset = errors.New("kafkabus: bus was reset")

	// errLayout is why a session ends when the topic has changed.
	errLayout = errors.New("kafkabus: the topic has other partitions now")

	// errRecreated is why packets of the deleted topic may have been lost.
	errRecreated = errors.New("kafkabus: the topic was deleted and created again")

	// errDeaf is why a session that looks well is dropped.
	errDeaf = errors.New("kafkabus: Kafka took records, and did not hand them over")
)

// A state is what is known of the Bus' health.
type state struct {
	inbox *inbox.Inbox[herald.Event]
	wake  chan struct{} // holds a token when there is something to prove

	// Held while the inbox is told, so that what it is told of faults and
	// proofs is in their order.
	mu       sync.Mutex
	proved   time.Time // what was published before has been handed over, or reported
	down     error     // the last fault, until a proof
	faults   uint64
	unproved error // why the last probe was not published
}

// fault begins a gap, if there is none, and asks for a proof.
func (s *state) fault(why error) {
	s.fail(why)
	s.hurry()
}

// fail begins a gap, if there is none.
func (s *state) fail(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults++
	s.down = why
	s.inbox.Down(herald.Event{Kind: herald.EventDown, Since: s.proved, Err: why})
}

// hurry asks for a proof at once.
func (s *state) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// count returns how many faults there were.
func (s *state) count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// proven takes note of a proof that began at the time start, when there had been that
// many faults, and ends the gap if there were no more since. If unproved is not nil,
// it says why the proof shows only that everything was read, not that the Bus can
// publish.
func (s *state) proven(start time.Time, faults uint64, unproved error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unproved = unproved
	if s.faults != faults {
		return
	}
	s.proved = start
	if unproved == nil {
		s.down = nil
		s.inbox.Restore()
	}
}

// since returns the time before which nothing published has been lost.
func (s *state) since() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proved
}

// health returns why the Bus is not well, or nil.
func (s *state) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.down, s.unproved)
}
