package herald

import (
	"context"
	"errors"
)

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
	for i, op := range ops {
		if op.done != nil {
			op.done <- results[i]
		}
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
