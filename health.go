package herald

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// held returns nil while this node may believe that the Registry holds its lease: the
// lease was renewed less than a Lease ago by the node's own clock, and nothing has said
// since that it is lost. While the node cannot renew its lease, it trusts it for only
// half a Lease. What keeps it from renewing may keep the others too, and their leases may
// end up to a third of a Lease before its own. Those nodes are not gone.
func (p *presence) held() error {
	age := time.Duration(clock.Now() - p.renewed.Load())
	switch {
	case age >= p.config.Lease:
		p.renewSoon()
		return fmt.Errorf("%w: this node's lease has run out, %v after it was renewed", ErrRegistryDown, age.Round(time.Millisecond))
	case p.lost.Load() == p.generation.Load():
		return fmt.Errorf("%w: it has lost this node's lease", ErrRegistryDown)
	case age >= p.config.Lease/2:
		if err := p.failing(); err != nil {
			return fmt.Errorf("%w: this node has not renewed its lease for %v: %w", ErrRegistryDown, age.Round(time.Millisecond), err)
		}
	}
	return nil
}

// heldWhole returns nil if held does, and all entries of this node are under its lease.
func (p *presence) heldWhole() error {
	if err := p.held(); err != nil {
		return err
	}
	if !p.isWhole() {
		return fmt.Errorf("%w: this node is putting its sessions back", ErrRegistryDown)
	}
	return nil
}

// isWhole reports whether all entries of this node are under its lease.
func (p *presence) isWhole() bool { return p.heartbeat.announced() == p.generation.Load() }

// heldLong reports whether this node holds its lease, and has held it for a whole Lease.
func (p *presence) heldLong() bool {
	now, lease := clock.Now(), int64(p.config.Lease)
	return now-p.heldSince.Load() >= lease && now-p.renewed.Load() < lease
}

// lose notes that the Registry does not have the lease of that generation.
func (p *presence) lose(generation int64) {
	p.lost.Store(generation)
	p.renewSoon()
}

// renewSoon has the lease renewed at once, but not within a second of the last renewal.
func (p *presence) renewSoon() {
	p.hasty.Store(true)
	p.wake.Set()
}

// hasten makes due the renewal that renewSoon has asked for. A renewal that failed is
// tried again soon anyhow.
func (p *presence) hasten() {
	if p.hasty.Swap(false) && p.failing() == nil {
		due := time.Now().Add(time.Second - time.Duration(clock.Now()-p.renewed.Load()))
		if due.Before(p.renewDue) {
			p.renewDue = due
		}
	}
}

// announce tells the other nodes that all entries of this node are under its lease, as
// soon as the writes that have been asked for are done. If one of them fails, or the
// lease is replaced, it tells nothing.
func (p *presence) announce() {
	generation, failures := p.generation.Load(), p.failures.Load()
	p.background(func() {
		if p.barrier(context.Background()) == nil && p.failures.Load() == failures && p.generation.Load() == generation {
			p.heartbeat.announce(generation)
		}
	})
}

// listNodes asks the Registry which nodes there are, if the Registry can be believed.
func (p *presence) listNodes(ctx context.Context) ([]Node, time.Time, error) {
	if err := p.held(); err != nil {
		return nil, time.Time{}, once(fmt.Errorf("list nodes: %w", err))
	}
	nodes, now, err := p.askNodes(ctx)
	return nodes, now, once(err)
}

// versions returns the newest envelope that each living node understands. First it asks
// the Registry for nodes that have just come. If there is no answer within a second, it
// returns what was known before.
func (p *presence) versions(ctx context.Context) map[string]int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	p.listNodes(ctx)
	return p.heartbeat.versions()
}

// askNodes asks the Registry which nodes there are, and looks for this one
// among them. The answer is never older than the call.
func (p *presence) askNodes(ctx context.Context) ([]Node, time.Time, error) {
	generation, from := p.generation.Load(), clock.Now()
	nodes, now, err := p.reg.Nodes(ctx)
	if err != nil {
		return nil, now, fmt.Errorf("list nodes: %w", err)
	}
	p.heartbeat.listed(nodes, now, from)
	if !slices.ContainsFunc(nodes, func(n Node) bool { return n.ID == p.node && n.Generation == generation && n.Alive }) {
		p.lose(generation)
		return nil, now, fmt.Errorf("list nodes: %w: it does not list this one: %w", ErrRegistryDown, ErrLeaseLost)
	}
	return nodes, now, nil
}

