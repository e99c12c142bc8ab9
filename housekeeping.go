package herald

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// housekeeping is what a node does for the Registry besides its own writes. It finds out
// which nodes live, sweeps what dead ones left, and compares the node's entries with the
// index. It does all that within a Lease, or at once after a failure.
type housekeeping struct {
	p        *presence
	seen     map[Lease]sighting
	refused  map[string]bool // nodes that were logged because their records cannot be understood
	walk     string          // the cursor in the node's entries
	pass     []*Conn         // Conns that are still to be compared in this Lease
	losing   int             // audits until the next loss is logged
	haunted  bool            // nodes that were never heard have been logged
	strays   uint64          // how many the Registry had met
	straying int             // rounds until the next stray is logged
}

// A sighting is when this node, by its own clock, first saw the last renewal of a lease.
type sighting struct {
	renewed time.Time
	at      int64
	again   bool // it has seen an earlier renewal too
}

func (k *housekeeping) run(ctx context.Context) {
	every := k.p.config.Lease / 3
	soon := min(every, time.Second)
	timer := time.NewTimer(every)
	defer timer.Stop()
	worked := time.Now()
	for {
		select {
		case <-timer.C:
		case <-k.p.housekeepNow:
			// The work may fail and wake us again: pause before it.
			if wait := time.Until(worked.Add(soon)); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-ctx.Done():
			return
		}
		began := time.Now()
		err := k.work(ctx)
		worked = time.Now()
		timer.Reset(max(every-worked.Sub(began), soon))
		if err != nil {
			timer.Reset(soon)
		}
		failed := err
		// Running out of time is no fault of the Registry: after a node has died there is
		// much to do. restore logs a lost lease.
		if !errors.Is(err, ErrRegistryDown) || errors.Is(err, ErrLeaseLost) {
			err = nil
		}
		if ctx.Err() == nil {
			k.p.noteKept(err)
			k.p.ail(failed)
		}
	}
}

func (k *housekeeping) work(ctx context.Context) error {
	p := k.p
	ctx, cancel := context.WithTimeout(ctx, max(p.config.SendTimeout, p.config.Lease))
	defer cancel()
	nodes, _, err := p.askNodes(ctx)
	if err != nil {
		p.doubt()
		return err
	}
	k.tellRefused(nodes)
	k.tellStrays()
	k.see(nodes)
	k.lookForUnheard(ctx)
	if err := k.sweep(ctx, nodes); err != nil {
		return err
	}
	all := p.doubted()
	err = k.audit(ctx, all)
	if err == nil && all {
		err = p.releaseRetired(ctx)
	}
	if err != nil {
		p.doubt()
	} else if !p.isWhole() {
		p.announce()
	}
	return err
}

// see notes which leases have been renewed.
func (k *housekeeping) see(nodes []Node) {
	seen := make(map[Lease]sighting, len(nodes))
	for _, n := range nodes {
		s, ok := k.seen[n.Lease()]
		if !ok || !s.renewed.Equal(n.Renewed) {
			s = sighting{n.Renewed, clock.Now(), ok}
		}
		seen[n.Lease()] = s
	}
	k.seen = seen
}

// sweep removes what dead nodes left. A node sweeps only if it has held its own lease for
// a whole Lease, and by its own clock has seen no renewal of the victim's for as long. So
// the first node up does not sweep the whole cluster when Redis comes back after an
// outage or its clock jumps.
func (k *housekeeping) sweep(ctx context.Context, nodes []Node) error {
	p := k.p
	held := p.heldLong()
	var failed error
	var swept []string
	for _, n := range nodes {
		if n.Err != nil { // nobody knows what it is
			continue
		}
		own := n.Lease() == p.current()
		if n.Alive || own || !held || since(k.seen[n.Lease()].at) < p.config.Lease {
			continue
		}
		if err := p.reg.Sweep(ctx, n.Lease()); err != nil {
			failed = cmp.Or(failed, err)
			continue
		}
		p.tellChanges()
		if n.ID != p.node { // not its own earlier lease
			swept = append(swept, n.ID)
		}
	}
	if len(swept) > 0 {
		p.config.Logger.Warn("herald: swept the sessions of a dead node", slog.String("node", swept[0]), slog.Int("nodes", len(swept)))
	}
	return failed
}

