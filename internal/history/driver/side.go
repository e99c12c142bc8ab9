package driver

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/store"
)

// A side is a node's half of one partition. Only the owner uses it, except for the
// fields that say otherwise.
type side struct {
	d         *Driver
	partition int
	log       Log // for all goroutines
	bus       Bus // for all goroutines

	feed     *node.Feed
	up       bool                // the link is up
	followed map[string]struct{} // topics: subscribed, or about to be
	heldBack []follower          // while the feed repairs

	open  node.Ask // if it has a round
	since time.Time
	again time.Time // when the open question is put again; zero while it is under way

	fence    fences
	renew    history.Epoch // the epoch that is to end; zero if none is
	renewing bool          // a call for that is under way

	trimmed  time.Time // when a Trim was last asked for
	trimming time.Duration
	marked   time.Time // when devices last got a Mark
	sure     time.Time // everything that was published before it was handed on, or told to be missing
	doubted  time.Time // since when a loss may be hidden; zero if none is
	marking  time.Duration

	reads reads

	batcher *batch.Batcher[store.Draft] // for all goroutines
	told    history.Epoch               // used by commits alone: the last epoch that the feed was told of
	failing atomic.Pointer[error]       // why the log does not answer

	mu        sync.Mutex
	publisher node.Publisher
}

// fences are the fences of a partition. One that is not heard in time counts as lost,
// and makes no Mark if it comes later.
type fences struct {
	number uint64 // of the last one
	sent   time.Time
	out    bool // the last one is on its way

	soon  int           // how many more come at intervals of fenceEvery, because something is going on
	quiet time.Duration // the interval otherwise
	end   history.Point // of the last one
}

// due returns when the next one is due.
func (f *fences) due() time.Time {
	switch {
	case f.out:
		return f.sent.Add(giveUp)
	case f.soon > 0:
		return f.sent.Add(fenceEvery)
	}
	return f.sent.Add(f.quiet)
}

// heard notes that the one on its way has come.
func (f *fences) heard(end history.Point) {
	f.out = false
	f.soon = max(f.soon-1, 0)
	if end != f.end {
		f.end, f.soon = end, max(f.soon, 1)
	}
}

// stir makes at least this many fences come soon.
func (s *side) stir(fences int) {
	if f := &s.fence; f.soon < fences {
		f.soon = fences
		if s.up {
			s.d.alarm.by(f.due())
		}
	}
}

func newSide(d *Driver, partition int, p Partition, c Config) *side {
	s := &side{
		d: d, partition: partition, log: p.Log, bus: p.Bus,
		feed: node.NewFeed(c.Feed), followed: make(map[string]struct{}), sure: time.Now(),
		trimming: c.Retention / 16, marking: c.Retention / 4,
	}
	s.fence.quiet = max(fenceEvery, min(time.Duration(len(c.Partitions))*fenceEvery/quietFences, s.marking))
	s.batcher = s.newBatcher()
	return s
}

// take takes what the inbox has handed over.
func (s *side) take(e Event) {
	switch e.Kind {
	case Packet:
		s.stir(1)
		if _, ok := s.followed[e.Packet.Topic]; ok {
			s.do(s.feed.Take(e.Packet))
		}
	case Fence:
		if s.fence.out && e.Number == s.fence.number {
			s.fence.heard(e.End)
			s.d.alarm.by(s.fence.due())
			s.do(s.feed.Mark(e.End))
			if s.feed.Flowing() {
				s.sure = s.fence.sent
			}
		}
	case Down:
		s.up, s.fence.out, s.open = false, false, node.Ask{}
		s.feed.Down()
		s.letFollow()
	case Doubt:
		if s.doubted.IsZero() || e.Since.Before(s.doubted) {
			s.doubted = e.Since
		}
		s.do(s.feed.Doubt())
	case Restored:
		s.up = true
		s.fence.sent = time.Now() // what the feed asks now serves as a fence
		s.stir(settling)
		s.d.alarm.by(s.fence.due())
		s.do(s.feed.Restored())
	}
}

// do does what the feed says.
func (s *side) do(step node.Step) {
	if step.Fork.Epoch != 0 {
		for c := range s.d.sessions {
			c.device.Cross(s.partition, step.Fork)
		}
	}
	if step.Gap {
		since := s.sure
		if !s.doubted.IsZero() && s.doubted.Before(since) {
			since = s.doubted
		}
		s.doubted = time.Time{}
		for c := range s.d.sessions {
			c.conn.Gap(c.device.Gap(s.partition), since)
		}
		s.d.hub.Gap(s.partition, since)
	}
	for _, p := range step.Hand {
		s.d.hub.Deliver(s.partition, p)
	}
	if step.Mark.Epoch != 0 {
		s.mark(step.Mark)
	}
	if step.Ask.Round != 0 {
		s.open, s.since = step.Ask, time.Now()
		s.ask()
	}
	if !s.feed.Repairing() {
		s.letFollow()
		s.d.begin()
	}
}

