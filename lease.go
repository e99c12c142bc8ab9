package herald

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// start takes a lease and starts run.
func (p *presence) start(ctx context.Context) error {
	if err := p.renew(ctx); err != nil {
		return err
	}
	p.heartbeat.announce(p.generation.Load())
	running, stopping := context.WithCancel(context.Background())
	writes, cut := context.WithCancel(context.Background())
	p.stopping, p.cut, p.done = stopping, cut, make(chan struct{})
	p.background(func() { p.run(running, writes) })
	return nil
}

// stop waits until run has written what is left, or ctx is done, and releases the lease.
func (p *presence) stop(ctx context.Context) {
	if p.done == nil {
		return
	}
	p.stopping()
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	p.cut()
	<-p.done
	if p.lease.Generation != 0 {
		p.heartbeat.leave(ctx)
		// If this fails, others sweep what is left.
		p.reg.Release(ctx, p.lease)
	}
}

// renew renews the lease, or takes a new one if it was lost.
func (p *presence) renew(ctx context.Context) error {
	config := p.config
	conns, _, _ := p.index.size()
	node := Node{ID: p.node, Generation: p.lease.Generation, Conns: conns, Version: envelopeVersion}
	callCtx, cancel := context.WithTimeout(ctx, min(config.SendTimeout, max(config.Lease/3, time.Second)))
	defer cancel()
	before := clock.Now()
	generation, err := p.reg.KeepAlive(callCtx, node, config.Lease)
	if errors.Is(err, ErrLeaseLost) && node.Generation != 0 {
		node.Generation = 0
		generation, err = p.reg.KeepAlive(callCtx, node, config.Lease)
	}
	if err != nil && ctx.Err() != nil { // stop has cut it short
		return err
	}
	failedBefore := p.note(&p.err, err)
	if err != nil {
		p.renewDue = time.Now().Add(min(config.Lease/3, time.Second))
		p.doubt()
		return err
	}
	p.renewDue, p.told = time.Now().Add(config.Lease/3), conns
	if generation != p.lease.Generation || before-p.renewed.Load() >= int64(config.Lease/2) {
		p.heartbeat.lapsed(p.renewed.Load(), before+int64(config.Lease))
		p.heldSince.Store(before)
	}
	p.renewed.Store(before)
	p.lost.Store(0)
	if generation != p.lease.Generation {
		old := p.current()
		p.setLease(generation)
		if old.Generation != 0 {
			p.retire(old)
			p.heartbeat.tellLost()
			p.restore()
			p.announce()
		}
	}
	if failedBefore {
		p.housekeep()
	}
	return nil
}

// retire notes that a new lease has replaced old. Entries may be left under old even if
// the Registry has forgotten it, so it is released later.
func (p *presence) retire(old Lease) {
	p.mu.Lock()
	p.retired = append(p.retired, old)
	p.mu.Unlock()
	p.doubt()
	p.housekeep()
}

// releaseRetired releases this node's earlier leases, once its entries are under the
// present one. If entries are left under an earlier one, they are swept then.
func (p *presence) releaseRetired(ctx context.Context) error {
	p.mu.Lock()
	retired := p.retired
	p.retired = nil
	p.mu.Unlock()
	for i, lease := range retired {
		if err := p.reg.Release(ctx, lease); err != nil {
			p.mu.Lock()
			p.retired = append(p.retired, retired[i:]...)
			p.mu.Unlock()
			return err
		}
	}
	return nil
}

// current returns the lease, for goroutines other than run. It may be lost.
func (p *presence) current() Lease { return Lease{p.node, p.generation.Load()} }

// forget makes run replace lease, if it is still the present one: the Registry has lost
// what it needs to sweep it.
func (p *presence) forget(lease Lease) {
	p.forgotten.Store(lease.Generation)
	p.wake.Set()
}

// setLease sets the lease's generation. 0 makes the next write take a new one.
func (p *presence) setLease(generation int64) {
	p.lease.Generation = generation
	if generation != 0 {
		p.generation.Store(generation)
	}
}

// note stores in its field how a renewal or housekeeping went, and reports whether the
// one before it failed. It logs once when either begins to fail, and once when both work
// again.
func (p *presence) note(field *error, err error) (failedBefore bool) {
	p.mu.Lock()
	failedBefore = *field != nil
	before := cmp.Or(p.err, p.unkept)
	*field = err
	now := cmp.Or(p.err, p.unkept)
	p.mu.Unlock()
	switch {
	case before == nil && now != nil && p.generation.Load() != 0: // before the first lease New returns the error
		p.config.Logger.Warn("herald: the Registry is down", "err", now)
	case before != nil && now == nil:
		p.config.Logger.Info("herald: the Registry is back")
	}
	return failedBefore
}

