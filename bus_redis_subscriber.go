package herald

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/inbox"
)

// maxNames is how many channels one SUBSCRIBE names. Tried out: 5,000 and
// 1,000 cost the same for each, 100,000 twice as much.
const maxNames = 1000

// A redisChange is one call that changes the subscriptions, or proves them.
type redisChange struct {
	kind     commandKind // commandHello: a proof
	channels []string
	commands int // that carry it out
	err      error
}

// A redisSubscriber owns the link that is subscribed. run connects it;
// commits use it while it is up.
type redisSubscriber struct {
	ctx    context.Context // ends at Close
	dialer *redisDialer
	way    *redisWay
	inbox  *inbox.Inbox[Event]
	proofs *redisProofs
	part   int         // in proofs, and in inbox where the Bus has several
	nonces chan uint64 // the last that was heard on the probe's channel; holds one
	batch  *batch.Batcher[*redisChange]

	mu     sync.Mutex
	link   *redisLink          // the last one, dead or alive
	up     chan struct{}       // closed once link is subscribed to all that is wanted
	gone   chan struct{}       // closed once link is down again, with a new up
	down   error               // why it is not, or nil
	wanted map[string]struct{} // channels

	// Of the server that link leads to.

	addr    string
	arrived time.Time // when it was first subscribed there
}

func newRedisSubscriber(ctx context.Context, dialer *redisDialer, in *inbox.Inbox[Event], proofs *redisProofs, part int) *redisSubscriber {
	s := &redisSubscriber{
		ctx: ctx, dialer: dialer, way: dialer.way, inbox: in, proofs: proofs, part: part,
		nonces: make(chan uint64, 1),
		up:     make(chan struct{}),
		gone:   make(chan struct{}),
		down:   ErrBusDown,
		wanted: make(map[string]struct{}),
	}
	s.batch = batch.New(batch.Config[*redisChange]{
		Ready:    func() error { _, err := s.await(); return err },
		Commit:   s.commit,
		Size:     func(c *redisChange) int { return len(c.channels) },
		MaxItems: maxNames,
		MaxBytes: 16 * maxNames, // channels
	})
	return s
}

// change subscribes or unsubscribes, and waits for the confirmations.
func (s *redisSubscriber) change(ctx context.Context, kind commandKind, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	c := &redisChange{kind: kind, channels: make([]string, len(topics))}
	for i, topic := range topics {
		c.channels[i] = s.way.prefix + topic
	}
	err := s.batch.Do(ctx, c)
	if err != nil && ctx.Err() != nil {
		if down := s.health(); down != nil && !errors.Is(err, ErrClosed) {
			return fmt.Errorf("%w: %w: %w", ErrBusDown, err, down)
		}
	}
	return err
}

// prove asks for the server's role, on a Cluster for its view of that and for
// whose the slot is, and for the count of the subscriptions.
// A false answer makes the link dead.
func (s *redisSubscriber) prove(ctx context.Context) error {
	if err := s.health(); err != nil {
		return err
	}
	return s.batch.Do(ctx, &redisChange{kind: commandHello})
}

// commit carries out changes, on the next link where this one dies: to
// subscribe again does no harm.
func (s *redisSubscriber) commit(items []*redisChange) []error {
	for todo := slices.Clone(items); len(todo) > 0; {
		link, err := s.await()
		if err == nil {
			s.want(todo)
			q := s.encode(todo)
			if err = link.do(q).err; err == nil {
				s.settle(todo, q.commands)
				break
			}
		}
		todo = slices.DeleteFunc(todo, func(c *redisChange) bool {
			c.err = err
			return c.kind == commandHello || s.ctx.Err() != nil
		})
	}
	errs := make([]error, len(items))
	for i, c := range items {
		errs[i] = c.err
	}
	return errs
}

// want notes what the next link is to be subscribed to.
func (s *redisSubscriber) want(changes []*redisChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		for _, channel := range c.channels {
			if c.kind == commandSubscribe {
				s.wanted[channel] = struct{}{}
			} else {
				delete(s.wanted, channel)
			}
		}
	}
}

func (s *redisSubscriber) encode(changes []*redisChange) *redisQuery {
	q := new(redisQuery)
	for _, c := range changes {
		before := len(q.commands)
		if c.kind == commandHello {
			s.way.addProof(q)
		} else {
			s.way.addSubscription(q, c.kind, c.channels)
		}
		c.commands = len(q.commands) - before
	}
	return q
}

// settle hands the answers of commands, which encode made, to the changes.
// What Redis refuses is not wanted, or no new link would ever come up.
func (s *redisSubscriber) settle(changes []*redisChange, commands []redisCommand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		c.err = nil
		for _, command := range commands[:c.commands] {
			if command.err == nil {
				continue
			}
			c.err = fmt.Errorf("refused by Redis: %w", command.err)
			for _, channel := range command.channels {
				delete(s.wanted, channel)
			}
		}
		commands = commands[c.commands:]
	}
}