// mark gives the devices a Mark, but not more often than marking.
func (s *side) mark(at history.Point) {
	now := time.Now()
	if now.Sub(s.marked) < s.marking {
		return
	}
	s.marked = now
	for c := range s.d.sessions {
		if f, ok := c.device.Mark(s.partition, at); ok {
			c.conn.Queue(f)
		}
	}
}

// ask puts the feed's question to the log.
func (s *side) ask() {
	ask, known := s.open, s.known()
	s.again = time.Time{}
	s.d.alarm.by(s.since.Add(giveUp))
	if len(ask.Offsets) > 0 {
		s.d.callFor(readTimeout, func(ctx context.Context) func() {
			x, ok, err := s.log.Read(ctx, known, ask.From.Epoch, ask.Offsets, nil)
			return func() {
				s.answered(ask.Round, err, func() node.Step { return s.feed.Entries(ask.Round, x.Entries, ok) })
			}
		})
		return
	}
	topics := make([]string, 0, len(s.followed))
	for topic := range s.followed {
		topics = append(topics, topic)
	}
	s.d.call(func(ctx context.Context) func() {
		survey, err := s.log.Survey(ctx, known, ask.From, topics, ask.Most)
		survey.Entries = nil // the feed reads them in pages
		return func() {
			if err == nil {
				s.met(known, survey.End)
			}
			s.answered(ask.Round, err, func() node.Step { return s.feed.Surveyed(ask.Round, survey) })
		}
	})
}

// answered takes the answer to the feed's question, or the error instead of it.
func (s *side) answered(round uint64, err error, step func() node.Step) {
	s.heard(err)
	switch {
	case round != s.open.Round:
	case err != nil:
		s.again = time.Now().Add(pause)
		s.d.alarm.by(s.again)
	default:
		s.open = node.Ask{}
		s.do(step())
	}
}

// heard notes whether the log answers.
func (s *side) heard(err error) {
	if err != nil {
		s.failing.Store(&err)
	} else if s.failing.Load() != nil {
		s.failing.Store(nil)
	}
}

// tick does what is due.
func (s *side) tick(now time.Time) {
	if round := s.open.Round; round != 0 {
		switch gives := s.since.Add(giveUp); {
		case !now.Before(gives):
			s.open = node.Ask{}
			s.do(s.feed.GaveUp(round))
		case s.again.IsZero():
			s.d.alarm.by(gives)
		case !now.Before(s.again):
			s.ask()
		default:
			s.d.alarm.by(s.again)
		}
	}
	if s.up {
		if !now.Before(s.fence.due()) {
			s.sendFence(now)
		}
		s.d.alarm.by(s.fence.due())
		if s.renew != 0 && !s.renewing {
			s.askRenew()
		}
		if now.Sub(s.trimmed) >= s.trimming {
			s.trimmed = now
			s.trim()
		}
	}
}

// sendFence has the end of the log published to this node. One fence is on its way at
// a time.
func (s *side) sendFence(now time.Time) {
	s.fence.number, s.fence.sent, s.fence.out = s.fence.number+1, now, true
	number, known := s.fence.number, s.known()
	s.d.call(func(ctx context.Context) func() {
		end, err := s.log.Fence(ctx, known, number)
		return func() {
			s.heard(err)
			switch {
			case err == nil:
				s.met(known, end)
			case number == s.fence.number && s.fence.out:
				s.fence.out = false // so it makes no Mark, if it comes after all
				s.stir(1)
				s.d.alarm.by(s.fence.due())
			}
		}
	})
}

// askRenew asks the log to end the epoch renew. If that fails, it is tried again with
// the next fence.
func (s *side) askRenew() {
	s.renewing = true
	known, epoch := s.known(), s.renew
	s.d.call(func(ctx context.Context) func() {
		end, err := s.log.Renew(ctx, known, epoch)
		return func() {
			s.renewing = false
			s.heard(err)
			if err == nil {
				s.renew = 0
				s.met(known, end)
			}
		}
	})
}

func (s *side) trim() {
	known := s.known()
	s.d.call(func(ctx context.Context) func() {
		err := s.log.Trim(ctx, known)
		return func() { s.heard(err) }
	})
}

// met notes the log's end, as a call has returned it.
func (s *side) met(known, end history.Point) {
	s.mu.Lock()
	s.publisher.Met(known, end)
	s.mu.Unlock()
	s.do(s.feed.Met(end.Epoch))
}

// known returns what goes with each call.
func (s *side) known() history.Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.publisher.Known()
}