// noteKept notes how housekeeping went.
func (p *presence) noteKept(err error) { p.note(&p.unkept, err) }

// health returns why the Registry does not serve this node, or nil.
func (p *presence) health() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cmp.Or(p.err, p.unkept)
}

// failing returns why the lease could not be renewed, or nil.
func (p *presence) failing() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// write carries out the writes and answers their callers.
func (p *presence) write(ctx context.Context, ops []presenceOp) {
	var adds, removes []int
	for i := range ops {
		switch op := &ops[i]; {
		case op.add:
			// If no write has brought a Since yet, the Registry gives one.
			op.entry.Session.Since = op.c.sinceTime()
			adds = append(adds, i)
		case op.entry.Session.ID != "":
			removes = append(removes, i)
		}
	}
	results := make([]presenceResult, len(ops))
	if err := p.failing(); err != nil {
		// Do not try: each write would wait for its timeout. When the Registry is back,
		// renew wakes housekeeping, which adds what is missing. Waking it here would loop
		// if the Registry serves reads only: it would ask for the same writes again.
		for i := range results {
			results[i].err = err
		}
		if len(adds)+len(removes) > 0 {
			p.failures.Add(1)
			p.doubt()
		}
		adds, removes = nil, nil
	}
	if len(adds) > 0 {
		p.writeAdds(ctx, ops, adds, results)
	}
	if len(removes) > 0 {
		entries := make([]Entry, len(removes))
		for j, i := range removes {
			entries[j] = ops[i].entry
		}
		callCtx, cancel := context.WithTimeout(ctx, p.config.SendTimeout)
		err := p.reg.Remove(callCtx, p.lease, entries...)
		cancel()
		p.failed(err)
		for _, i := range removes {
			results[i].err = err
		}
	}
	p.tellChanges()
	for i, op := range ops {
		if op.done != nil {
			op.done <- results[i]
		}
	}
}

// tellChanges hands on what calls have changed in watched topics.
func (p *presence) tellChanges() {
	if changes := p.reg.Changes(); len(changes) > 0 {
		p.changed(changes)
	}
}

// writeAdds adds all in one go, or each alone if the Registry refuses one of them.
func (p *presence) writeAdds(ctx context.Context, ops []presenceOp, adds []int, results []presenceResult) {
	err := p.addTogether(ctx, ops, adds, results)
	if len(adds) == 1 || !refusesEntry(err) {
		p.failed(err)
		return
	}
	for n := range adds {
		one := adds[n : n+1]
		if err != nil && !refusesEntry(err) { // the Registry has failed meanwhile
			results[one[0]].err = err
			continue
		}
		err = p.addTogether(ctx, ops, one, results)
		p.failed(err)
	}
}

// refusesEntry reports whether an error of Add may concern one Entry alone.
func refusesEntry(err error) bool {
	for _, common := range []error{ErrRegistryDown, ErrLeaseLost, ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, common) {
			return false
		}
	}
	return err != nil
}

func (p *presence) addTogether(ctx context.Context, ops []presenceOp, adds []int, results []presenceResult) error {
	entries := make([]Entry, len(adds))
	for j, i := range adds {
		entries[j] = ops[i].entry
	}
	var added []Added
	var err error
	for range 2 {
		if p.lease.Generation == 0 {
			if err = p.renew(ctx); err != nil {
				break
			}
		}
		callCtx, cancel := context.WithTimeout(ctx, p.config.SendTimeout)
		added, err = p.reg.Add(callCtx, p.lease, entries...)
		cancel()
		if !errors.Is(err, ErrLeaseLost) {
			break
		}
		p.setLease(0)
	}
	for j, i := range adds {
		results[i].err = err
		if err == nil {
			results[i].added = added[j]
			if entries[j].UserTopic != "" && entries[j].Session.Since.IsZero() {
				ops[i].c.since.Store(added[j].Since.UnixMicro())
			}
		}
	}
	if err == nil && p.online != nil {
		p.tellOnline(ops, adds, added)
	}
	return err
}

// tellOnline calls OnOnline for users who are back after the lease was lost. For new
// Conns the handshake does that.
func (p *presence) tellOnline(ops []presenceOp, adds []int, added []Added) {
	var users []string
	for j, i := range adds {
		if added[j].Online && ops[i].back {
			users = append(users, ops[i].c.identity.User)
		}
	}
	if len(users) == 0 {
		return
	}
	p.background(func() {
		for _, u := range users {
			p.online(u)
		}
	})
}

// failed notes the error of a write, whose outcome is then unknown.
func (p *presence) failed(err error) {
	if err != nil {
		p.failures.Add(1)
		p.doubt()
		p.ail(err)
		p.housekeep()
	}
}
