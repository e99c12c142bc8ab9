package rabbitbus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/uplink"
)

// maxQueued is how much RabbitMQ keeps for a node that does not read, for instance
// because its process was stopped. Above that it drops the oldest messages, which the
// node notices by their numbers.
const maxQueued = 256 << 20

// A subscriber owns the link that consumes. run connects it.
type subscriber struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	inbox  *inbox.Inbox[herald.Event]
	own    uint64        // id of the Bus' publisher
	echo   uplink.Echo   // messages of it, by their number
	life   atomic.Uint64 // messages heard
	uplink *uplink.Uplink[*link]
	settle time.Duration     // how long all nodes may take to see that the exchange is gone
	proof  func(*link) error // proves a link that is to end a gap; nil until New has opened the first

	mu     sync.Mutex
	topics map[string]string // what is subscribed, by itself: so a packet's topic costs no memory
}

func newSubscriber(ctx context.Context, dialer *dialer, in *inbox.Inbox[herald.Event], own uint64) *subscriber {
	return &subscriber{
		ctx: ctx, dialer: dialer, inbox: in, own: own,
		uplink: uplink.New(ctx, (*link).reason, herald.ErrBusDown, herald.ErrClosed),
		topics: make(map[string]string),
	}
}

// subscribe lets packets of topics through and waits until packets come.
func (s *subscriber) subscribe(ctx context.Context, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	if err := s.refuse(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	for _, topic := range topics {
		s.topics[topic] = topic
	}
	s.mu.Unlock()
	_, err := s.uplink.Await(ctx)
	if err != nil && err == ctx.Err() {
		if down := s.uplink.Health(); down != nil {
			return fmt.Errorf("%w: %w: %w", herald.ErrBusDown, err, down)
		}
	}
	return err
}

// unsubscribe no longer lets packets of topics through.
func (s *subscriber) unsubscribe(ctx context.Context, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	if err := s.refuse(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range topics {
		delete(s.topics, topic)
	}
	return nil
}

// refuse returns why a call must not begin, or nil.
func (s *subscriber) refuse(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return herald.ErrClosed
	}
	return ctx.Err()
}

// run keeps the link up until Close.
func (s *subscriber) run() {
	var pause backoff.Backoff
	for born := time.Now(); ; born = time.Now() {
		link := s.uplink.Link()
		<-link.dead
		link.close(nil)
		since := s.uplink.Down(link.reason())
		if s.ctx.Err() != nil {
			return
		}
		s.inbox.Down(herald.Event{Kind: herald.EventDown, Since: since, Err: link.reason()})
		if link.reason() == errGone {
			// If this node declared the exchange again at once, the others would find
			// it, and notice later that it is bound to this node's queue alone.
			select {
			case <-time.After(s.settle):
			case <-s.ctx.Done():
				return
			}
		}
		if !pause.Reconnect(s.ctx, time.Since(born), s.connect) {
			return
		}
	}
}

// connect opens a link that consumes from a new queue, proves it, and ends the
// gap.
func (s *subscriber) connect() error {
	link, err := s.dialer.dial(s.ctx, "herald subscriber", s.setup)
	if err == nil {
		s.uplink.Set(link)
		if s.ctx.Err() != nil { // Close may have seen no link to drop
			err = herald.ErrClosed
		} else if s.proof != nil {
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
	s.uplink.Up(link, s.inbox.Restore)
	return nil
}

// setup lets the link consume. From the answer to Consume on, what is
// published arrives.
func (s *subscriber) setup(l *link) error {
	exchange := s.dialer.exchange
	if err := l.channel.ExchangeDeclare(exchange, amqp091.ExchangeFanout, true, false, false, false, nil); err != nil {
		return err
	}
	queue, err := l.channel.QueueDeclare("", false, true, true, false, amqp091.Table{
		amqp091.QueueTypeArg:        amqp091.QueueTypeClassic,
		amqp091.QueueMaxLenBytesArg: maxQueued,
		amqp091.QueueOverflowArg:    amqp091.QueueOverflowDropHead,
	})
	if err != nil {
		return err
	}
	if err := l.channel.QueueBind(queue.Name, "", exchange, false, nil); err != nil {
		return err
	}
	deliveries, err := l.channel.Consume(queue.Name, "herald", true, true, false, false, nil)
	if err != nil {
		return err
	}
	in := &inbound{sub: s, heard: make(map[uint64]mark), turned: time.Now()}
	l.running.Go(func() {
		// The client queues without bound what is not read from deliveries.
		for d := range deliveries {
			in.message(d.Body)
		}
	})
	return nil
}

// drop makes the link dead, if there is one.
func (s *subscriber) drop(why error) {
	if link := s.uplink.Link(); link != nil {
		link.fail(why)
	}
}

// leave says goodbye to RabbitMQ, if there is a link.
func (s *subscriber) leave() {
	if link := s.uplink.Link(); link != nil {
		link.leave(func() {})
	}
}

// close ends the link. run must have ended.
func (s *subscriber) close() {
	if link := s.uplink.Link(); link != nil {
		link.close(herald.ErrClosed)
	}
}
