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
	p.whole.Store(p.generation.Load())
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
	if generation != p.lease.Generation || before-p.renewed.Load() > int64(config.Lease) {
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
