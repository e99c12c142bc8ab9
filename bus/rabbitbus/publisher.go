package rabbitbus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
)

// Bounds of what is published and not yet confirmed.
const (
	maxBatchItems = 1024
	maxBatchBytes = 1 << 20

	// maxMessage is how much of a batch goes into one message of RabbitMQ,
	// unless one publication is larger. RabbitMQ's work is by message.
	maxMessage = 64 << 10

	// maxReturns is what there is room for of messages sent back. It is more
	// than the messages of two batches, for one may have been given up.
	maxReturns = 8 * maxBatchBytes / maxMessage
)

// A publisher owns the link that publishes. Commits connect it anew if it
// is dead; no other goroutine does.
type publisher struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	batch  *batch.Batcher[*publication]
	id     uint64 // this publisher's, in each of its messages

	// The committing goroutine's.

	seq      uint64 // the last message sent
	taken    uint64 // the last message that RabbitMQ has confirmed
	sent     []sent
	joined   []byte // publications that share a message
	returns  <-chan amqp091.Return
	returned map[uint64]struct{} // messages that RabbitMQ sent back
	backoff  backoff.Backoff
	born     time.Time // when the link was made
	retry    time.Time // not before it is dialed again

	hurried atomic.Bool // it is dialed again at once

	mu   sync.Mutex
	link *link
	down error // why there is no link
}

// A sent is a message under way.
type sent struct {
	items   []*publication
	seq     uint64
	confirm *amqp091.DeferredConfirmation // nil if it could not be written
}

func newPublisher(ctx context.Context, dialer *dialer) *publisher {
	p := &publisher{ctx: ctx, dialer: dialer, id: rand.Uint64(), returned: make(map[uint64]struct{})}
	p.batch = batch.New(batch.Config[*publication]{
		Ready:    p.ready,
		Commit:   p.commit,
		Size:     func(p *publication) int { return len(p.bytes) },
		MaxItems: maxBatchItems,
		MaxBytes: maxBatchBytes,
	})
	return p
}

// publish waits until what is published. If batch.ErrTaken is in the chain
// of its error, what is still in use.
func (p *publisher) publish(ctx context.Context, what *publication) error {
	return errs.OfPublish(ctx, p.batch.Do(ctx, what), p.health)
}

// ready makes sure that there is a link that may be written to. It dials
// once; after a failure it does not dial again before the backoff is over.
func (p *publisher) ready() error {
	link, down := p.state()
	if link != nil {
		if down = link.reason(); down == nil {
			if blocked := link.stuck(); blocked != nil {
				return fmt.Errorf("%w: %w", herald.ErrBusDown, blocked)
			}
			return nil
		}
		link.close(nil)
		p.retry = time.Now().Add(p.backoff.Lost(time.Since(p.born)))
		p.set(nil, down)
	}
	if p.ctx.Err() != nil {
		return herald.ErrClosed
	}
	if !p.hurried.Swap(false) && time.Now().Before(p.retry) {
		return fmt.Errorf("%w: %w", herald.ErrBusDown, down)
	}
	link, err := p.dialer.dial(p.ctx, "herald publisher", p.setup)
	if err != nil {
		p.retry = time.Now().Add(p.backoff.Fail())
		p.set(nil, err)
		return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
	}
	p.born = time.Now()
	p.set(link, nil)
	if p.ctx.Err() != nil { // Close may have seen no link to drop
		return herald.ErrClosed
	}
	return nil
}

func (p *publisher) setup(l *link) error {
	p.returns = l.channel.NotifyReturn(make(chan amqp091.Return, maxReturns))
	if err := l.channel.Confirm(false); err != nil {
		return err
	}
	// If the subscriber has not made it anew yet, nothing would get anywhere.
	exchange := p.dialer.exchange
	if err := l.channel.ExchangeDeclarePassive(exchange, amqp091.ExchangeFanout, true, false, false, false, nil); err != nil {
		return err
	}
	return l.declareOrder(exchange)
}

// commit publishes all items, and again only those that RabbitMQ has sent back.
func (p *publisher) commit(items []*publication) []error {
	link, _ := p.state()
	errs := make([]error, len(items))
	var pause backoff.Backoff
	for deadline := time.Now().Add(p.dialer.timeout); ; {
		p.send(link, items)
		again := p.settle(link, errs)
		clear(p.sent)
		if !again {
			return errs
		}
		if err := p.reclaim(link, pause.Fail()/5, deadline); err != nil {
			for i := range errs {
				errs[i] = fmt.Errorf("%w: %w", herald.ErrBusDown, err)
			}
			return errs
		}
	}
}

// errReturned is why messages are sent back.
var errReturned = errors.New("rabbitbus: no node keeps the queue that puts messages in order")

// reclaim makes sure that there is a queue that keeps the order, after the node that
// kept it has gone. An error says that there is no use in trying again.
func (p *publisher) reclaim(link *link, pause time.Duration, deadline time.Time) error {
	if err := link.claim(p.dialer.exchange); err != nil {
		link.fail(fmt.Errorf("rabbitbus: declare the queue that keeps the order: %w", err))
	}
	if !link.owner.Load() { // another node is about to bind it, or to let go of it
		select {
		case <-time.After(pause):
		case <-link.dead:
		case <-p.ctx.Done():
			return herald.ErrClosed
		}
	}
	if time.Now().After(deadline) {
		return errReturned
	}
	return link.reason()
}