// audit compares in steps, because messages wait while the node and Redis compare. The
// pauses between the steps take at most a twelfth of a Lease in all.
const (
	auditStep  = 64
	auditPause = 10 * time.Millisecond
)

// audit compares the node's entries with the index. It finds within a Lease what is
// missing. It looks slowly for what should not be there, because only a failure leaves
// that. If all is set, it looks for everything at once.
func (k *housekeeping) audit(ctx context.Context, all bool) error {
	lease := k.p.current()
	if lease.Generation == 0 {
		return nil
	}
	if all {
		k.walk = ""
	}
	for {
		entries, next, err := k.p.reg.Entries(ctx, lease, k.walk)
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
	everyone := k.p.index.appendConns(nil, topicEveryone)
	lost, err := k.compare(ctx, lease, k.due(everyone, all), !all)
	if lost > 0 && err == nil && !all { // look for the rest at once
		var more int
		more, err = k.compare(ctx, lease, everyone, false)
		lost += more
	}
	if lost > 0 || err == nil {
		k.tellLost(lost)
	}
	return err
}

// due returns the Conns whose turn it is: a third of them in each third of a Lease.
func (k *housekeeping) due(everyone []*Conn, all bool) []*Conn {
	if all {
		k.pass = nil
		return everyone
	}
	if len(k.pass) == 0 {
		k.pass = everyone
	}
	n := min(len(k.pass), len(everyone)/3+1)
	conns := k.pass[:n]
	if k.pass = k.pass[n:]; len(k.pass) == 0 {
		k.pass = nil
	}
	return conns
}

// compare puts back what the Registry has lost of the Conns, and returns how many lacked
// something. If the Registry can no longer sweep the lease, all is put back under a new
// one. pauses makes it pause between steps.
func (k *housekeeping) compare(ctx context.Context, lease Lease, conns []*Conn, pauses bool) (lost int, err error) {
	p := k.p
	pause := min(auditPause, p.config.Lease/12/time.Duration(len(conns)/auditStep+1))
	for first := true; first || len(conns) > 0; first = false {
		if pauses && !first {
			time.Sleep(pause)
		}
		n := min(auditStep, len(conns))
		missing, err := k.missing(ctx, lease, conns[:n])
		if err == nil && len(missing) > 0 {
			// It may only be waiting to be written. After the barrier it is.
			if err = p.barrier(ctx); err == nil {
				missing, err = k.stillMissing(ctx, lease, missing)
			}
		}
		if errors.Is(err, ErrLeaseLost) {
			p.forget(lease)
			return lost, nil
		}
		if err != nil {
			return lost, err
		}
		for _, m := range missing {
			// Without its place under the user's topic, the user may have gone offline.
			if p.sync(m.conn, m.entry.UserTopic != "") {
				lost++
			}
		}
		conns = conns[n:]
	}
	return lost, nil
}

// A missingEntry is what the Registry lacks of a Conn.
type missingEntry struct {
	conn  *Conn
	entry Entry
}

// missing returns what the Registry lacks of the Conns.
func (k *housekeeping) missing(ctx context.Context, lease Lease, conns []*Conn) ([]missingEntry, error) {
	var all []missingEntry
	for _, c := range conns {
		if c.since.Load() == 0 { // its first add is still under way
			continue
		}
		if topics := k.p.index.topicsOf(c); len(topics) > 0 {
			all = append(all, missingEntry{c, c.entry(topics)})
		}
	}
	return k.lacking(ctx, lease, all)
}

// stillMissing returns what is still missing of before, without the topics that the Conns
// have left meanwhile.
func (k *housekeeping) stillMissing(ctx context.Context, lease Lease, before []missingEntry) ([]missingEntry, error) {
	var all []missingEntry
	for _, m := range before {
		topics := m.entry.topics()
		if left := k.p.index.strays(m.conn, topics); len(left) > 0 {
			topics = slices.DeleteFunc(topics, func(t string) bool { return slices.Contains(left, t) })
		}
		if len(topics) > 0 {
			all = append(all, missingEntry{m.conn, m.conn.entry(topics)})
		}
	}
	return k.lacking(ctx, lease, all)
}

// lacking returns the entries that the Registry lacks, each with the topics that it
// lacks.
func (k *housekeeping) lacking(ctx context.Context, lease Lease, all []missingEntry) ([]missingEntry, error) {
	entries := make([]Entry, len(all))
	conns := make(map[string]*Conn, len(all))
	for i, m := range all {
		entries[i] = m.entry
		conns[m.entry.Session.ID] = m.conn
	}
	lacking, err := k.p.reg.Check(ctx, lease, entries...)
	if err != nil {
		return nil, err
	}
	missing := make([]missingEntry, len(lacking))
	for i, e := range lacking {
		missing[i] = missingEntry{conns[e.Session.ID], e}
	}
	return missing, nil
}

// tellLost logs a loss, if there was none in the last Lease.
func (k *housekeeping) tellLost(lost int) {
	if lost == 0 {
		k.losing = max(0, k.losing-1)
		return
	}
	k.p.stats.mended.Add(uint64(lost))
	if k.losing == 0 {
		k.p.config.Logger.Warn("herald: the Registry had lost sessions of this node, which are put back; does Redis evict keys?", slog.Int("sessions", lost))
	}
	k.losing = 3 // thirds of a lease
}

// check removes from the Registry what the index does not have of an entry.
func (k *housekeeping) check(e Entry) {
	x := k.p.index
	var c *Conn
	if counter, ok := counterOf(k.p.node, e.Session.ID); ok {
		c = x.get(counter)
	}
	if c == nil {
		k.p.remove(e, nil)
		return
	}
	stray := x.strays(c, e.topics())
	if len(stray) == 0 {
		return
	}
	k.p.remove(Entry{Session: e.Session, Topics: stray}, nil)
	k.p.sync(c, false) // it may have joined one of them meanwhile
}

// tellRefused logs nodes whose records cannot be understood, each once. The line names
// one of the new ones, and counts them.
func (k *housekeeping) tellRefused(nodes []Node) {
	refused := make(map[string]bool)
	var one Node
	fresh := 0
	for _, n := range nodes {
		if n.Err == nil {
			continue
		}
		refused[n.ID] = true
		if !k.refused[n.ID] {
			one = n
			fresh++
		}
	}
	k.refused = refused
	if fresh > 0 {
		k.p.config.Logger.Warn("herald: a node in the Registry cannot be understood, and counts as dead",
			slog.String("node", one.ID[:min(len(one.ID), 128)]), slog.Any("err", one.Err), slog.Int("nodes", fresh))
	}
}

// tellStrays logs that somebody else writes under the Prefix, if it has not seen that in
// the last Lease. What was in a deleted key is put back soon.
func (k *housekeeping) tellStrays() {
	r, ok := k.p.reg.reg.(*RedisRegistry)
	if !ok {
		return
	}
	n, last := r.redis.Unreadable()
	if n == k.strays {
		k.straying = max(0, k.straying-1)
		return
	}
	k.strays = n
	if k.straying == 0 {
		k.p.doubt()
		k.p.config.Logger.Warn("herald: somebody else writes under the Prefix in Redis: what cannot be understood is passed over, and keys of a wrong type are deleted", slog.String("key", last), slog.Uint64("times", n))
	}
	k.straying = 3 // thirds of a lease
}

// unheardStep is how many nodes are looked for at a time, in any order.
const unheardStep = 64

// lookForUnheard looks whether nodes that were never heard have sessions: only then is
// their silence a fault of the Bus. It logs once while any of them lives. A node that has
// just died does not count: it no longer renews its lease, and is listed for at most a
// Lease more.
func (k *housekeeping) lookForUnheard(ctx context.Context) {
	p := k.p
	n, living := 0, ""
	for node, lease := range p.heartbeat.unheard() {
		if s, ok := k.seen[lease]; ok && (s.again || since(s.at) > p.config.Lease) {
			living = node
		}
		if n++; n > unheardStep {
			continue
		}
		if holds, err := p.holds(ctx, lease); err == nil {
			p.heartbeat.holds(node, holds)
		}
	}
	if living != "" && !k.haunted && p.config.ProbeInterval != off {
		p.config.Logger.Warn("herald: the Registry lists nodes that were never heard: the Bus does not reach them, or somebody else has put them there", slog.String("node", living), slog.Int("nodes", n))
	}
	k.haunted = living != ""
}
