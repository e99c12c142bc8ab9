package mqttbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/uplink"
)

// A change is one call that changes the subscriptions, or proves the link.
type change struct {
	kind   byte     // packets.SUBSCRIBE, UNSUBSCRIBE or PINGREQ
	topics []string // herald's
	names  []string // their MQTT topics
	err    error
}

// A subscriber owns the link that is subscribed. run connects it; commits use
// it while it is up.
type subscriber struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	inbox  *inbox.Inbox[herald.Event]
	qos    byte
	prefix string
	probe  string // the topic that the Bus proves itself with
	batch  *batch.Batcher[*change]
	epoch  time.Time             // the Bus' clock counts from here
	uplink *uplink.Uplink[*link] // up once it is subscribed to all that is wanted
	echo   uplink.Echo           // probes, by when they were sent
	proof  func(*link) error     // proves a link that is to end a gap; nil until New has opened the first

	mu     sync.Mutex
	wanted map[string]string // herald's topics by their MQTT topics
}

func newSubscriber(ctx context.Context, d *dialer, qos byte, prefix, probe string) *subscriber {
	s := &subscriber{
		ctx: ctx, dialer: d, inbox: newInbox(), qos: qos, prefix: prefix, probe: probe,
		epoch:  time.Now().Add(-time.Nanosecond), // so that no moment is zero
		uplink: uplink.New(ctx, (*link).reason, herald.ErrBusDown, herald.ErrClosed),
		wanted: make(map[string]string),
	}
	s.batch = batch.New(batch.Config[*change]{
		Ready:    func() error { _, err := s.uplink.Await(context.Background()); return err },
		Commit:   s.commit,
		Size:     func(c *change) int { return len(c.names) },
		MaxItems: maxExchange,
		MaxBytes: maxExchange, // topics
	})
	return s
}

// clock is the Bus' own, in nanoseconds; never zero.
func (s *subscriber) clock() int64 { return int64(time.Since(s.epoch)) }

// wall returns the time of a moment on clock.
func (s *subscriber) wall(at int64) time.Time { return s.epoch.Add(time.Duration(at)) }

// change subscribes or unsubscribes, and waits for the confirmations.
func (s *subscriber) change(ctx context.Context, kind byte, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	c := &change{kind: kind, topics: slices.Clone(topics), names: make([]string, len(topics))}
	for i, topic := range topics {
		var err error
		if c.names[i], err = topicName(s.prefix, topic); err != nil {
			return err
		}
	}
	err := s.batch.Do(ctx, c)
	if err != nil && ctx.Err() != nil && !errors.Is(err, herald.ErrClosed) {
		if down := s.uplink.Health(); down != nil {
			return fmt.Errorf("%w: %w: %w", herald.ErrBusDown, err, down)
		}
	}
	return err
}

// ping asks the broker for a sign of life.
func (s *subscriber) ping(ctx context.Context) error {
	if err := s.uplink.Health(); err != nil {
		return err
	}
	return s.batch.Do(ctx, &change{kind: packets.PINGREQ})
}

// commit carries out changes. Those of a kind go together: a broker may
// answer packets of two kinds in an order of its own.
func (s *subscriber) commit(items []*change) []error {
	errs := make([]error, len(items))
	for begin := 0; begin < len(items); {
		end := begin + 1
		for end < len(items) && items[end].kind == items[begin].kind {
			end++
		}
		s.commitKind(items[begin:end])
		begin = end
	}
	for i, c := range items {
		errs[i] = c.err
	}
	return errs
}

// commitKind tries again on the next link if this one dies, because subscribing again
// does no harm. But if the broker ended the link because of these changes, it would
// end the next one too.
func (s *subscriber) commitKind(changes []*change) {
	for again := true; again; {
		link, err := s.uplink.Await(context.Background())
		if err == nil {
			s.want(changes)
			if err = s.exchange(link, changes); err == nil {
				return
			}
		}
		r, refused := errors.AsType[*refusal](err)
		if refused = refused && r.isOurFault(); refused {
			s.unwant(changes)
		}
		again = !refused && changes[0].kind != packets.PINGREQ && s.ctx.Err() == nil
		for _, c := range changes {
			c.err = err
		}
	}
}

