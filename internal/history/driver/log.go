package driver

import (
	"context"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/store"
)

// A Log is the log of one partition. Its methods are those of store.Log, over a
// network: they may be called at the same time, return when ctx is done, and
// repeat nothing. What the node knows goes with each call (node.Publisher).
type Log interface {
	// Append appends the batch and publishes it, all or nothing. It keeps no
	// slice. If the error wraps errs.Unknown it may have been done. After any
	// other error it never will be. Of the reply nobody needs Published.
	Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (store.Reply, error)

	// Publish publishes the batch without the log. Errors are as those of Append.
	Publish(ctx context.Context, batch []store.Draft) error

	// Fence returns the end of the log. In the same step it publishes that and
	// the number to this node: it comes back as a Fence, behind what was published
	// before.
	Fence(ctx context.Context, known history.Point, number uint64) (end history.Point, err error)

	Survey(ctx context.Context, known, from history.Point, topics []string, most int) (history.Survey, error)

	// Read reads what is at the offsets. Of more, which are other ones, it also looks at
	// some if that costs little. Both rise. ok is false if the log is not in the epoch.
	Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (x history.Excerpt, ok bool, err error)

	// Forget removes what is kept for the topics, and for nobody else.
	Forget(ctx context.Context, known history.Point, topics []string) error

	// Renew begins a new epoch, unless that has been done since the given one.
	Renew(ctx context.Context, known history.Point, epoch history.Epoch) (end history.Point, err error)

	// Trim removes what retention wants to remove.
	Trim(ctx context.Context, known history.Point) error
}

// A Bus is what a partition needs of herald.Bus. Its calls return when the broker
// has confirmed, and may be made at the same time.
type Bus interface {
	Subscribe(ctx context.Context, topics ...string) error
	Unsubscribe(ctx context.Context, topics ...string) error
}

// An Event is what the inbox hands over of a partition, in the order of its link.
type Event struct {
	Kind   EventKind
	Packet history.Packet // of a Packet

	// Of a Fence: what Log.Fence was given, and what it published.
	Number uint64
	End    history.Point

	Since time.Time // of a Doubt: nothing that was published before it is hidden
}

// An EventKind says what an Event is.
type EventKind uint8

const (
	Packet   EventKind = iota + 1
	Fence              // behind all packets that were published before it
	Down               // the link is, behind all that it brought
	Doubt              // the link was deaf, or a heartbeat was missed: a loss may be hidden
	Restored           // a new link has all subscriptions, before all that it brings
)

// A Hub is the rest of the node. The owner calls it, and it must not wait.
type Hub interface {
	// Deliver hands on a packet to all that hold its topic: to Sessions by their
	// Take, to others as it is.
	Deliver(partition int, p history.Packet)

	// Gap says that something may be missing that was published in a partition after
	// since. Sessions have been told.
	Gap(partition int, since time.Time)
}

// A Conn is the connection of a Session. The owner calls it, and it must not wait.
type Conn interface {
	// Queue puts a frame behind those that wait to be written. If there is no room
	// for a Message, the Conn gives up others and tells a Gap in their place, or
	// ends. All else has to fit.
	Queue(f device.Frame)

	// Gap does the same with a Gap of which it is known since when something may be
	// missing: it is up to now.
	Gap(f device.Frame, since time.Time)

	// Replay does the same with a frame that was read from the log. It has to fit:
	// there was Room.
	Replay(f device.Frame)

	// Room says whether what was queued has been written, but for so little that
	// a page, and what may be left at the end of a resume, fit behind it. Once
	// there is room again the Conn calls Session.Drained.
	Room() bool

	// Topics returns which topics of a partition it holds, and Holds is whether it
	// holds one: from before Session.Join until it has left.
	Topics(partition int) []string
	Holds(topic string) bool

	// Open says what a Device has to know of a message.
	Open(body []byte) device.Letter
}
