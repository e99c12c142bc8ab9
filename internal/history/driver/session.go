package driver

import (
	"context"
	"sync/atomic"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

// A Session is a connection whose client can come back. Its methods Begin, Start and
// Join wait for the owner; Start comes after Begin, and Join at any time. Take and
// Awaits are for Hub.Deliver alone. Drained and End do not wait, and anybody may call
// them.
type Session struct {
	d    *Driver
	conn Conn
	id   string
	from history.Positions
	last []string

	waits atomic.Bool // for room
	ended atomic.Bool

	// Used by the owner alone.
	device *device.Device // nil before it has begun, and after it has ended
	open   map[int]*question
	bytes  int // of the pages that wait in its queue

	looked bool // it is in Driver.looks; guarded by Driver.mu
}

// A beginner waits until the feeds have positions.
type beginner struct {
	begin func(feeds history.Positions)
	begun chan struct{}
}

// NewSession returns the Session of a new connection. Its client may have given
// positions and the ids of its last connections. It takes nothing until Begin.
func (d *Driver) NewSession(conn Conn, id string, from history.Positions, last []string) *Session {
	return &Session{d: d, conn: conn, id: id, from: from, last: last}
}

// Begin begins the Session, and queues the frame that welcomes its client. The
// connection must be in the index; its topics need not be subscribed yet. Begin waits
// until the node has a position in each partition.
func (s *Session) Begin(ctx context.Context) error {
	err := s.d.At(ctx, func(feeds history.Positions) {
		if s.ended.Load() {
			return
		}
		var welcome device.Frame
		s.device, welcome = device.Begin(s.d.limits, host{s}, s.id, s.from, s.last, feeds)
		s.d.sessions[s] = struct{}{}
		s.conn.Queue(welcome)
	})
	if err != nil {
		s.End()
	}
	return err
}

// At makes the owner call f with the node's positions. It waits until the node has
// one in each partition. After an error f may have been called, or may still be.
func (d *Driver) At(ctx context.Context, f func(feeds history.Positions)) error {
	b := beginner{f, make(chan struct{})}
	err := d.tell(ctx, func() {
		d.beginners = append(d.beginners, b)
		d.begin()
	})
	if err == nil {
		err = d.wait(ctx, b.begun)
	}
	return err
}

// begin calls the beginners if all feeds have positions.
func (d *Driver) begin() {
	if len(d.beginners) == 0 {
		return
	}
	var feeds history.Positions
	for i, s := range d.sides {
		if feeds[i] = s.feed.At(); feeds[i].Epoch == 0 {
			return
		}
	}
	for _, b := range d.beginners {
		b.begin(feeds)
		close(b.begun)
	}
	d.beginners = nil
}

// Start begins the resume, if the client comes back. The topics that the connection
// holds must be subscribed.
func (s *Session) Start(ctx context.Context) error {
	return s.d.tell(ctx, func() {
		for i := range s.d.sides {
			if s.device != nil {
				s.start(i)
			}
		}
		s.proceed()
		s.d.turns()
	})
}

// start begins the resume of one partition. If the connection holds none of its
// topics, the log is not asked whether something is missing: the device goes live
// where the feed is. Only the log can judge a position in another epoch, or one that
// the feed has not reached.
func (s *Session) start(partition int) {
	step := s.device.Start(partition)
	from, feed := step.Ask.From, s.d.sides[partition].feed.At()
	if step.Ask.Round != 0 && from.Epoch == feed.Epoch && from.Offset <= feed.Offset &&
		len(s.conn.Topics(partition)) == 0 && s.conn.Room() {
		step = s.device.Surveyed(partition, step.Ask.Round, history.Survey{End: feed, From: from.Offset, Whole: true})
	}
	s.step(partition, step)
}

// Join says that the connection is about to hold more topics of the partitions. It
// holds them already, but the subscriptions are not confirmed.
func (s *Session) Join(ctx context.Context, partitions ...int) error {
	return s.d.tell(ctx, func() {
		for _, partition := range partitions {
			if s.device != nil {
				s.step(partition, s.device.Join(partition))
			}
		}
		s.proceed()
		s.d.turns()
	})
}

// Take takes a packet for a topic that the connection holds.
func (s *Session) Take(partition int, p history.Packet, l device.Letter) {
	if s.device == nil {
		return
	}
	if f, ok := s.device.Take(partition, p, l); ok {
		s.conn.Queue(f)
	}
}

// Awaits reports whether the connection has yet to read the entry at a point from the
// log. It is for Hub.Deliver alone.
func (s *Session) Awaits(partition int, at history.Point) bool {
	return s.device != nil && s.device.Awaits(partition, at)
}

// Drained says that there is room in the queue again. It is cheap if no question
// waits for that.
func (s *Session) Drained() {
	if s.waits.Load() {
		s.look()
	}
}

// End says that the connection is closing. It may be called before Begin, and
// twice.
func (s *Session) End() {
	if !s.ended.Swap(true) {
		s.look()
	}
}

// look has the owner look at the session.
func (s *Session) look() {
	s.d.mu.Lock()
	if !s.looked {
		s.looked = true
		s.d.looks = append(s.d.looks, s)
	}
	s.d.mu.Unlock()
	s.d.look.Set()
}

// lookAt looks at the sessions that asked for it.
func (d *Driver) lookAt() {
	d.mu.Lock()
	looks := d.looks
	d.looks = nil
	for _, s := range looks {
		s.looked = false
	}
	d.mu.Unlock()
	for _, s := range looks {
		if s.ended.Load() {
			for _, q := range s.open {
				q.hold(history.Excerpt{})
			}
			s.device, s.open = nil, nil
			delete(d.sessions, s)
			s.release()
		} else {
			s.proceed()
		}
	}
	d.turns()
}

// A host is what the Device asks of its connection.
type host struct{ *Session }

func (h host) Holds(topic string) bool        { return h.conn.Holds(topic) }
func (h host) Open(body []byte) device.Letter { return h.conn.Open(body) }

func (h host) Recent(partition int, at history.Point) ([]history.Packet, bool) {
	return h.d.sides[partition].feed.Recent(at)
}
