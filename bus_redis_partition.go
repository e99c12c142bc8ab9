package herald

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A redisPartition carries the topics of one way, by a link that publishes
// and a link that is subscribed.
type redisPartition struct {
	way *redisWay
	pub *redisPublisher
	sub *redisSubscriber

	nonce atomic.Uint64 // of the last probe

	mu       sync.Mutex
	unproved error // why the last probe failed
}

// open connects both links and tries what the Bus needs. running gets what
// has to end before close.
func (p *redisPartition) open(ctx context.Context, running *sync.WaitGroup, timeout time.Duration, proving bool) error {
	if err := p.sub.connect(); err != nil {
		return err
	}
	link := p.sub.uplink.Link()
	if proving {
		p.sub.proof = func(link *redisLink) error { return p.proveNew(link, timeout) }
	}
	running.Go(p.sub.run)
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	if err := p.sub.change(ctx, commandUnsubscribe, []string{rand.Text()}); err != nil {
		return err
	}
	return p.loop(ctx, link, timeout, p.sub.prove)
}

// publish publishes packets, in parts where they are many.
func (p *redisPartition) publish(ctx context.Context, packets []Packet) error {
	command := p.way.command("PUBLISH")
	for sent := 0; sent < len(packets); {
		what := newPublication()
		for sent < len(packets) && what.packets < maxPublishItems && (what.packets == 0 || len(what.bytes) < maxPublishBytes) {
			what.add(command, p.way.prefix, packets[sent])
			sent++
		}
		first := sent == what.packets
		if err := p.pub.publish(ctx, what); err != nil {
			if !first {
				err = inPart(err)
			}
			return err
		}
	}
	return nil
}

// inPart is err where other packets of the call have been taken.
func inPart(err error) error {
	if errors.Is(err, ErrUnknown) {
		return err
	}
	return fmt.Errorf("%w: part of the packets: %w", ErrUnknown, err)
}

func (p *redisPartition) drop(why error) {
	p.sub.drop(why)
	p.pub.drop(why)
}

func (p *redisPartition) close() {
	p.pub.close()
	p.sub.close()
}

func (p *redisPartition) health() error {
	p.mu.Lock()
	err := p.unproved
	p.mu.Unlock()
	return cmp.Or(p.sub.uplink.Health(), p.pub.health(), p.pub.dialer.master.Health(p.sub.uplink.Link().server), err)
}

// errDeaf is why links are dropped that look well: a dead subscription, or
// links to two servers after a failover.
var errDeaf = errors.New("herald: Redis took a message, and did not hand it over to this node's subscription")

// prove proves at every tick that both links are well: that each leads to a
// master, that Redis counts the subscriptions that there should be, and that
// what one link publishes the other receives. What was published before
// the questions were asked has then arrived before the answers.
func (p *redisPartition) prove(ctx context.Context, tick, timeout time.Duration) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		link := p.sub.uplink.Link()
		alive := link.reason() == nil && p.sub.uplink.Health() == nil
		err := p.sub.prove(ctx)
		if alive && errors.Is(err, errIsolated) { // the other link leads there too
			p.pub.drop(errIsolated)
		}
		through := link
		if err != nil {
			through = nil // it need not be subscribed to anything yet
		}
		looped := p.loop(ctx, through, timeout, p.sub.prove)
		// Not errors.Is: that a link is down because of errDeaf, and not up
		// again, is no news.
		if looped == errDeaf {
			link.fail(errDeaf)
			p.pub.drop(errDeaf)
		} else if err == nil {
			// That publishing failed is no fault of the subscription.
			p.sub.proveSince(link, start)
		}
		p.mu.Lock()
		p.unproved = cmp.Or(err, looped)
		p.mu.Unlock()
	}
}

// proveNew proves a link that is to end a gap.
func (p *redisPartition) proveNew(link *redisLink, timeout time.Duration) error {
	ask := func(context.Context) error { // the commits wait until the link is up
		q := new(redisQuery)
		p.way.addProof(q)
		return link.do(q).err
	}
	return p.sub.uplink.ProveNew(link, link.dead, errDeaf, func() error {
		// What the publisher's link has taken may be lost with that: once more
		// each second.
		for began := time.Now(); ; {
			err := p.loop(p.sub.ctx, link, min(timeout, time.Second), ask)
			if err != errDeaf {
				return err
			}
			if time.Since(began) >= timeout {
				p.pub.drop(errDeaf)
				return err
			}
		}
	})
}

// loop publishes a number on the probe channel and waits until link, the
// subscribed one, hears it or dies; if link is nil it only publishes. The
// error is errDeaf itself if neither happens. ask asks link something.
func (p *redisPartition) loop(ctx context.Context, link *redisLink, timeout time.Duration, ask func(context.Context) error) error {
	nonce := p.nonce.Add(1)
	what := newPublication()
	what.ask(p.way)
	what.add(p.way.command("PUBLISH"), "", Packet{p.way.probe, binary.BigEndian.AppendUint64(nil, nonce)})
	if err := p.pub.publish(ctx, what); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if link == nil {
		return nil
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		last, changed := p.sub.echo.Last()
		if last >= nonce {
			return nil
		}
		select {
		case <-changed:
		case <-link.dead:
			return fmt.Errorf("probe: %w", link.reason())
		case <-timer.C:
			// It may have much to read: the answer to what is asked now comes
			// behind the number.
			if err := ask(ctx); err != nil {
				return fmt.Errorf("probe: %w", err)
			}
			if last, _ = p.sub.echo.Last(); last < nonce {
				return errDeaf
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// redisProofs says, for each partition, since when packets may be lost if its
// subscription turns out to be dead.
type redisProofs struct {
	cluster bool

	mu    sync.Mutex
	parts []redisProof
}

// A redisProof is when the last proof began, and the one before that. The
// last is not enough on a Cluster: a master that another one has just replaced
// may not know it yet, and proves well.
type redisProof struct {
	last, before time.Time
	down         bool
}

func newRedisProofs(n int, cluster bool) *redisProofs {
	p := &redisProofs{cluster: cluster, parts: make([]redisProof, n)}
	for i := range p.parts {
		p.parts[i].down = true
	}
	return p
}

// up notes that partition i has a new link.
func (p *redisProofs) up(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.parts[i] = redisProof{last: now, before: now}
}

// proved notes a proof that began at the time start.
func (p *redisProofs) proved(i int, start time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if part := &p.parts[i]; start.After(part.last) {
		part.last, part.before = start, part.last
	}
}

// down notes that partition i has lost its link, and returns since when
// packets may have been lost.
func (p *redisProofs) down(i int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts[i].down = true
	return p.since(i)
}

// since is called with mu held.
func (p *redisProofs) since(i int) time.Time {
	if p.cluster {
		return p.parts[i].before
	}
	return p.parts[i].last
}

// oldest returns since when packets may be lost if any link turns out to be
// dead. Those that are down have told of it.
func (p *redisProofs) oldest() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := time.Now()
	for i, part := range p.parts {
		if since := p.since(i); !part.down && since.Before(oldest) {
			oldest = since
		}
	}
	return oldest
}
