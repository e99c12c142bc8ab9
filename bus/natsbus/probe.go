package natsbus

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/heraldgo/herald"
)

// errDeaf is why links that look well are dropped: two servers do not hear each
// other, or the server has forgotten a subscription.
var errDeaf = errors.New("natsbus: NATS took a message, and did not hand it over to this node's subscription")

// proveLinks proves at every tick that the server answers on the subscribed
// link, and that what one link publishes the other receives.
func (b *Bus) proveLinks(ctx context.Context, tick, timeout time.Duration) {
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
		err := b.sub.prove(ctx)
		looped := b.loop(ctx, link, timeout)
		// Not errors.Is: a link that is still down because of errDeaf has been
		// dropped already.
		if looped == errDeaf {
			link.fail(errDeaf)
			b.pub.drop(errDeaf)
		} else if err == nil {
			// The subscription is not at fault if publishing failed.
			b.sub.uplink.Prove(link, start)
		}
		b.mu.Lock()
		b.unproved = cmp.Or(err, looped)
		b.mu.Unlock()
	}
}

// loop publishes a number on the Bus' own subject and waits until link, the
// subscribed one, hears it or dies. The error is errDeaf itself if neither
// happens.
func (b *Bus) loop(ctx context.Context, link *link, timeout time.Duration) error {
	nonce := b.nonce.Add(1)
	p := newPublication()
	p.addProbe(b.sub.probe, binary.BigEndian.AppendUint64(nil, nonce))
	if err := b.pub.publish(ctx, p); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		last, changed := b.sub.echo.Last()
		if last >= nonce {
			return nil
		}
		select {
		case <-changed:
		case <-link.dead:
			return fmt.Errorf("probe: %w", link.reason())
		case <-timer.C:
			return errDeaf
		case <-ctx.Done():
			return herald.ErrClosed
		}
	}
}

// proveNew proves the link that is to end a gap. The broker's word is not
// enough: a server may not hear the one that the other link leads to.
func (b *Bus) proveNew(ctx context.Context, link *link, timeout time.Duration) error {
	return b.sub.uplink.ProveNew(link, link.dead, errDeaf, func() error {
		b.pub.hurry()
		err := b.loop(ctx, link, timeout)
		if err == errDeaf {
			b.pub.drop(errDeaf)
		}
		return err
	})
}
