package herald

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// A peer is what this node knows of a node, itself included, from heartbeats and from the
// Registry's listings. Times are on clock.
type peer struct {
	first  int64  // when its first heartbeat came; 0 if none has
	heard  int64  // when its last one came
	number uint64 // of the last heartbeat
	whole  int64  // the generation under which all its entries are, as its last heartbeat said
	left   bool   // it has said goodbye
	keeps  bool   // what it sends goes through the log

	answered bool // it has answered a call
	holds    bool // the Registry has entries of it, as housekeeping found

	born       int64     // a time when it was not known yet; 0 is when this Hub was made
	alive      bool      // the last listing says so
	generation int64     // its lease's
	replaced   int64     // when a listing first had that in place of another one; 0 if none has
	version    int       // the newest envelope that it understands
	renewed    time.Time // when that was last renewed, by the Registry's clock
	renewedAt  int64     // the earliest time at which that can have been
	ttl        time.Duration
	due        int64 // until then it may still renew its lease, because this node could not renew its own either

	echo    bool  // the gap of a restored Bus stays open until it is heard
	suspect int64 // since when it seems to live without being heard; 0 if it does not
	silent  bool  // it lives and is not heard
	reset   bool  // the Bus has been reset because of it
}

// Anybody may make up heartbeats and records in the Registry. All nodes that the Registry
// lists become peers, and at most maxStrangers others, few enough for what waits until
// all peers have been heard. At most maxPeers former peers are remembered.
const (
	maxStrangers = 256
	maxPeers     = 4_096
)

// peer returns the peer of a node, and makes it if there is none.
func (b *heartbeat) peer(node string) *peer {
	if p := b.peers[node]; p != nil {
		return p
	}
	p := b.gone[node]
	if p == nil {
		p = &peer{born: b.from, holds: b.mute()}
		if b.forgot {
			p.born = 0 // it may be one of the forgotten
		}
	}
	delete(b.gone, node)
	b.peers[node] = p
	return p
}

// hear notes a node's heartbeat, and reports whether it counts. A number that was left
// out is a loss: if the heartbeat did not come to this node, messages may not have come
// either.
func (b *heartbeat) hear(e *envelope) bool {
	now := clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.peers[e.sender] == nil && len(b.peers) > b.listing+maxStrangers {
		b.stats.strangers.Add(1)
		return false
	}
	p := b.peer(e.sender)
	if e.id < p.number {
		return false // its publishing seemed to fail, and it came late
	}
	since := p.born
	// If the node may be older than our link to the Bus, we need not have heard its first
	// heartbeats, however late this one is handed over.
	lost := e.id > 1 && !b.fresh(now) && (b.forgot || p.born > b.restored)
	if p.heard != 0 {
		// Messages that the node sent after its last heartbeat may be older than the
		// moment at which we heard that.
		since = p.heard - int64(b.interval())
		lost = e.id > p.number+1
	}
	if lost {
		b.gaps.missed(b.wall(since), p.echo, fmt.Errorf("%w: heartbeats %d to %d of node %s did not come", ErrBusDown, p.number+1, e.id-1, e.sender))
	}
	silent, echo := p.silent, p.echo
	p.first = cmp.Or(p.first, now)
	p.heard, p.number, p.whole, p.left = now, e.id, e.whole, e.notice&noticeLeaving != 0
	p.keeps = e.notice&noticeKeeps != 0
	p.suspect, p.silent, p.echo, p.reset = 0, false, false, false
	if e.sender == b.node {
		b.hearOwn(e)
	}
	if echo && !b.any(func(p *peer) bool { return p.echo }) {
		b.gaps.release(byEcho)
	}
	if silent || lost {
		if b.settle(); b.split == 0 {
			b.split = now
		}
	}
	return true
}

func (b *heartbeat) hearOwn(e *envelope) {
	if b.sent != 0 {
		b.took = clock.Now() - b.sent
		b.stats.busRoundTrips.Observe(time.Duration(b.took))
		b.unmeasured.Store(b.took)
		b.proved, b.sent = b.sent, 0
	}
	if e.notice&noticeLeaving != 0 {
		select {
		case <-b.left:
		default:
			close(b.left)
		}
	}
}

func (b *heartbeat) any(is func(*peer) bool) bool { return b.one(is) != "" }

