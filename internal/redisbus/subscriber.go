package redisbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/uplink"
)

// maxNames is how many channels one SUBSCRIBE names. In a trial a channel cost the
// same with 1,000 and 5,000 of them, and twice as much with 100,000.
const maxNames = 1000

// A change is one call that changes the subscriptions.
type change struct {
	kind     commandKind
	channels []string
	commands int // how many carry it out
	err      error
}

// A subscriber owns the link that is subscribed. run connects it;
// commits use it while it is up.
type subscriber struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	alive  chan<- struct{} // holds one; for the publisher
	way    *way
	inbox  *inbox.Inbox[Event]
	proofs *proofs
	part   int               // its index in proofs, and in inbox if the Bus has several
	echo   uplink.Echo       // the last number heard on the probe's channel
	proof  func(*link) error // proves a new link over the loop; nil if nothing is to be proved
	batch  *batch.Batcher[*change]
	uplink *uplink.Uplink[*link] // up once it is subscribed to all that is wanted

	mu     sync.Mutex
	wanted map[string]struct{} // channels

	// About the server of the last link that was up.

	server  string
	arrived time.Time // when it was first subscribed there
}

func newSubscriber(ctx context.Context, dialer *dialer, alive chan<- struct{}, in *inbox.Inbox[Event], proofs *proofs, part int) *subscriber {
	s := &subscriber{
		ctx: ctx, dialer: dialer, alive: alive, way: dialer.way, inbox: in, proofs: proofs, part: part,
		uplink: uplink.New(ctx, (*link).reason, errs.BusDown, errs.Closed),
		wanted: make(map[string]struct{}),
	}
	s.batch = batch.New(batch.Config[*change]{
		Ready:    func() error { _, err := s.uplink.Await(context.Background()); return err },
		Commit:   s.commit,
		Size:     func(c *change) int { return len(c.channels) },
		MaxItems: maxNames,
		MaxBytes: 16 * maxNames, // counted in channels
	})
	return s
}

// change subscribes or unsubscribes, and waits for the confirmations.
func (s *subscriber) change(ctx context.Context, kind commandKind, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	c := &change{kind: kind, channels: make([]string, len(topics))}
	for i, topic := range topics {
		c.channels[i] = s.way.prefix + topic
	}
	err := s.batch.Do(ctx, c)
	if err != nil && ctx.Err() != nil {
		if down := s.uplink.Health(); down != nil && !errors.Is(err, errs.Closed) {
			return fmt.Errorf("%w: %w: %w", errs.BusDown, err, down)
		}
	}
	return err
}

// commit carries out changes, on the next link if this one dies: subscribing again
// does no harm.
func (s *subscriber) commit(items []*change) []error {
	for todo := slices.Clone(items); len(todo) > 0; {
		link, err := s.uplink.Await(context.Background())
		if err == nil {
			s.want(todo)
			q := s.encode(todo)
			if err = link.do(q).err; err == nil {
				s.settle(todo, q.commands)
				break
			}
		}
		todo = slices.DeleteFunc(todo, func(c *change) bool {
			c.err = err
			return s.ctx.Err() != nil
		})
	}
	results := make([]error, len(items))
	for i, c := range items {
		results[i] = c.err
	}
	return results
}

// want notes what the next link is to be subscribed to.
func (s *subscriber) want(changes []*change) {
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

func (s *subscriber) encode(changes []*change) *query {
	q := new(query)
	for _, c := range changes {
		before := len(q.commands)
		s.way.addSubscription(q, c.kind, c.channels)
		c.commands = len(q.commands) - before
	}
	return q
}

// settle hands the answers to the changes, whose commands encode made. A channel that
// Redis refuses is no longer wanted: otherwise no new link would ever come up.
func (s *subscriber) settle(changes []*change, commands []command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		c.err = nil
		for _, command := range commands[:c.commands] {
			said, ok := command.err.(redisconn.Error)
			if !ok {
				continue
			}
			c.err = refusal(said)
			for _, channel := range command.channels {
				delete(s.wanted, channel)
			}
		}
		commands = commands[c.commands:]
	}
}

