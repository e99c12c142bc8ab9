package rabbitbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
)

// errDeaf is why links are dropped that look well: the queue is no longer
// bound to the exchange, or the exchange is another one.
var errDeaf = errors.New("rabbitbus: RabbitMQ took a message, and did not hand it over to this node's queue")

// probe proves at every tick that what one link publishes the other
// receives. All messages go through one queue, so what was confirmed before
// has then arrived.
func (b *Bus) probe(ctx context.Context, tick, timeout time.Duration) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		link := b.sub.uplink.Link()
		err := b.loop(ctx, link, timeout)
		switch {
		case err == nil:
			b.sub.uplink.Prove(link, start)
		// Not errors.Is: that a link is down because of errDeaf, and not up
		// again, is no news.
		case err == errDeaf:
			link.fail(errDeaf)
			b.pub.drop(errDeaf)
		}
		b.mu.Lock()
		b.unproved = err
		b.mu.Unlock()
	}
}

// backlog is how many times as long as an answer a probe may take while other
// messages come: the queue of a node may be long.
const backlog = 6

// loop publishes an empty message, or shares one with others, and waits until
// link, the one that consumes, hears it or dies. The error is errDeaf itself
// where neither happens.
func (b *Bus) loop(ctx context.Context, link *link, timeout time.Duration) error {
	p := &publication{bytes: make([]byte, headerSize)}
	if err := b.pub.publish(ctx, p); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	life := b.sub.life.Load()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for waited := 1; ; {
		last, changed := b.sub.echo.Last()
		if last >= p.seq {
			return nil
		}
		select {
		case <-changed:
		case <-link.dead:
			return fmt.Errorf("probe: %w", link.reason())
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
// While nothing can be published the link is kept, for that is no fault of
// its, but does not count.
func (b *Bus) proveNew(ctx context.Context, link *link, timeout time.Duration) error {
	var pause backoff.Backoff
	for {
		b.pub.hurry()
		err := b.loop(ctx, link, timeout)
		if err == errDeaf {
			b.pub.drop(errDeaf)
		}
		if err == nil || err == errDeaf {
			return err
		}
		b.sub.uplink.Fail(err)
		select {
		case <-time.After(pause.Fail()):
		case <-link.dead:
			return link.reason()
		case <-ctx.Done():
			return herald.ErrClosed
		}
	}
}
