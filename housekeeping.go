package herald

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"
)

// housekeeping is what a node does for the Registry beside its own writes:
// it looks who is alive, sweeps what the dead left, and compares its own
// entries with the index, slowly, or at once after a failure.
type housekeeping struct {
	p     *presence
	seen  map[Lease]sighting
	walk  string // the cursor in the node's entries
	visit int    // the place in the index
}

// A sighting is when this node, by its own clock, first saw the present
// renewal of another's lease.
type sighting struct {
	renewed time.Time
	at      int64
}

// housekeep wakes housekeeping.
func (h *Hub) housekeep() {
	select {
	case h.housekeepNow <- struct{}{}:
	default:
	}
}

func (k *housekeeping) run(ctx context.Context) {
	every := k.p.hub.config.Lease / 3
	soon := min(every, time.Second)
	timer := time.NewTimer(every)
	defer timer.Stop()
	worked := time.Now()
	for {
		select {
		case <-timer.C:
		case <-k.p.hub.housekeepNow:
			// What it asks for may fail, and wake it: not without a pause.
			if wait := time.Until(worked.Add(soon)); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-ctx.Done():
			return
		}
		err := k.work(ctx)
		worked = time.Now()
		timer.Reset(every)
		if err != nil { // Health tells of the Registry
			timer.Reset(soon)
		}
	}
}

func (k *housekeeping) work(ctx context.Context) error {
	p := k.p
	ctx, cancel := context.WithTimeout(ctx, max(p.hub.config.SendTimeout, p.hub.config.Lease))
	defer cancel()
	nodes, now, err := p.reg.Nodes(ctx)
	if err != nil {
		p.suspect.Store(true)
		return err
	}
	p.hub.heartbeat.listed(nodes, now)
	if err := k.sweep(ctx, nodes); err != nil {
		return err
	}
	all := p.suspect.Swap(false)
	if err := k.audit(ctx, all); err != nil {
		p.suspect.Store(true)
		return err
	}
	return nil
}

// sweep removes what dead nodes left. A node sweeps only after its own lease
// has held for a whole lease, and it has seen the victim silent for as long by
// its own clock: so neither Redis coming back after an outage nor a jump of its
// clock makes the first node up sweep the whole cluster.
func (k *housekeeping) sweep(ctx context.Context, nodes []Node) error {
	p := k.p
	lease := int64(p.hub.config.Lease)
	now := clock()
	held := now-p.heldSince.Load() >= lease && now-p.renewed.Load() < lease
	seen := make(map[Lease]sighting, len(nodes))
	for _, n := range nodes {
		s, ok := k.seen[n.Lease()]
		if !ok || !s.renewed.Equal(n.Renewed) {
			s = sighting{n.Renewed, now}
		}
		seen[n.Lease()] = s
		own := n.ID == p.hub.id && n.Generation == p.generation.Load()
		if n.Alive || own || !held || now-s.at < lease {
			continue
		}
		if err := p.reg.Sweep(ctx, n.Lease()); err != nil {
			return err
		}
		p.hub.config.Logger.Warn("herald: swept the sessions of a dead node", slog.String("node", n.ID))
	}
	k.seen = seen
	return nil
}

// auditStep is how many Conns are looked at in one go.
const auditStep = 256

// audit compares the node's entries with the index: some, or all.
func (k *housekeeping) audit(ctx context.Context, all bool) error {
	p := k.p
	lease := Lease{p.hub.id, p.generation.Load()}
	if lease.Generation == 0 {
		return nil
	}
	if all {
		k.walk, k.visit = "", 0
	}
	// What is in the Registry and should not be.
	for {
		entries, next, err := p.reg.Entries(ctx, lease, k.walk)
		if err != nil {
			return err
		}
		for _, e := range entries {
			k.check(e)
		}
		if k.walk = next; next == "" || !all {
			break
		}
	}
	// What should be and is not.
	for {
		conns := p.hub.index.appendSlice(nil, k.visit, auditStep)
		for _, c := range conns {
			p.sync(c, false)
		}
		if k.visit += len(conns); len(conns) < auditStep {
			k.visit = 0
			return nil
		}
		if !all {
			return nil
		}
	}
}

// check removes an entry that the index does not have.
func (k *housekeeping) check(e Entry) {
	x := k.p.hub.index
	topics := e.Topics
	if e.UserTopic != "" {
		topics = append(slices.Clone(topics), e.UserTopic)
	}
	var c *Conn
	if nodeOf(e.Session.ID) == k.p.hub.id {
		counter, _ := strconv.ParseUint(e.Session.ID[len(k.p.hub.id)+1:], 10, 64)
		c = x.get(counter)
	}
	if c == nil {
		k.p.remove(e, nil)
		return
	}
	has := x.topicsOf(c)
	stray := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return slices.Contains(has, t) })
	if len(stray) == 0 {
		return
	}
	k.p.remove(Entry{Session: e.Session, Topics: stray}, nil)
	k.p.sync(c, false) // what it has joined meanwhile
}

// collectOffline tells OnOffline of the users who are due.
func (h *Hub) collectOffline(ctx context.Context) {
	delay := h.config.OfflineDelay
	if h.config.OnOffline == nil {
		delay += time.Minute // for the nodes that have one
	}
	every := min(max(h.config.OfflineDelay/5, 50*time.Millisecond), time.Second)
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, h.config.SendTimeout)
		users, err := h.registry.Offline(callCtx, delay)
		cancel()
		if err != nil {
			// A failover may have lost what was written last. This asks more
			// often than the lease is renewed, and so notices a short one.
			h.presence.suspect.Store(true)
		}
		for _, u := range users {
			if h.config.OnOffline != nil {
				h.guard(nil, "OnOffline", func() { h.config.OnOffline(u) })
			}
		}
		timer.Reset(every)
		if err == nil && len(users) > 0 {
			timer.Reset(0) // there may be more
		}
	}
}
