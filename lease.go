package herald

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// start takes a lease and sets run going.
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

// stop writes what is left, while ctx allows it, and gives the lease back.
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

// retire notes that the node has a new lease in the place of old, whose
// entries may have to be swept though the Registry has forgotten it.
func (p *presence) retire(old Lease) {
	p.mu.Lock()
	p.retired = append(p.retired, old)
	p.mu.Unlock()
	p.doubt()
	p.housekeep()
}

// releaseRetired gives up the leases that this node had before, once its entries
// are under the present one. Entries that are left under an old one are swept.
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

// current returns the lease as others than run may know it. It may be lost.
func (p *presence) current() Lease { return Lease{p.node, p.generation.Load()} }

// forget makes run take a new lease: the Registry has lost what is needed to
// sweep the present one, if it is lease.
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

// note notes how a renewal or housekeeping went, in the field of it, and answers
// whether it had failed before. It tells the log once when the Registry does not
// serve one of them, and once when it serves both.
func (p *presence) note(field *error, err error) (failedBefore bool) {
	p.mu.Lock()
	failedBefore = *field != nil
	before := cmp.Or(p.err, p.unkept)
	*field = err
	now := cmp.Or(p.err, p.unkept)
	p.mu.Unlock()
	switch {
	case before == nil && now != nil && p.generation.Load() != 0: // New returns the first
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

// write carries out the writes and answers those who wait.
func (p *presence) write(ctx context.Context, ops []presenceOp) {
	var adds, removes []int
	for i := range ops {
		switch op := &ops[i]; {
		case op.add:
			// The Since of an earlier write, or none: the Registry gives one.
			op.entry.Session.Since = op.c.sinceTime()
			adds = append(adds, i)
		case op.entry.Session.ID != "":
			removes = append(removes, i)
		}
	}
	results := make([]presenceResult, len(ops))
	if err := p.failing(); err != nil {
		// We do not try: each write would wait for its timeout. When the Registry
		// is back renew wakes housekeeping, which mends what is missing. If we
		// woke it here, that would go round and round if only writes fail.
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

// tellChanges tells those who watch of what calls have changed.
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
		if err != nil && !refusesEntry(err) { // it does not serve any more
			results[one[0]].err = err
			continue
		}
		err = p.addTogether(ctx, ops, one, results)
		p.failed(err)
	}
}

// refusesEntry says whether an error of Add may concern one Entry alone.
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

// tellOnline tells OnOnline of those who are back after the lease was lost.
// Of new Conns their handshake tells.
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

// failed takes note of a write whose outcome is unknown.
func (p *presence) failed(err error) {
	if err != nil {
		p.failures.Add(1)
		p.doubt()
		p.ail(err)
		p.housekeep()
	}
}
