package herald

import (
	"context"
	"log/slog"
)

// real says whether the node is more than a record in the Registry, which
// somebody else may have put there: it was heard, or has sessions there, or has
// been listed if there are no heartbeats. Until then its silence means nothing.
func (p *peer) real() bool { return p.heard != 0 || p.answered || p.holds }

// unheard returns the leases of nodes that are listed and have never been heard.
func (b *heartbeat) unheard() map[string]Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	unheard := make(map[string]Lease)
	for node, p := range b.peers {
		if p.alive && p.heard == 0 && !p.answered && node != b.node {
			unheard[node] = Lease{node, p.generation}
		}
	}
	return unheard
}

// answered notes that a node has answered a call.
func (b *heartbeat) answered(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[node]; p != nil {
		p.answered = true
	}
}

// holds notes whether the Registry has entries of a node.
func (b *heartbeat) holds(node string, holds bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[node]; p != nil {
		p.holds = holds || b.mute()
	}
}

// mute says whether no node sends heartbeats, so that every listed node counts.
func (b *heartbeat) mute() bool { return b.config.ProbeInterval == off }

// holds says whether the Registry has entries under the lease.
func (p *presence) holds(ctx context.Context, lease Lease) (bool, error) {
	entries, next, err := p.reg.Entries(ctx, lease, "")
	return len(entries) > 0 || next != "", err
}

// unheardStep is how many nodes are looked for at a time, in any order.
const unheardStep = 64

// lookForUnheard looks whether nodes that were never heard have sessions: only of
// such is it a fault of the Bus that they are not heard. It tells once while
// there are any that are not new.
func (k *housekeeping) lookForUnheard(ctx context.Context) {
	p := k.p
	before := k.unheard
	k.unheard = make(map[string]bool)
	n, old := 0, ""
	for node, lease := range p.heartbeat.unheard() {
		k.unheard[node] = true
		if before[node] {
			old = node
		}
		if n++; n > unheardStep {
			continue
		}
		if holds, err := p.holds(ctx, lease); err == nil {
			p.heartbeat.holds(node, holds)
		}
	}
	if old != "" && !k.haunted && p.config.ProbeInterval != off {
		p.config.Logger.Warn("herald: the Registry lists nodes that were never heard: somebody else has put them there, or the Bus does not reach them", slog.String("node", old), slog.Int("nodes", n))
	}
	k.haunted = old != ""
}