// run keeps the link up until Close.
func (s *redisSubscriber) run() {
	pause := s.dialer.backoff()
	for born := time.Now(); ; born = time.Now() {
		link := s.current()
		<-link.dead
		link.close(nil)
		s.goDown(link.reason())
		if s.ctx.Err() != nil {
			return
		}
		s.dialer.follow(link.reason())
		wait := pause.Lost(time.Since(born))
		for {
			if wait > 0 {
				select {
				case <-time.After(wait):
				case <-s.ctx.Done():
					return
				}
			}
			if s.connect() == nil {
				break
			}
			wait = pause.Fail()
		}
	}
}

// goDown notes that the link is down, and begins a gap.
func (s *redisSubscriber) goDown(why error) {
	s.mu.Lock()
	gone := s.gone
	s.up, s.gone = make(chan struct{}), make(chan struct{})
	s.down = why
	topics := make([]string, 0, len(s.wanted))
	if s.isPart() {
		for channel := range s.wanted {
			topics = append(topics, channel[len(s.way.prefix):])
		}
	}
	s.mu.Unlock()
	close(gone)
	since := s.proofs.down(s.part)
	if s.ctx.Err() != nil {
		return // that is no loss
	}
	if !s.isPart() {
		s.inbox.Down(Event{Kind: EventDown, Since: since, Err: why})
	} else if len(topics) > 0 {
		s.inbox.DownPart(s.part,
			Event{Kind: EventDown, Topics: topics, Since: since, Err: why},
			Event{Kind: EventRestored, Topics: topics},
			Event{Kind: EventDown, Since: earliest(since, s.proofs.oldest()), Err: errInboxFull})
	}
}

// isPart says whether others carry other topics.
func (s *redisSubscriber) isPart() bool { return len(s.proofs.parts) > 1 }

// connect opens a link, subscribes it to all that is wanted, and ends the gap.
func (s *redisSubscriber) connect() error {
	link, err := s.dialer.dial(s.ctx, newRedisInbound(s))
	if err == nil {
		if err = s.resubscribe(link); err != nil {
			link.close(err)
			s.dialer.follow(err)
		}
	}
	s.mu.Lock()
	s.down = err
	if err != nil {
		s.mu.Unlock()
		return err
	}
	up := s.up
	if addr := link.addr(); s.addr != addr {
		s.addr, s.arrived = addr, time.Now()
	}
	s.mu.Unlock()
	s.proofs.up(s.part)
	if s.isPart() {
		s.inbox.RestorePart(s.part)
	} else {
		s.inbox.Restore()
	}
	close(up)
	return nil
}

// resubscribe makes link the present one. The commits are waiting.
func (s *redisSubscriber) resubscribe(link *redisLink) error {
	s.mu.Lock()
	s.link = link
	channels := slices.AppendSeq(make([]string, 0, len(s.wanted)+2), maps.Keys(s.wanted))
	s.mu.Unlock()
	if s.dialer.master != nil {
		channels = append(channels, s.way.moved)
	}
	if s.ctx.Err() != nil { // Close may have seen no link to drop
		return ErrClosed
	}
	for chunk := range slices.Chunk(append(channels, s.way.probe), 16*maxNames) {
		q := new(redisQuery)
		s.way.addSubscription(q, commandSubscribe, chunk)
		if err := link.do(q).err; err != nil {
			return err
		}
		for _, c := range q.commands {
			if c.err != nil {
				return fmt.Errorf("subscribe: %w", c.err)
			}
		}
	}
	return nil
}

// await returns the link once it is up; the error is ErrClosed.
func (s *redisSubscriber) await() (*redisLink, error) {
	for {
		s.mu.Lock()
		up, gone := s.up, s.gone
		s.mu.Unlock()
		select {
		case <-up:
			if link := s.current(); link.reason() == nil {
				return link, nil
			}
		case <-s.ctx.Done():
			return nil, ErrClosed
		}
		select {
		case <-gone: // run has noted that the link is dead
		case <-s.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// current returns the last link, dead or alive; nil before the first.
func (s *redisSubscriber) current() *redisLink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// health returns why nothing can be received, or nil.
func (s *redisSubscriber) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// proveSince notes that link has been proved healthy by questions that were
// asked at the time start.
func (s *redisSubscriber) proveSince(link *redisLink, start time.Time) {
	s.mu.Lock()
	up := s.link == link && s.down == nil
	s.mu.Unlock()
	if up {
		s.proofs.proved(s.part, s.dialer.master.proved(start))
	}
}

// drop makes the link dead, where there is one.
func (s *redisSubscriber) drop(why error) {
	if link := s.current(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link. run must have ended.
func (s *redisSubscriber) close() {
	s.batch.Close(ErrClosed)
	if link := s.current(); link != nil {
		link.close(ErrClosed)
	}
}
