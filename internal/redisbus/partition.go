package redisbus

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

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A partition carries the topics of one way, by a link that publishes
// and a link that is subscribed.
type partition struct {
	way *way
	pub *publisher
	sub *subscriber

	nonce atomic.Uint64 // of the last probe

	mu       sync.Mutex
	unproved error // why the last probe failed
}

// open connects both links and tries what the Bus needs. Goroutines that must end
// before close are added to running.
func (p *partition) open(ctx context.Context, running *sync.WaitGroup, timeout time.Duration, proving bool) error {
	if err := p.sub.connect(); err != nil {
		return err
	}
	first := p.sub.uplink.Link()
	if proving {
		p.sub.proof = func(l *link) error { return p.proveNew(l, timeout) }
	}
	running.Go(p.sub.run)
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	if err := p.sub.change(ctx, commandUnsubscribe, []string{rand.Text()}); err != nil {
		return err
	}
	return p.loop(ctx, first, timeout)
}

// publishTo publishes packets in one partition, in several publications if they are
// many.
func publishTo[P packet](ctx context.Context, p *partition, packets []P) error {
	command := p.way.command("PUBLISH")
	for sent := 0; sent < len(packets); {
		what := newPublication()
		for sent < len(packets) && what.packets < maxPublishItems && (what.packets == 0 || len(what.bytes) < maxPublishBytes) {
			what.add(command, p.way.prefix, Packet(packets[sent]))
			sent++
		}
		first := sent == what.packets
		if err := p.pub.publish(ctx, what); err != nil {
			if !first {
				err = errs.InPart(err)
			}
			return err
		}
	}
	return nil
}

func (p *partition) drop(why error) {
	p.sub.drop(why)
	p.pub.drop(why)
}

func (p *partition) close() {
	p.pub.close()
	p.sub.close()
}

func (p *partition) health() error {
	p.mu.Lock()
	err := p.unproved
	p.mu.Unlock()
	return cmp.Or(p.sub.uplink.Health(), p.pub.health(), p.pub.dialer.master.Health(p.sub.uplink.Link().trunk.server), err)
}

// errDeaf is why links are dropped although they look well: the subscription is
// dead, or they lead to two servers after a failover.
var errDeaf = errors.New("herald: Redis took a message, and did not hand it over to this node's subscription")

// prove proves at every tick that both links are well: each leads to a master,
// Redis counts as many subscriptions as there should be, and one link receives
// what the other publishes. All that was published before the questions has
// then arrived before the answers.
func (p *partition) prove(ctx context.Context, tick, timeout time.Duration) {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		link := p.sub.uplink.Link()
		found := link.trunk.proof.share(ctx, p.pairOf(link), tick/2, func() finding { return p.proveLinks(ctx, link, timeout) })
		if !found.since.IsZero() && link.reason() == nil { // the proof may be another partition's, made after this link died
			p.sub.proveSince(link, found.since)
		}
		p.mu.Lock()
		p.unproved = found.err
		p.mu.Unlock()
	}
}

// pairOf returns the trunk that publishes, if it leads to the same server as the
// subscribed link and trunks are shared: what proves one partition there proves all.
// Otherwise it returns nil.
func (p *partition) pairOf(l *link) *trunk {
	pub, _ := p.pub.state()
	if !l.trunk.shared || p.sub.uplink.Health() != nil || pub == nil || pub.reason() != nil || pub.trunk.server != l.trunk.server {
		return nil
	}
	return pub.trunk
}

// proveLinks proves both links. The subscribed one is l.
func (p *partition) proveLinks(ctx context.Context, l *link, timeout time.Duration) finding {
	start := time.Now()
	err := p.sub.uplink.Health()
	if err == nil {
		if err = p.ask(l); errors.Is(err, errIsolated) { // the other link leads there too
			p.pub.drop(errIsolated)
		}
	}
	through := l
	if err != nil {
		through = nil // the link may not be subscribed to the probe's channel yet
	}
	looped := p.loop(ctx, through, timeout)
	found := finding{err: cmp.Or(err, looped)}
	// Not errors.Is: an error that wraps errDeaf is that of a link which is still
	// down.
	if looped == errDeaf {
		l.fail(errDeaf)
		p.pub.drop(errDeaf)
	} else if err == nil {
		// The subscription is not at fault if publishing failed.
		found.since = start
	}
	return found
}

// ask asks the subscribed link everything that shows whether it is well. What has
// been published before arrives before the answer.
func (p *partition) ask(l *link) error {
	q := new(query)
	p.way.addProof(q)
	if err := l.do(q).err; err != nil {
		return err
	}
	for _, c := range q.commands {
		if said, ok := c.err.(redisconn.Error); ok {
			return refusal(said)
		}
	}
	return nil
}

// proveNew proves a new link, before it ends a gap.
func (p *partition) proveNew(l *link, timeout time.Duration) error {
	return p.sub.uplink.ProveNew(l, l.dead, errDeaf, func() error {
		// A number that the publisher's link has taken may be lost with that link, so
		// another one is published each second.
		for began := time.Now(); ; {
			err := p.loop(p.sub.ctx, l, min(timeout, time.Second))
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
// error is errDeaf itself if neither happens.
func (p *partition) loop(ctx context.Context, l *link, timeout time.Duration) error {
	nonce := p.nonce.Add(1)
	what := newPublication()
	what.probe = true
	if pub, _ := p.pub.state(); !p.way.sharded || pub == nil || l == nil || pub.trunk.server != l.trunk.server {
		what.ask(p.way) // otherwise the subscribed link asks the same server
	}
	what.add(p.way.command("PUBLISH"), "", Packet{p.way.probe, binary.BigEndian.AppendUint64(nil, nonce)})
	if err := p.pub.publish(ctx, what); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if l == nil {
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
		case <-l.dead:
			return fmt.Errorf("probe: %w", l.reason())
		case <-timer.C:
			// The link may have much to read. The answer to a question asked now
			// comes behind the number.
			if err := p.ask(l); err != nil {
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

// proofs says, for each partition, since when packets may be lost if its
// subscription turns out to be dead.
type proofs struct {
	cluster bool

	mu    sync.Mutex
	parts []proof
}

// A proof is when the last proof began, and the one before that. On a Cluster the
// last one is not enough: a master that has been replaced and does not know it yet
// answers well.
type proof struct {
	last, before time.Time
	down         bool
}

func newProofs(n int, cluster bool) *proofs {
	p := &proofs{cluster: cluster, parts: make([]proof, n)}
	for i := range p.parts {
		p.parts[i].down = true
	}
	return p
}

// up notes that partition i has a new link.
func (p *proofs) up(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.parts[i] = proof{last: now, before: now}
}

// proved notes a proof that began at the time start.
func (p *proofs) proved(i int, start time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if part := &p.parts[i]; start.After(part.last) {
		part.last, part.before = start, part.last
	}
}

// down notes that partition i has lost its link, and returns since when
// packets may have been lost.
func (p *proofs) down(i int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts[i].down = true
	return p.since(i)
}

// since is called with mu held.
func (p *proofs) since(i int) time.Time {
	if p.cluster {
		return p.parts[i].before
	}
	return p.parts[i].last
}

// oldest returns since when packets may be lost if any living link turns out to be
// dead. For the others gaps have begun already.
func (p *proofs) oldest() time.Time {
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
