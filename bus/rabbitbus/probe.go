package rabbitbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rabbitmq/amqp091-go"
)

// errDeaf is why links that look well are dropped: the queue is no longer bound to
// the exchange, or the exchange is another one.
var errDeaf = errors.New("rabbitbus: RabbitMQ took a message, and did not hand it over to this node's queue")

// probe proves at every tick that what one link publishes the other
// receives. All messages go through one queue, so what was confirmed before
// has then arrived.
func (b *Bus) probe(ctx context.Context, tick, timeout time.Duration) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	var look lookout
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		link := b.sub.uplink.Link()
		err := look.missing(link, b.sub.dialer.exchange)
		if err == nil {
			err = b.loop(ctx, link, timeout, func() { b.doubt(errLate) })
		}
		switch {
		case err == nil:
			b.sub.uplink.Prove(link, start)
		// Not errors.Is: a link that is still down because of errDeaf has been
		// dropped already.
		case err == errDeaf || err == errGone:
			link.fail(err)
			b.pub.drop(err)
		}
		b.doubt(err)
	}
}

// doubt notes why the Bus is not known to be well, or that it is.
func (b *Bus) doubt(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unproved = why
}

// errGone is why links whose exchange is gone are dropped. RabbitMQ goes on
// confirming what is published, and throws it away.
var errGone = errors.New("rabbitbus: the exchange has been deleted")

// A lookout asks whether the exchange is there, by a channel of its own on the link
// that consumes: RabbitMQ says no by closing the channel, and does not always read
// from links that publish.
type lookout struct {
	link    *link
	channel *amqp091.Channel
}

// missing returns errGone if the exchange is not there, or why that could
// not be found out.
func (l *lookout) missing(link *link, exchange string) error {
	defer link.guard("ask for the exchange")()
	if l.link != link {
		channel, err := link.conn.Channel()
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		l.link, l.channel = link, channel
	}
	err := l.channel.ExchangeDeclarePassive(exchange, amqp091.ExchangeFanout, true, false, false, false, nil)
	if err == nil {
		return nil
	}
	l.link = nil
	if refused, ok := errors.AsType[*amqp091.Error](err); ok && refused.Server && refused.Code == amqp091.NotFound {
		return errGone
	}
	return fmt.Errorf("probe: %w", err)
}

// errLate is why Health is red before a link is dropped as deaf.
var errLate = errors.New("rabbitbus: RabbitMQ has confirmed a message, and has not handed it over so far")

// backlog is how many timeouts a probe may take while other messages come, because
// the queue of a node may be long.
const backlog = 6

// loop publishes an empty message, or shares one with others, and waits until link,
// the one that consumes, hears it or dies. The error is errDeaf itself if neither
// happens. late is called if that seems likely.
func (b *Bus) loop(ctx context.Context, link *link, timeout time.Duration, late func()) error {
	p := &publication{bytes: make([]byte, headerSize)}
	if err := b.pub.publish(ctx, p); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	life := b.sub.life.Load()
	timer, soon := time.NewTimer(timeout), time.NewTimer(timeout/5)
	defer timer.Stop()
	defer soon.Stop()
	for waited := 1; ; {
		last, changed := b.sub.echo.Last()
		if last >= p.seq {
			return nil
		}
		select {
		case <-changed:
		case <-link.dead:
			return fmt.Errorf("probe: %w", link.reason())
		case <-soon.C:
			if b.sub.life.Load() == life { // nor has anything else come
				late()
			}
		case <-timer.C:
			now := b.sub.life.Load()
			if now == life || waited == backlog {
				return errDeaf
			}
			life = now
			waited++
			timer.Reset(timeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// proveNew proves the link that is to end a gap. The broker's word is not
// enough: its queue may be bound to nothing any more.
func (b *Bus) proveNew(ctx context.Context, link *link, timeout time.Duration) error {
	return b.sub.uplink.ProveNew(link, link.dead, errDeaf, func() error {
		b.pub.hurry()
		err := b.loop(ctx, link, timeout, func() {})
		if err == errDeaf {
			b.pub.drop(errDeaf)
		}
		return err
	})
}
