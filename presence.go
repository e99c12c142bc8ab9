package herald

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/wake"
)

// presence keeps what the Registry knows of this node equal to the index:
// its lease, and the entries of its Conns. One goroutine, run, makes all
// writes, in the order in which they were asked for, many in one go.
// Housekeeping finds and mends what went wrong.
type presence struct {
	node       string // this one
	config     *Config
	reg        *countedRegistry
	index      *index
	heartbeat  *heartbeat
	stats      *counters
	online     func(user string) // OnOnline, or nil
	background func(func())      // runs a function that ends before the Bus is closed
	changed    func([]Change)    // gets what calls have changed in watched topics

	mu      sync.Mutex
	ops     []presenceOp
	spare   []presenceOp // empty; its memory is used again for ops
	closed  bool
	err     error   // what the last renewal returned
	unkept  error   // what the last housekeeping returned, if the Registry was down
	retired []Lease // earlier leases of this node, to be released once its entries are under the present one

	wake         wake.Signal // for run
	housekeepNow wake.Signal // for housekeeping

	// Used by run alone.

	seen     map[string]bool // next's: the ids of a batch
	lease    Lease
	renewDue time.Time
	told     int // how many connections the Registry was told of

	// How run ends.

	stopping context.CancelFunc // ends run, which then writes what is left
	cut      context.CancelFunc // cancels its writes
	done     chan struct{}      // closed when run has ended; nil before start

	// Shared with other goroutines.

	generation atomic.Int64 // lease.Generation
	forgotten  atomic.Int64 // the generation that is to be given up
	lost       atomic.Int64 // the generation that the Registry was found to have lost
	hasty      atomic.Bool  // renewSoon has asked for a renewal
	ailment    ailment
	renewed    atomic.Int64 // on clock: when the lease was last renewed
	heldSince  atomic.Int64 // on clock: since when each renewal came within half a Lease
	suspect    atomic.Bool  // writes have failed: housekeeping is to look at everything
	failures   atomic.Int64 // writes that have failed
}

// A presenceOp is one write.
type presenceOp struct {
	c     *Conn
	add   bool
	back  bool  // add: the lease was lost meanwhile
	entry Entry // without a Since, for add
	done  chan presenceResult
}

type presenceResult struct {
	added Added
	err   error
}

func newPresence(node string, config *Config, reg Registry, index *index, heartbeat *heartbeat, stats *counters, online func(string), background func(func())) *presence {
	return &presence{
		node: node, config: config, reg: &countedRegistry{reg, stats}, index: index, heartbeat: heartbeat, stats: stats, online: online, background: background,
		wake: wake.New(), housekeepNow: wake.New(),
		seen: make(map[string]bool, presenceBatch), lease: Lease{Node: node},
	}
}

// append adds a write to ops, and returns false if run has ended. The caller sets wake
// after it has unlocked its own mutex.
func (p *presence) append(op presenceOp) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.ops = append(p.ops, op)
	return true
}

// housekeep wakes housekeeping.
func (p *presence) housekeep() {
	p.housekeepNow.Set()
}

// doubt makes the next housekeeping look at everything.
func (p *presence) doubt() { p.suspect.Store(true) }

// doubted reports whether there was a doubt, and clears it.
func (p *presence) doubted() bool { return p.suspect.Swap(false) }

// push asks for a write. It does not wait; done may be nil.
func (p *presence) push(op presenceOp) {
	if p.append(op) {
		p.wake.Set()
	} else if op.done != nil {
		op.done <- presenceResult{err: ErrClosed}
	}
}

// add asks to register the Conn under the topics that the index has it in. It returns
// false if the Conn is closing. The caller calls OnOnline.
func (p *presence) add(c *Conn) (done <-chan presenceResult, ok bool) {
	result := make(chan presenceResult, 1)
	// Under c.mu, either this sees that the Conn is closing, or depart sees
	// that it is registered, and its removal comes after.
	c.mu.Lock()
	if !c.state.closing() {
		c.registered = p.append(presenceOp{c: c, add: true, entry: p.entry(c), done: result})
	}
	registered := c.registered
	c.mu.Unlock()
	p.wake.Set()
	return result, registered
}

// entry returns the Conn's Entry under the given topics.
func (c *Conn) entry(topics []string) Entry {
	e := Entry{Session: c.Session()}
	for _, t := range topics {
		switch {
		case isUserTopic(t):
			e.UserTopic = t
		case isGroupTopic(t):
			e.Topics = append(e.Topics, t)
		}
	}
	return e
}

// entry returns the Conn's Entry under the topics in which the index has it. It asks for
// the user's older sessions only if there is an Admit that needs them.
func (p *presence) entry(c *Conn) Entry {
	e := c.entry(p.index.topicsOf(c))
	if p.config.Admit != nil {
		e.Older = maxOlder
	}
	return e
}

// older asks once more for the older sessions of the Conn's user.
func (p *presence) older(ctx context.Context, c *Conn) (Added, error) {
	done := make(chan presenceResult, 1)
	c.mu.Lock()
	ok := !c.state.closing() && p.append(presenceOp{c: c, add: true, entry: p.entry(c), done: done})
	c.mu.Unlock()
	if !ok {
		return Added{}, ErrClosed
	}
	p.wake.Set()
	select {
	case r := <-done:
		return r.added, r.err
	case <-ctx.Done():
		return Added{}, context.Cause(ctx)
	}
}

