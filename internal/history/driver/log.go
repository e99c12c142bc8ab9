package driver

import (
	"context"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/store"
)

// A Log is the log of one partition. Its methods are those of store.Log, over a
// network. They may be called concurrently, return when ctx is done, and repeat
// nothing. What the node knows of the log goes with each call (node.Publisher).
type Log interface {
	// Append appends the batch and publishes it, all or nothing. It keeps no slice.
	// If the error wraps errs.Unknown, that may have been done. After any other error
	// it never will be. Published need not be set in the reply.
	Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (store.Reply, error)

	// Publish publishes the batch without the log. Its errors are like those of
	// Append.
	Publish(ctx context.Context, batch []store.Draft) error

	// Fence returns the end of the log. In the same step it publishes the end and the
	// number to this node. They come back as a Fence, behind everything that was
	// published before.
	Fence(ctx context.Context, known history.Point, number uint64) (end history.Point, err error)

	Survey(ctx context.Context, known, from history.Point, topics []string, most int) (history.Survey, error)

	// Read reads the entries at the offsets. It also looks at some of more, which are
	// other offsets, if that costs little. Both rise. ok is false if the log is not
	// in the epoch.
	Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (x history.Excerpt, ok bool, err error)

	// Forget removes what is kept for these topics and for no other.
	Forget(ctx context.Context, known history.Point, topics []string) error

	// Renew begins a new epoch, unless that has been done since the given one.
	Renew(ctx context.Context, known history.Point, epoch history.Epoch) (end history.Point, err error)

	// Trim removes what retention wants to remove.
	Trim(ctx context.Context, known history.Point) error
}

// A Bus is what a partition needs of herald.Bus. Its calls return when the broker has
// confirmed, and may be made concurrently.
type Bus interface {
	Subscribe(ctx context.Context, topics ...string) error
	Unsubscribe(ctx context.Context, topics ...string) error
}

// An Event is what the inbox hands over for a partition, in the order of the link.
type Event struct {
	Kind   EventKind
	Packet history.Packet // only of a Packet

	// Only of a Fence: what Log.Fence was given, and what it published.
	Number uint64
	End    history.Point

	Since time.Time // only of a Doubt: a loss of what was published before it is not hidden
}

// An EventKind says what an Event is.
type EventKind uint8

const (
	Packet   EventKind = iota + 1
	Fence              // behind all packets that were published before it
	Down               // the link is down, after all that it brought
	Doubt              // the link was deaf, or a heartbeat was missed: a loss may be hidden
	Restored           // a new link has all subscriptions, before anything that it brings
)

// A Hub is the rest of the node. The owner calls it, and it must not block.
type Hub interface {
	// Deliver hands on a packet to all Conns that hold its topic: to Sessions by
	// their Take, to others as it is.
	Deliver(partition int, p history.Packet)

	// Gap says that something that was published in a partition after since may be
	// missing. Sessions have been told already.
	Gap(partition int, since time.Time)
}

// A Conn is the connection of a Session. The owner calls it, and it must not block.
type Conn interface {
	// Queue puts a frame behind those that wait to be written. If there is no room
	// for a Message, the Conn gives up other Messages and puts a Gap in their place,
	// or ends. Any other frame has to fit.
	Queue(f device.Frame)

	// Gap does the same with a Gap of which the time is known: since then, and up to
	// now, something may be missing.
	Gap(f device.Frame, since time.Time)

	// Replay does the same with a frame that was read from the log. It has to fit,
	// because there was Room.
	Replay(f device.Frame)

	// Room reports whether so much of the queue has been written that a page, and what
	// may be left at the end of a resume, fit behind the rest. Once there is room
	// again, the Conn calls Session.Drained.
	Room() bool

	// Topics returns the topics of a partition that the Conn holds. Holds says
	// whether it holds a topic: from before Session.Join until it has left.
	Topics(partition int) []string
	Holds(topic string) bool

	// Open returns what a Device has to know of a message.
	Open(body []byte) device.Letter
}
