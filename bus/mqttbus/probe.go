package mqttbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// errDeaf is why links that look well are dropped: the subscription is dead, or the
// links lead to two brokers that are not connected.
var errDeaf = errors.New("mqttbus: the broker took a message, and did not hand it over to this node's subscription")

// probe proves at every tick that both links are well: that the broker
// answers, and that what one link publishes the other receives. What
// was published before a probe was sent has then arrived before it. It also
// keeps both links alive (MQTT 5.0, section 3.1.2.10).
func (b *Bus) probe(ctx context.Context, tick, timeout time.Duration) {
	timer := time.NewTimer(b.pace(tick))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		link := b.sub.uplink.Link()
		err := b.ping(ctx, timeout)
		start, looped := b.loop(ctx, link, tick, timeout)
		// Not errors.Is: a link that is still down because of errDeaf has been
		// dropped already.
		if looped == errDeaf {
			link.fail(errDeaf)
			b.pub.drop(errDeaf)
		} else if looped == nil {
			b.sub.uplink.Prove(link, start)
		}
		b.mu.Lock()
		b.unproved = cmp.Or(err, looped)
		b.mu.Unlock()
		timer.Reset(b.pace(tick))
	}
}

// ping asks the broker for a sign of life on the subscribed link.
func (b *Bus) ping(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return b.sub.ping(ctx)
}

// pace is tick, or less if the broker wants to hear of us more often.
func (b *Bus) pace(tick time.Duration) time.Duration {
	for _, l := range []limits{b.sub.uplink.Link().limits, b.pub.lastLimits()} {
		if l.keepAlive > 0 {
			tick = min(tick, l.keepAlive/2)
		}
	}
	return tick
}

// loop publishes probes until link, the subscribed one, hears one or dies. It returns
// when the probe that was heard was sent. Several may be needed, because a broker
// that drops packets for want of room drops probes too.
func (b *Bus) loop(ctx context.Context, link *link, tick, timeout time.Duration) (time.Time, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errDeaf)
	defer cancel()
	first := b.sub.clock()
	for sent := 0; ; sent++ {
		p := newPublication()
		p.addProbe(b.pub.qos, b.sub.probe, b.sub.clock())
		if err := b.pub.publish(ctx, p); err != nil {
			if sent > 0 && ctx.Err() != nil {
				return time.Time{}, context.Cause(ctx)
			}
			return time.Time{}, fmt.Errorf("probe: %w", err)
		}
		again := time.After(tick)
		for waiting := true; waiting; {
			start, changed := b.sub.echo.Last()
			if int64(start) >= first {
				return b.sub.wall(int64(start)), nil
			}
			select {
			case <-changed:
			case <-again:
				waiting = false
			case <-link.dead:
				return time.Time{}, fmt.Errorf("probe: %w", link.reason())
			case <-ctx.Done():
				return time.Time{}, context.Cause(ctx)
			}
		}
	}
}

// proveNew proves the link that is to end a gap. The broker's word is not
// enough: mosquitto confirms a subscription to what may not be read.
func (b *Bus) proveNew(ctx context.Context, link *link, timeout time.Duration) error {
	return b.sub.uplink.ProveNew(link, link.dead, errDeaf, func() error {
		b.pub.hurry()
		_, err := b.loop(ctx, link, time.Second, timeout)
		if err == errDeaf {
			b.pub.drop(errDeaf)
		}
		return err
	})
}