// join registers the Conn under more topics. It returns false if there is nothing to wait
// for.
func (p *presence) join(c *Conn, topics []string, done chan presenceResult) bool {
	c.mu.Lock()
	ok := !c.state.closing() && c.registered // else it is gone, or add is still to come
	if ok {
		ok = p.append(presenceOp{c: c, add: true, entry: c.entry(topics), done: done})
	}
	c.mu.Unlock()
	if ok {
		p.wake.Set()
	}
	return ok
}

// leave takes the Conn's entry away from topics that the index has it in no more. It
// returns false if there is nothing to wait for.
func (p *presence) leave(c *Conn, topics []string, done chan presenceResult) bool {
	// Under c.mu, so that it comes behind an addition to these topics.
	c.mu.Lock()
	ok := c.registered && p.append(presenceOp{entry: c.entry(topics), done: done}) // else add is still to come
	c.mu.Unlock()
	if ok {
		p.wake.Set()
	}
	return ok
}

// remove takes an entry away.
func (p *presence) remove(e Entry, done chan presenceResult) {
	p.push(presenceOp{entry: e, done: done})
}

// barrier waits until all writes that were asked for before it are done or have failed.
func (p *presence) barrier(ctx context.Context) error {
	done := make(chan presenceResult, 1)
	p.push(presenceOp{done: done})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run renews the lease and writes, until ctx is done and nothing is left to
// write.
func (p *presence) run(ctx, writes context.Context) {
	defer close(p.done)
	timer := time.NewTimer(time.Until(p.renewDue))
	defer timer.Stop()
	for {
		if g := p.forgotten.Swap(0); g != 0 && g == p.lease.Generation {
			p.setLease(0)
			p.renewDue = time.Now()
		}
		p.tellConns()
		p.hasten()
		if wait := time.Until(p.renewDue); wait <= 0 && ctx.Err() == nil {
			p.renew(ctx)
		}
		ops := p.next()
		if len(ops) > 0 {
			p.write(writes, ops)
			p.recycle(ops)
			continue
		}
		if ctx.Err() != nil {
			p.mu.Lock()
			p.closed = len(p.ops) == 0
			closed := p.closed
			p.mu.Unlock()
			if closed {
				return
			}
			continue
		}
		timer.Reset(time.Until(p.renewDue))
		select {
		case <-p.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// tellConns makes the renewal due early if the number of connections has changed, at most
// once a second.
func (p *presence) tellConns() {
	if conns, _, _ := p.index.size(); conns == p.told {
		return
	}
	last := p.renewDue.Add(-p.config.Lease / 3)
	if soon := last.Add(time.Second); soon.Before(p.renewDue) && p.failing() == nil {
		p.renewDue = soon
	}
}

// presenceBatch is the most writes that go out together.
const presenceBatch = 256

// next takes a batch of writes that may be carried out in any order: no Conn occurs twice
// in it, and a barrier goes alone.
func (p *presence) next() []presenceOp {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ops) == 0 {
		return nil
	}
	clear(p.seen)
	n := 0
	for n < len(p.ops) && n < presenceBatch {
		id := p.ops[n].entry.Session.ID
		if p.seen[id] || id == "" && n > 0 { // a barrier goes alone
			break
		}
		p.seen[id] = true
		if n++; id == "" {
			break
		}
	}
	if n == len(p.ops) {
		ops := p.ops
		p.ops, p.spare = p.spare, nil
		return ops
	}
	ops := append(p.spare, p.ops[:n]...)
	clear(p.ops[:n])
	p.ops, p.spare = p.ops[n:], nil
	if len(p.ops) <= presenceBatch { // or the tail would keep the memory of a long list
		p.ops = slices.Clone(p.ops)
	}
	return ops
}

// recycle keeps the memory of ops, which have been written, for a later batch.
func (p *presence) recycle(ops []presenceOp) {
	clear(ops)
	if cap(ops) <= 2*presenceBatch {
		p.mu.Lock()
		p.spare = ops[:0]
		p.mu.Unlock()
	}
}

// restore adds every Conn again: the Registry had forgotten the node.
func (p *presence) restore() {
	conns := p.index.appendConns(nil, topicEveryone)
	for _, c := range conns {
		p.sync(c, true)
	}
	if len(conns) > 0 {
		p.stats.mended.Add(uint64(len(conns)))
		p.config.Logger.Warn("herald: the Registry had lost this node's lease; its sessions are being put back", "conns", len(conns))
	}
}

// sync adds the Conn again under the topics in which the index has it. It returns false
// if there is nothing to add. back says that the Registry had forgotten it.
func (p *presence) sync(c *Conn, back bool) bool {
	if c.since.Load() == 0 { // its first add is still under way
		return false
	}
	c.mu.Lock()
	ok := !c.state.closing() && c.registered &&
		p.append(presenceOp{c: c, add: true, back: back, entry: c.entry(p.index.topicsOf(c))})
	c.mu.Unlock()
	if ok {
		p.wake.Set()
	}
	return ok
}

// collectOffline tells offline, which is OnOffline or nil, of the users who are due.
func (p *presence) collectOffline(ctx context.Context, offline func(user string)) {
	delay := p.config.OfflineDelay
	if offline == nil {
		delay += time.Minute // leave users to nodes that have an OnOffline
	}
	every := min(max(p.config.OfflineDelay/5, 50*time.Millisecond), time.Second)
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, p.config.SendTimeout)
		users, err := p.reg.Offline(callCtx, delay)
		cancel()
		if err != nil {
			// A failover may have lost the last writes. Renewals come less often than
			// this call, and could miss a short one.
			p.doubt()
		}
		for _, u := range users {
			if offline != nil {
				offline(u)
			}
		}
		timer.Reset(every)
		if err == nil && len(users) > 0 {
			timer.Reset(0) // there may be more
		}
	}
}