// settle counts the living nodes that are not heard. If there are many, this node counts
// as isolated. If there are none, their gap ends.
func (b *heartbeat) settle() {
	alive, silent, own := 0, 0, false
	for node, p := range b.peers {
		switch {
		case node == b.node:
			own = p.silent
		case p.alive && p.real():
			alive++
			if p.silent {
				silent++
			}
		}
	}
	switch {
	case own:
		b.isolated = fmt.Errorf("%w: own heartbeat did not come back", ErrBusDown)
	case silent*2 > alive: // the fault is likely ours
		b.isolated = fmt.Errorf("%w: %d of %d other nodes are not heard", ErrBusDown, silent, alive)
	default:
		b.isolated = nil
	}
	if !own && silent == 0 {
		b.gaps.release(bySilence)
	}
}

// fresh reports whether the Bus was begun or restored so recently that some nodes need
// not have been heard yet.
func (b *heartbeat) fresh(now int64) bool {
	often := max(b.interval(), time.Duration(min(len(b.peers), maxPeers))*heartbeatPace)
	return now-b.restored <= 2*int64(often+heartbeatGrace)
}

// restart begins anew after the Bus was restored. A gap of all topics stays open until
// every node that was heard before is heard again, or the Bus is no longer fresh: a
// broker of several servers may confirm our subscriptions a little before it brings what
// others publish.
func (b *heartbeat) restart(all bool) {
	if b.config.ProbeInterval == off {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock.Now()
	b.sent, b.restored = 0, now
	awaited := false
	for _, p := range b.peers {
		p.suspect = 0
		p.echo = p.heard != 0 && !p.silent && !p.left
		awaited = awaited || p.echo
	}
	if all && awaited {
		b.gaps.linger()
	}
	b.wake.Set()
}

// checkGap stops waiting for echoes once the Bus is no longer fresh. It also reports the
// part that is over of a gap that silence keeps open.
func (b *heartbeat) checkGap() {
	now := clock.Now()
	if !b.fresh(now) && b.any(func(p *peer) bool { return p.echo }) {
		for _, p := range b.peers {
			p.echo = false
		}
		b.gaps.release(byEcho)
	}
	if b.split != 0 && now-b.split > 2*int64(b.interval()+heartbeatGrace) {
		b.split = 0
		b.gaps.part()
	}
}

// checkPeers returns true if a living node has not been heard for too long, and the Bus
// has not been reset for it yet.
func (b *heartbeat) checkPeers() (deaf bool) {
	now := clock.Now()
	if b.gaps.deaf() {
		return false
	}
	for node, p := range b.peers {
		if p.suspect == 0 || now-p.suspect <= int64(heartbeatGrace) {
			continue
		}
		p.suspect, p.silent = 0, true
		since := p.born
		if p.heard != 0 {
			since = p.heard - int64(b.interval())
		}
		b.gaps.hold(bySilence, b.wall(since), fmt.Errorf("%w: node %s lives and is not heard", ErrBusDown, node))
		deaf = deaf || !p.reset
		p.reset = true
		b.settle()
	}
	return deaf
}

// listed takes the Registry's answer to a question that was asked at the time from. now
// is the Registry's own time. How long ago a lease was renewed is believed only as far as
// this node's clock allows.
func (b *heartbeat) listed(nodes []Node, now time.Time, from int64) {
	config := b.config
	b.mu.Lock()
	defer b.mu.Unlock()
	if from < b.from {
		return // another answer is newer
	}
	for _, p := range b.peers {
		p.alive = false
	}
	often := b.interval()
	b.live, b.listing = 0, 0
	for _, n := range nodes {
		if n.Alive {
			b.listing++
			if n.ID == b.node || b.peer(n.ID).real() {
				b.live++
			}
		}
	}
	// Others may send less often than we do: they may not know yet that nodes have gone,
	// or may know of more nodes.
	often = max(often, b.interval(), time.Duration(min(b.listing, maxPeers))*heartbeatPace)
	for _, n := range nodes {
		if !n.Alive {
			continue
		}
		p := b.peer(n.ID)
		p.alive, p.ttl, p.version = true, n.TTL, n.Version
		if n.Generation != p.generation || n.Renewed.After(p.renewed) {
			most := from - cmp.Or(b.from, from-int64(config.Lease))
			p.renewedAt = from - max(0, min(int64(now.Sub(n.Renewed)), most))
			if p.generation != 0 && n.Generation != p.generation {
				p.replaced = clock.Now()
			}
			p.generation, p.renewed = n.Generation, n.Renewed
		}
		unheard := p.renewedAt - max(p.heard, p.born, b.restored)
		if n.ID != b.node && p.real() && config.ProbeInterval != off && !p.silent && p.suspect == 0 &&
			unheard > int64(config.ProbeTimeout+often) && !b.gaps.deaf() {
			p.suspect = clock.Now()
		}
	}
	b.nodes, b.from, b.to = nodes, from, clock.Now()
	b.forget()
}

// forget moves nodes that are neither listed nor heard from peers to gone. If one of them
// is heard again, the number of its heartbeat tells that something was lost meanwhile.
func (b *heartbeat) forget() {
	for node, p := range b.peers {
		if p.alive || node == b.node {
			continue
		}
		p.suspect, p.silent, p.reset = 0, false, false
		if !b.lives(p, b.to) {
			p.echo = false
			delete(b.peers, node)
			b.gone[node] = p
		}
	}
	if !b.any(func(p *peer) bool { return p.echo }) {
		b.gaps.release(byEcho)
	}
	b.settle()
	if len(b.gone) > maxPeers {
		b.forgot = true
		oldest := slices.SortedFunc(maps.Keys(b.gone), func(x, y string) int { return cmp.Compare(b.gone[x].heard, b.gone[y].heard) })
		for _, node := range oldest[:len(oldest)/2] {
			delete(b.gone, node)
		}
	}
}

// lives reports whether the node was heard, or has renewed its lease, so recently that it
// must still be there, whatever the Registry lists. A node that is killed stops living
// here when its lease runs out, just as the Registry stops listing it.
func (b *heartbeat) lives(p *peer, now int64) bool {
	return !p.left && (b.heardLately(p, now) || p.held(now) || now < p.due)
}

// held reports whether the node is real, and its lease cannot have run out by now.
func (p *peer) held(now int64) bool {
	return p.real() && p.renewedAt != 0 && now-p.renewedAt < int64(p.ttl)
}

// fades reports whether the lease of a real node is about to run out, as far as the last
// listing says. Once it has, the Registry's answers lack the node's sessions.
func (p *peer) fades(now int64) bool {
	return p.real() && now-p.renewedAt >= int64(p.ttl-p.ttl/6)
}

// lapsed notes that this node has renewed its lease for the first time since last. The
// fault that kept it from renewing may have kept others, too. So those that held their
// leases at last have time until the time until to come back.
func (b *heartbeat) lapsed(last, until int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, known := range []map[string]*peer{b.peers, b.gone} {
		for node, p := range known {
			if node != b.node && !p.left && p.held(last) {
				p.due = until
				delete(b.gone, node)
				b.peers[node] = p
			}
		}
	}
}

func (b *heartbeat) heardLately(p *peer, now int64) bool {
	lease := int64(min(cmp.Or(p.ttl, b.config.Lease), b.config.Lease))
	return p.heard != 0 && now-p.heard < lease/2
}

// listedSince reports whether the last listing was asked for after the time at, and no
// lease in it is about to run out.
func (b *heartbeat) listedSince(at int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock.Now()
	return b.from > at && !b.any(func(p *peer) bool { return p.alive && p.fades(now) })
}

// lastListing returns the last listing, or why the Registry's answers may lack sessions.
// They may if a living node is not listed, or has not yet put back what the Registry had
// lost. Callers must not change the listing.
func (b *heartbeat) lastListing() ([]Node, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes, b.missing(clock.Now())
}

// missing returns an error that names what the Registry lacks of a living node, or nil.
func (b *heartbeat) missing(now int64) error {
	for node, p := range b.peers {
		switch {
		case node == b.node || !b.lives(p, now):
		case !p.alive && p.generation == 0 && p.first > b.from: // it has only just come
		case !p.alive:
			return fmt.Errorf("%w: node %s lives, and is not listed", ErrRegistryDown, node)
		case now < p.due && p.fades(now):
			return fmt.Errorf("%w: node %s has not renewed its lease yet", ErrRegistryDown, node)
		case p.heard != 0 && p.whole != p.generation && (b.heardLately(p, now) || now < p.due),
			b.mute() && p.replaced != 0 && now-p.replaced < int64(time.Second): // no heartbeat tells when that is done
			return fmt.Errorf("%w: node %s is putting its sessions back", ErrRegistryDown, node)
		}
	}
	return nil
}

// living returns the nodes to ask: this one, and all that are listed, or live although
// they are not listed, and have not said goodbye.
func (b *heartbeat) living() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	living := map[string]bool{b.node: true}
	now := clock.Now()
	for node, p := range b.peers {
		if !p.left && (p.alive || b.lives(p, now)) {
			living[node] = true
		}
	}
	return living
}