// run keeps the link up until Close.
func (s *subscriber) run() {
	pause := s.dialer.backoff()
	for born := time.Now(); ; born = time.Now() {
		link := s.uplink.Link()
		<-link.dead
		link.close(nil)
		s.goDown(link.reason())
		if s.ctx.Err() != nil {
			return
		}
		s.dialer.follow(link.reason())
		if !pause.Reconnect(s.ctx, time.Since(born), s.connect) {
			return
		}
	}
}

// goDown notes that the link is down, and begins a gap.
func (s *subscriber) goDown(why error) {
	s.uplink.Down(why)
	s.mu.Lock()
	topics := make([]string, 0, len(s.wanted))
	if s.isPart() {
		for channel := range s.wanted {
			topics = append(topics, channel[len(s.way.prefix):])
		}
	}
	s.mu.Unlock()
	since := s.proofs.down(s.part)
	if s.ctx.Err() != nil {
		return // closing is no loss
	}
	if !s.isPart() {
		s.inbox.Down(Event{Kind: KindDown, Since: since, Err: why})
	} else if len(topics) > 0 {
		oldest := s.proofs.oldest()
		if since.Before(oldest) {
			oldest = since
		}
		s.inbox.DownPart(s.part,
			Event{Kind: KindDown, Topics: topics, Since: since, Err: why},
			Event{Kind: KindRestored, Topics: topics},
			Event{Kind: KindDown, Since: oldest, Err: errInboxFull})
	}
}

// isPart reports whether other partitions carry other topics.
func (s *subscriber) isPart() bool { return len(s.proofs.parts) > 1 }

// connect opens a link, subscribes it to all that is wanted, and ends the gap.
func (s *subscriber) connect() error {
	link, err := s.dialer.dial(s.ctx, s)
	if err == nil {
		if err = s.resubscribe(link); err == nil {
			err = s.proveNew(link)
		}
		if err != nil {
			link.close(err)
			s.dialer.follow(err)
		}
	}
	if err != nil {
		s.uplink.Fail(err)
		return err
	}
	s.mu.Lock()
	if s.server != link.trunk.server {
		s.server, s.arrived = link.trunk.server, time.Now()
	}
	s.mu.Unlock()
	s.uplink.Up(link, func() {
		s.proofs.up(s.part)
		if s.isPart() {
			s.inbox.RestorePart(s.part)
		} else {
			s.inbox.Restore()
		}
	})
	return nil
}

// proveNew proves a link that is subscribed to all that is wanted. Redis'
// confirmations do not show that it hears what is published on the other link.
func (s *subscriber) proveNew(l *link) error {
	select {
	case s.alive <- struct{}{}:
	default:
	}
	if s.proof == nil {
		return nil
	}
	return s.proof(l)
}

// resubscribe makes l the current link and subscribes it to all that is wanted.
// Commits wait meanwhile.
func (s *subscriber) resubscribe(l *link) error {
	s.uplink.Set(l)
	s.mu.Lock()
	channels := slices.AppendSeq(make([]string, 0, len(s.wanted)+2), maps.Keys(s.wanted))
	s.mu.Unlock()
	if s.dialer.master != nil {
		channels = append(channels, s.way.moved)
	}
	if s.ctx.Err() != nil { // Close may have seen no link to drop
		return errs.Closed
	}
	for chunk := range slices.Chunk(append(channels, s.way.probe), 16*maxNames) {
		q := new(query)
		s.way.addSubscription(q, commandSubscribe, chunk)
		if err := l.do(q).err; err != nil {
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

// proveSince notes that link has been proved healthy by questions that were
// asked at the time start.
func (s *subscriber) proveSince(l *link, start time.Time) {
	if s.uplink.Prove(l, start) {
		s.proofs.proved(s.part, s.dialer.master.Proved(l.trunk.server, start))
	}
}

// drop makes the link dead, if there is one.
func (s *subscriber) drop(why error) {
	if link := s.uplink.Link(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link. run must have ended.
func (s *subscriber) close() {
	s.batch.Close(errs.Closed)
	if link := s.uplink.Link(); link != nil {
		link.close(errs.Closed)
	}
}
