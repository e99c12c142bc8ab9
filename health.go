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

// held returns nil while the Registry can be believed to hold this node's
// lease: it was renewed less than a Lease ago by this node's own clock, and
// nothing has said since that it is lost. If it cannot be renewed half a Lease
// counts: the others, who may have renewed theirs a third before this node, may
// be unable to as well, and whose lease has run out for that has not gone.
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

// heldWhole is held, and whether all entries of this node are under its lease.
func (p *presence) heldWhole() error {
	if err := p.held(); err != nil {
		return err
	}
	if !p.isWhole() {
		return fmt.Errorf("%w: this node is putting its sessions back", ErrRegistryDown)
	}
	return nil
}

// isWhole says whether all entries of this node are under its lease.
func (p *presence) isWhole() bool { return p.heartbeat.announced() == p.generation.Load() }

// heldLong says whether this node holds its lease, and has for a whole one.
func (p *presence) heldLong() bool {
	now, lease := clock.Now(), int64(p.config.Lease)
	return now-p.heldSince.Load() >= lease && now-p.renewed.Load() < lease
}

// lose takes the word of the Registry that it does not have the lease.
func (p *presence) lose(generation int64) {
	p.lost.Store(generation)
	p.renewSoon()
}

// renewSoon has the lease renewed at once, or a second after the last renewal.
func (p *presence) renewSoon() {
	p.hasty.Store(true)
	p.wake.Set()
}

// hasten makes the renewal due that renewSoon has asked for. A renewal that failed
// is tried again soon anyhow.
func (p *presence) hasten() {
	if p.hasty.Swap(false) && p.failing() == nil {
		due := time.Now().Add(time.Second - time.Duration(clock.Now()-p.renewed.Load()))
		if due.Before(p.renewDue) {
			p.renewDue = due
		}
	}
}

// announce says that all entries of this node are under its lease, once what
// has been asked for by now is written.
func (p *presence) announce() {
	generation, failures := p.generation.Load(), p.failures.Load()
	p.background(func() {
		if p.barrier(context.Background()) == nil && p.failures.Load() == failures && p.generation.Load() == generation {
			p.heartbeat.announce(generation)
		}
	})
}

// listNodes asks the Registry which nodes there are, if it is to be believed.
func (p *presence) listNodes(ctx context.Context) ([]Node, time.Time, error) {
	if err := p.held(); err != nil {
		return nil, time.Time{}, once(fmt.Errorf("list nodes: %w", err))
	}
	nodes, now, err := p.askNodes(ctx)
	return nodes, now, once(err)
}

// versions returns the envelope that each living node understands. Before, it asks the
// Registry for nodes that have come lately. If that does not answer soon, the nodes are
// those that are known already.
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

// listTrust is for how long a list of nodes is believed if nobody was missing in
// it. A Registry that has lost this node's lease says so at every question.
const listTrust = time.Second

// complete returns nil if what the Registry has of sessions is all that there is:
// it holds this node's lease, and lists every node that lives.
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

// lastListing is the heartbeat's, which is not what this goroutine has asked for if
// another has been answered since. If it may lack a node the others are told to look
// for their leases.
func (p *presence) lastListing() ([]Node, error) {
	nodes, err := p.heartbeat.lastListing()
	if err != nil {
		p.heartbeat.tellLost()
	}
	return nodes, err
}

// holds says whether the Registry has entries under the lease.
func (p *presence) holds(ctx context.Context, lease Lease) (bool, error) {
	entries, next, err := p.reg.Entries(ctx, lease, "")
	return len(entries) > 0 || next != "", err
}

// ailment is why the Registry fails although the lease can be renewed: a slot
// that is half moved, a command that is denied. It goes on while no lease passes
// without a failure.
type ailment struct {
	mu          sync.Mutex
	first, last int64 // on clock: when it failed; 0 is not
	err         error
	told        bool
}

// ail takes note of a failure, and tells once of those that last for a lease.
func (p *presence) ail(err error) {
	if err == nil || p.health() != nil { // that is told of already
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

// ailing returns an error if the ailment has lasted for a lease.
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

// blame has err name the part that it is about, if it does not yet.
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

// watchBus tells the log once when the Bus does not do what it should, and once
// when it does again, until ctx is done. If messages may be getting lost, gaps has
// told of that already. A fault that passes by itself within ProbeTimeout is no
// news.
func (h *Hub) watchBus(ctx context.Context) {
	timer := time.NewTicker(max(h.config.ProbeTimeout/4, time.Millisecond))
	defer timer.Stop()
	var since time.Time // when it began; zero is not
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