// send writes items to the link, several in a message.
func (p *publisher) send(link *link, items []*publication) {
	defer link.guard("write messages")()
	p.sent = p.sent[:0]
	for prev := p.taken; len(items) > 0; prev = p.seq {
		n, size := 1, len(items[0].bytes)
		for n < len(items) && size+len(items[n].bytes) <= maxMessage {
			size += len(items[n].bytes)
			n++
		}
		body := p.join(items[:n])
		p.seq++
		header{id: p.id, prev: prev, seq: p.seq}.put(body)
		confirm, err := link.channel.PublishWithDeferredConfirm(p.dialer.exchange+orderSuffix, "", true, false, amqp091.Publishing{Body: body})
		if err != nil {
			// At least the end of the message was not written, so RabbitMQ has not
			// taken it.
			link.fail(fmt.Errorf("rabbitbus: write: %w", err))
			p.sent = append(p.sent, sent{items: items})
			break
		}
		p.sent = append(p.sent, sent{items: items[:n], seq: p.seq, confirm: confirm})
		items = items[n:]
	}
	if cap(p.joined) > 2*maxMessage {
		p.joined = nil
	}
}

// join returns the body of a message that carries items, but for its header.
func (p *publisher) join(items []*publication) []byte {
	if len(items) == 1 {
		return items[0].bytes
	}
	p.joined = append(p.joined[:0], items[0].bytes...)
	for _, item := range items[1:] {
		p.joined = append(p.joined, item.bytes[headerSize:]...)
	}
	return p.joined
}

// settle waits for the confirms of all that was sent and notes its errors.
// It reports whether all was sent back and may be sent again.
func (p *publisher) settle(link *link, errs []error) (again bool) {
	clear(p.returned)
	timer := time.NewTimer(p.dialer.timeout)
	defer timer.Stop()
	again = true
	i := 0
	for _, s := range p.sent {
		timer.Reset(p.dialer.timeout)
		err := p.await(link, s, timer)
		again = again && err == errReturned
		if err == errReturned {
			err = fmt.Errorf("%w: %w", herald.ErrBusDown, err)
		}
		for _, item := range s.items {
			if err == nil {
				item.seq = s.seq
			}
			errs[i] = err
			i++
		}
	}
	return again
}

// await waits for the confirm of a message.
func (p *publisher) await(link *link, s sent, timer *time.Timer) error {
	if s.confirm == nil {
		return fmt.Errorf("%w: %w", herald.ErrBusDown, link.reason())
	}
	for waiting := true; waiting; {
		select {
		case <-s.confirm.Done():
			waiting = false
		case <-link.dead:
			link.running.Wait() // the client has closed all confirms
			waiting = false
		case <-timer.C:
			if blocked := link.stuck(); blocked != nil && link.reason() == nil {
				return fmt.Errorf("%w: %w", herald.ErrUnknown, blocked)
			}
			link.fail(fmt.Errorf("rabbitbus: RabbitMQ has confirmed nothing for %v", p.dialer.timeout))
		}
	}
	if p.wasReturned(s.seq) {
		return errReturned
	}
	if s.confirm.Acked() {
		p.taken = s.seq
		return nil
	}
	if link.channel.IsClosed() {
		<-link.dead
		return fmt.Errorf("%w: %w", herald.ErrUnknown, link.reason())
	}
	return fmt.Errorf("%w: RabbitMQ says that it could not handle the message", herald.ErrUnknown)
}

// wasReturned reports whether RabbitMQ sent message seq back, which it does
// before it confirms it: nobody has taken it.
func (p *publisher) wasReturned(seq uint64) bool {
	for {
		select {
		case r, ok := <-p.returns:
			if ok {
				if h, _, err := parseHeader(r.Body); err == nil {
					p.returned[h.seq] = struct{}{}
				}
				continue
			}
		default:
		}
		_, returned := p.returned[seq]
		return returned
	}
}

func (p *publisher) state() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.down
}

func (p *publisher) set(link *link, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.down = link, down
}

// health returns why nothing can be published, or nil.
func (p *publisher) health() error {
	link, down := p.state()
	if link != nil {
		return link.stuck()
	}
	return down
}

// hurry has the next publish dial at once if there is no link, because the broker has
// just given a sign of life.
func (p *publisher) hurry() { p.hurried.Store(true) }

// drop makes the link dead, if there is one.
func (p *publisher) drop(why error) {
	if link, _ := p.state(); link != nil {
		link.fail(why)
	}
}

// leave says goodbye to RabbitMQ, if there is a link.
func (p *publisher) leave() {
	if link, _ := p.state(); link != nil {
		link.leave(func() { link.handOver(p.dialer.exchange) })
	}
}

// close ends the committing goroutine, then the link.
func (p *publisher) close() {
	p.batch.Close(herald.ErrClosed)
	if link, _ := p.state(); link != nil {
		link.close(herald.ErrClosed)
	}
}
