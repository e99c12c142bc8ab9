package natsbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/uplink"
)

// maxTopics is how many subscriptions are changed in one exchange.
const maxTopics = 16_000

type changeKind uint8

const (
	subscribe changeKind = iota + 1
	unsubscribe
	proof
)

// A change is one call that changes the subscriptions, or proves them.
type change struct {
	kind   changeKind
	topics []string
	err    error
}

// A subscription is one that is wanted.
type subscription struct {
	sid       int
	confirmed bool // by a server, once
}

// A subscriber owns the link that is subscribed. run connects it; commits
// use it while it is up.
type subscriber struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	inbox  *inbox.Inbox[herald.Event]
	prefix string // begins each subject
	probe  string // the subject that the Bus proves itself with
	batch  *batch.Batcher[*change]
	uplink *uplink.Uplink[*link] // up once it is subscribed to all that is wanted
	echo   uplink.Echo           // probes, by their nonce
	proof  func(*link) error     // proves a link that is to end a gap; nil until New has opened the first

	mu     sync.Mutex              // the present link is set with it held
	wanted map[string]subscription // by topic; the ids are those of that link
}

func newSubscriber(ctx context.Context, dialer *dialer, in *inbox.Inbox[herald.Event], prefix, probe string) *subscriber {
	s := &subscriber{
		ctx: ctx, dialer: dialer, inbox: in, prefix: prefix, probe: probe,
		uplink: uplink.New(ctx, (*link).reason, herald.ErrBusDown, herald.ErrClosed),
		wanted: make(map[string]subscription),
	}
	s.batch = batch.New(batch.Config[*change]{
		Ready:    func() error { _, err := s.uplink.Await(context.Background()); return err },
		Commit:   s.commit,
		Size:     func(c *change) int { return len(c.topics) },
		MaxItems: maxTopics,
		MaxBytes: maxTopics, // topics
	})
	return s
}

// change subscribes or unsubscribes, and waits for the confirmations.
func (s *subscriber) change(ctx context.Context, kind changeKind, topics []string) error {
	for _, topic := range topics {
		if err := checkTopic(s.prefix, topic); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(slices.Clone(topics), maxTopics) {
		err := s.batch.Do(ctx, &change{kind: kind, topics: chunk})
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			if down := s.uplink.Health(); down != nil && !errors.Is(err, herald.ErrClosed) {
				return fmt.Errorf("%w: %w: %w", herald.ErrBusDown, err, down)
			}
		}
		return err
	}
	return nil
}

// prove has the server answer on the subscribed link. By then all that it had taken
// before it was asked is in the inbox.
func (s *subscriber) prove(ctx context.Context) error {
	if err := s.uplink.Health(); err != nil {
		return err
	}
	return s.batch.Do(ctx, &change{kind: proof})
}

// commit carries out changes, on the next link if this one dies: subscribing again
// does no harm.
func (s *subscriber) commit(items []*change) []error {
	for todo := slices.Clone(items); len(todo) > 0; {
		link, err := s.uplink.Await(context.Background())
		if err == nil {
			if err = s.exchange(link, todo); err == nil {
				break
			}
		}
		todo = slices.DeleteFunc(todo, func(c *change) bool {
			c.err = err
			return c.kind == proof || s.ctx.Err() != nil
		})
	}
	errs := make([]error, len(items))
	for i, c := range items {
		errs[i] = c.err
	}
	return errs
}

// exchange carries out changes on link. The error is of a link that died.
func (s *subscriber) exchange(link *link, changes []*change) error {
	e, ok := s.encode(link, changes)
	if !ok {
		return herald.ErrBusDown // a new link is coming up, or is up
	}
	out := link.do(append(e.commands, ping...))
	if out.err != nil {
		return out.err
	}
	for _, sid := range e.ended {
		link.in.release(sid)
	}
	if err := link.spread(e.added); err != nil {
		return err
	}
	commands, err := s.settle(link, changes, out.refused)
	if err != nil {
		link.fail(err)
		return err
	}
	if len(commands) == 0 {
		return nil
	}
	return link.do(append(commands, ping...)).err
}

// An encoded is what goes out on a link for a number of changes.
type encoded struct {
	commands []byte
	added    int   // subscriptions
	ended    []int // ids that are free when the server has confirmed
}