// unwant forgets topics for which the broker has ended the link.
func (s *subscriber) unwant(changes []*change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		for _, name := range c.names {
			delete(s.wanted, name)
		}
	}
}

// want notes what the next link is to be subscribed to.
func (s *subscriber) want(changes []*change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		for i, name := range c.names {
			if c.kind == packets.SUBSCRIBE {
				s.wanted[name] = c.topics[i]
			} else {
				delete(s.wanted, name)
			}
		}
	}
}

// exchange carries out changes of one kind, and sets the error of each. Its own error
// says that the link died. Topics that the broker refuses are no longer wanted, or no
// new link would ever come up.
func (s *subscriber) exchange(link *link, changes []*change) error {
	kind := changes[0].kind
	if kind == packets.PINGREQ {
		_, err := link.do(ping, []answer{{kind: packets.PINGRESP}})
		return err
	}
	topics, names := changes[0].topics, changes[0].names
	if len(changes) > 1 {
		topics, names = slices.Clone(topics), slices.Clone(names)
		for _, c := range changes[1:] {
			topics = append(topics, c.topics...)
			names = append(names, c.names...)
		}
	}
	codes, err := s.tell(link, kind, topics, names)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		c.err = nil
		for i, code := range codes[:len(c.names)] {
			if code >= 0x80 {
				c.err = refusedChange(kind, c.topics[i], code)
				delete(s.wanted, c.names[i])
			}
		}
		codes = codes[len(c.names):]
	}
	return nil
}

// run keeps the link up until Close.
func (s *subscriber) run() {
	var pause backoff.Backoff
	for {
		link := s.uplink.Link()
		<-link.dead
		link.close(nil)
		since := s.uplink.Down(link.reason())
		if s.ctx.Err() != nil {
			return
		}
		s.inbox.Down(herald.Event{Kind: herald.EventDown, Since: since, Err: link.reason()})
		if !pause.Reconnect(s.ctx, time.Since(link.born), s.connect) {
			return
		}
	}
}

// connect opens a link, subscribes it to all that is wanted, proves it, and
// ends the gap.
func (s *subscriber) connect() error {
	var old *inbound
	if last := s.uplink.Link(); last != nil {
		old = last.in
	}
	link, err := s.dialer.dial(s.ctx, newInbound(s, old))
	if err == nil {
		if err = s.resubscribe(link); err == nil && s.proof != nil {
			err = s.proof(link)
		}
		if err != nil {
			link.close(err)
		}
	}
	if err != nil {
		s.uplink.Fail(err)
		return err
	}
	s.uplink.Up(link, func() {
		s.inbox.Restore()
		link.in.live.Store(true)
	})
	return nil
}

// resubscribe makes link the present one. The commits are waiting.
func (s *subscriber) resubscribe(link *link) error {
	s.uplink.Set(link)
	s.mu.Lock()
	names := append(make([]string, 0, len(s.wanted)+1), s.probe)
	topics := append(make([]string, 0, len(s.wanted)+1), "")
	for name, topic := range s.wanted {
		names = append(names, name)
		topics = append(topics, topic)
	}
	s.mu.Unlock()
	if s.ctx.Err() != nil { // Close may have seen no link to drop
		return herald.ErrClosed
	}
	codes, err := s.tell(link, packets.SUBSCRIBE, topics, names)
	for i, code := range codes {
		if err == nil && code >= 0x80 {
			err = refusedChange(packets.SUBSCRIBE, topics[i], code)
		}
	}
	return err
}

// drop makes the link dead, if there is one.
func (s *subscriber) drop(why error) {
	if link := s.uplink.Link(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link. run must have ended.
func (s *subscriber) close() {
	s.batch.Close(herald.ErrClosed)
	if link := s.uplink.Link(); link != nil {
		link.close(herald.ErrClosed)
	}
}
