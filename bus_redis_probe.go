package herald

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// errDeaf is why links are dropped that look well: a dead subscription, or
// links to two servers after a failover.
var errDeaf = errors.New("herald: Redis took a message, and did not hand it over to this node's subscription")

// probe proves at every tick that both links are well: that each leads to a
// master, that Redis counts the subscriptions that there should be, and that
// what one link publishes the other receives. What was published before
// the questions were asked has then arrived before the answers.
func (b *RedisBus) probe(ctx context.Context, tick, timeout time.Duration) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		link := b.sub.current()
		err := b.sub.prove(ctx)
		looped := b.loop(ctx, link, timeout)
		if errors.Is(looped, errDeaf) {
			link.fail(errDeaf)
			b.pub.drop(errDeaf)
		} else if err == nil {
			// That publishing failed is no fault of the subscription.
			b.sub.proveSince(link, start)
		}
		b.mu.Lock()
		b.unproved = cmp.Or(err, looped)
		b.mu.Unlock()
	}
}

// loop publishes a number on the probe channel and waits until link, the
// subscribed one, hears it or dies.
func (b *RedisBus) loop(ctx context.Context, link *redisLink, timeout time.Duration) error {
	select {
	case <-b.sub.nonces:
	default:
	}
	b.nonce++
	p := newPublication()
	p.bytes = appendHello(p.bytes)
	p.hello, p.commands = true, 1
	p.add("", Packet{b.sub.probe, binary.BigEndian.AppendUint64(nil, b.nonce)})
	if err := b.pub.publish(ctx, p); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		select {
		case n := <-b.sub.nonces:
			if n == b.nonce {
				return nil
			}
		case <-link.dead:
			return link.reason()
		case <-timer.C:
			return errDeaf
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