// listTrust is how long a list of nodes in which none was missing is believed. If the
// Registry has lost this node's lease, its answers to other questions say so.
const listTrust = time.Second

// complete returns nil if the Registry has all sessions: it holds this node's lease, with
// all its entries, and lists every node that lives.
func (p *presence) complete(ctx context.Context) error {
	if err := p.heldWhole(); err != nil {
		return err
	}
	if p.heartbeat.listedSince(max(clock.Now()-int64(listTrust), p.heldSince.Load())) {
		if _, err := p.heartbeat.lastListing(); err == nil {
			return nil
		}
	}
	if _, _, err := p.askNodes(ctx); err != nil {
		return err
	}
	_, err := p.lastListing()
	return err
}

// lastListing returns the heartbeat's last listing, which may be newer than the one that
// this goroutine asked for. If sessions may be missing, it makes the others check their
// leases.
func (p *presence) lastListing() ([]Node, error) {
	nodes, err := p.heartbeat.lastListing()
	if err != nil {
		p.heartbeat.tellLost()
	}
	return nodes, err
}

// holds reports whether the Registry has entries under the lease.
func (p *presence) holds(ctx context.Context, lease Lease) (bool, error) {
	entries, next, err := p.reg.Entries(ctx, lease, "")
	return len(entries) > 0 || next != "", err
}

// An ailment is a fault of the Registry that does not keep it from renewing the lease: a
// half-migrated slot, or a denied command. It is over when a Lease has passed without a
// failure.
type ailment struct {
	mu          sync.Mutex
	first, last int64 // on clock: its first and last failure; 0 if there was none
	err         error
	told        bool
}

// ail notes a failure, and logs it once if failures have gone on for a Lease.
func (p *presence) ail(err error) {
	if err == nil || p.health() != nil { // note has logged that
		return
	}
	lease := int64(p.config.Lease)
	a := &p.ailment
	a.mu.Lock()
	now := clock.Now()
	if now-a.last >= lease {
		a.first, a.told = now, false
	}
	a.last, a.err = now, err
	tell := now-a.first >= lease && !a.told
	a.told = a.told || tell
	a.mu.Unlock()
	if tell {
		p.config.Logger.Warn("herald: the Registry renews the lease, and fails otherwise", slog.Any("err", err))
	}
}

// ailing returns the last failure if the ailment has lasted for a Lease and is not over.
func (p *presence) ailing() error {
	a := &p.ailment
	a.mu.Lock()
	defer a.mu.Unlock()
	lease := int64(p.config.Lease)
	if a.last == 0 || clock.Now()-a.last >= lease || a.last-a.first < lease {
		return nil
	}
	return a.err
}

// blame wraps err in sentinel, unless err is nil or wraps it already.
func blame(sentinel, err error) error {
	if err == nil || errors.Is(err, sentinel) {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// busError returns why this node cannot publish or follow what it needs,
// or nil. It does not say whether messages may be getting lost.
func (h *Hub) busError() error {
	return blame(ErrBusDown, cmp.Or(h.follower.Failing(), h.heartbeat.failing(), h.bus.Health(), h.keeping.health()))
}

// watchBus logs once when the Bus does not work, and once when it works again, until ctx
// is done. It does not log a fault that is over within ProbeTimeout, nor one that gaps
// has logged because messages may be getting lost.
func (h *Hub) watchBus(ctx context.Context) {
	timer := time.NewTicker(max(h.config.ProbeTimeout/4, time.Millisecond))
	defer timer.Stop()
	var since time.Time // when the fault to be logged began; zero if there is none
	told := false
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := h.busError()
		switch {
		case err == nil:
			if told {
				h.config.Logger.Info("herald: the Bus works again")
			}
			since, told = time.Time{}, false
		case told:
		case h.gaps.failing() != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= h.config.ProbeTimeout:
			h.config.Logger.Warn("herald: the Bus does not work", "err", err)
			told = true
		}
	}
}