// encode notes what is wanted, and returns what link does not have yet. It is
// not ok if link is no longer the present one.
func (s *subscriber) encode(link *link, changes []*change) (e encoded, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uplink.Link() != link {
		return e, false
	}
	for _, c := range changes {
		for _, topic := range c.topics {
			sub, has := s.wanted[topic]
			switch {
			case c.kind == subscribe && !has:
				sub.sid = link.in.take(topic)
				s.wanted[topic] = sub
				e.commands = appendSub(e.commands, s.prefix, topic, sub.sid)
				e.added++
			case c.kind == unsubscribe && has:
				link.in.drop(sub.sid)
				delete(s.wanted, topic)
				e.commands = appendUnsub(e.commands, sub.sid)
				e.ended = append(e.ended, sub.sid)
			}
		}
	}
	return e, true
}

// settle marks the topics of the changes as confirmed, except those that the server
// has refused. These are no longer wanted, or no new link would ever come up. If the
// server does not say which topics it refuses (there are too many), all new ones
// count as refused; the commands end the subscriptions that it has taken. The error
// is a refusal that concerns nothing new: something that was subscribed is so no
// longer.
func (s *subscriber) settle(link *link, changes []*change, refused []refusal) (commands []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uplink.Link() != link {
		return nil, herald.ErrBusDown
	}
	met := make([]bool, len(refused))
	var lost []string
	for _, c := range changes {
		c.err = nil
		for _, topic := range c.topics {
			sub, has := s.wanted[topic]
			if c.kind != subscribe || !has || sub.confirmed {
				continue
			}
			if i := s.refusal(topic, refused); i >= 0 {
				met[i] = true
				lost = append(lost, topic)
				c.err = fmt.Errorf("refused: %w", refused[i])
			} else {
				sub.confirmed = true
				s.wanted[topic] = sub
			}
		}
	}
	for _, topic := range lost {
		if sub, has := s.wanted[topic]; has {
			commands = appendUnsub(commands, sub.sid)
			link.in.drop(sub.sid)
			link.in.release(sub.sid)
			delete(s.wanted, topic)
		}
	}
	if i := slices.Index(met, false); i >= 0 && refused[i].denied() != "" {
		return nil, refused[i]
	}
	return commands, nil
}

// refusal returns the index of the refusal that concerns a new subscription to the
// topic, or -1.
func (s *subscriber) refusal(topic string, refused []refusal) int {
	if len(refused) == 0 {
		return -1
	}
	subject := string(appendSubject(nil, s.prefix, topic))
	return slices.IndexFunc(refused, func(r refusal) bool {
		denied := r.denied()
		return denied == subject || denied == ""
	})
}

// resubscribe makes link the present one and subscribes it to the Bus' own
// subject and to all that is wanted. The commits are waiting.
func (s *subscriber) resubscribe(link *link) error {
	s.mu.Lock()
	s.uplink.Set(link)
	topics := make([]string, 0, len(s.wanted))
	for topic, sub := range s.wanted {
		sub.sid = link.in.take(topic)
		s.wanted[topic] = sub
		topics = append(topics, topic)
	}
	s.mu.Unlock()
	if s.ctx.Err() != nil { // Close may have seen no link to drop
		return herald.ErrClosed
	}
	commands := fmt.Appendf(nil, "SUB %s %d\r\n", s.probe, probeSID)
	// The ids are in the order of the topics.
	for i := 0; i < len(topics) || commands != nil; {
		for end := min(i+maxTopics, len(topics)); i < end; i++ {
			commands = appendSub(commands, s.prefix, topics[i], probeSID+1+i)
		}
		out := link.do(append(commands, ping...))
		if out.err != nil {
			return out.err
		}
		if err := s.forget(link, out.refused); err != nil {
			return err
		}
		commands = nil
	}
	return link.spread(1 + len(topics))
}

// forget drops wanted topics that a new link is denied, if no link has ever been
// subscribed to them: their Subscribe is still under way, and will be told. The error
// is any other refusal.
func (s *subscriber) forget(link *link, refused []refusal) error {
	if len(refused) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	subjects := make(map[string]string, len(s.wanted))
	for topic, sub := range s.wanted {
		if !sub.confirmed {
			subjects[string(appendSubject(nil, s.prefix, topic))] = topic
		}
	}
	for _, r := range refused {
		topic, ok := subjects[r.denied()]
		if !ok {
			return fmt.Errorf("refused: %w", r)
		}
		link.in.drop(s.wanted[topic].sid)
		delete(s.wanted, topic)
	}
	return nil
}
