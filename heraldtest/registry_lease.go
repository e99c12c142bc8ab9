package heraldtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

func testKeepAlive(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	first := s.lease(a, "n")
	s.add(a, first, entry("n.1", "42"))
	renew := func(r herald.Registry, lease herald.Lease) error {
		generation, err := r.KeepAlive(s.ctx, herald.Node{ID: lease.Node, Generation: lease.Generation}, long)
		if err == nil {
			s.equal("generation", generation, lease.Generation)
		}
		return err
	}
	s.check(renew(b, first))
	s.wantErr(renew(a, herald.Lease{Node: "n", Generation: first.Generation + 1}), herald.ErrLeaseLost)
	s.wantErr(renew(a, herald.Lease{Node: "m", Generation: first.Generation}), herald.ErrLeaseLost)

	s.kill(a, first)
	s.wantIDs(b, userTopic("42"))
	s.check(renew(a, first)) // run out, but not lost
	s.wantIDs(b, userTopic("42"), "n.1")

	second := s.lease(b, "n")
	s.wantErr(renew(a, first), herald.ErrLeaseLost)
	_, err := a.Add(s.ctx, first, entry("n.2", "42"))
	s.wantErr(err, herald.ErrLeaseLost)
	s.wantIDs(b, userTopic("42"))
	s.equal("Older under the new generation", len(s.add(b, second, asking(entry("n.3", "42"))...)[0].Older), 0)
	s.check(b.Remove(s.ctx, second, entry("n.3", "42")))
	nodes, _, err := a.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes", len(nodes), 2)
	for _, n := range nodes {
		s.equal("Alive", n.Alive, n.Lease() == second)
	}
	s.check(a.Sweep(s.ctx, first))
	s.check(renew(a, second))
	s.check(a.Release(s.ctx, second))
	s.wantErr(renew(a, second), herald.ErrLeaseLost)
	seen := map[int64]bool{first.Generation: true, second.Generation: true}
	for range 50 {
		lease := s.lease(a, "n")
		if seen[lease.Generation] {
			s.fail("generation %d comes again", lease.Generation)
		}
		seen[lease.Generation] = true
		s.check(a.Release(s.ctx, lease))
	}
}

func testNodes(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	nodes, _, err := a.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes", len(nodes), 0)
	generation, err := a.KeepAlive(s.ctx, herald.Node{ID: "n", Conns: 3, Version: 2}, long)
	s.check(err)
	n := herald.Lease{Node: "n", Generation: generation}
	m := s.lease(a, "m")
	nodes, now, err := b.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes", len(nodes), 2)
	got := nodes[slices.IndexFunc(nodes, func(n herald.Node) bool { return n.ID == "n" })]
	if got.Renewed.After(now) {
		s.fail("renewed at %v, later than now, %v", got.Renewed, now)
	}
	renewed := got.Renewed
	got.Renewed = time.Time{}
	s.equal("node", got, herald.Node{ID: "n", Generation: generation, Conns: 3, Version: 2, TTL: long, Alive: true})

	s.add(a, n, entry("n.1", "42", "g"))
	s.add(a, m, entry("m.1", "42", "g"))
	s.kill(b, n)
	s.wantIDs(a, "g", "m.1")
	s.wantIDs(b, userTopic("42"), "m.1")
	nodes, _, err = a.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes with a dead one", len(nodes), 2)
	if r := nodes[slices.IndexFunc(nodes, func(n herald.Node) bool { return n.ID == "n" })].Renewed; r.Before(renewed) {
		s.fail("renewed at %v, before %v", r, renewed)
	}
	s.check(a.Sweep(s.ctx, n))
	nodes, _, err = b.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes after the sweep", len(nodes), 1)
}

func testSweep(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	var all []herald.Entry
	for i := range 500 {
		all = append(all, entry(fmt.Sprintf("n.%d", i), fmt.Sprint(i), "g"))
	}
	s.add(a, n, all...)
	s.add(b, m, entry("m.0", "0", "g"))
	s.check(b.Sweep(s.ctx, n))
	s.check(b.Sweep(s.ctx, herald.Lease{Node: "n", Generation: n.Generation + 1}))
	s.equal("sessions after the sweep of a living node", len(s.sessions(b, "g")), 501)

	s.kill(b, n)
	s.check(b.Sweep(s.ctx, n))
	s.wantIDs(a, "g", "m.0")
	s.wantIDs(a, userTopic("0"), "m.0")
	s.equal("entries left", len(s.entries(b, n)), 0)
	_, err := a.Add(s.ctx, n, entry("n.1", "1"))
	s.wantErr(err, herald.ErrLeaseLost)
	_, err = a.KeepAlive(s.ctx, herald.Node{ID: "n", Generation: n.Generation}, long)
	s.wantErr(err, herald.ErrLeaseLost)
	s.check(a.Sweep(s.ctx, n))
	s.equal("users offline", len(s.offline(b, 0)), 499)

	// A sweep that began and did not end, because its context was done on the way.
	n = s.lease(a, "n")
	s.add(a, n, all...)
	s.kill(b, n)
	ctx, cancel := context.WithTimeout(s.ctx, time.Millisecond)
	b.Sweep(ctx, n) // may end or not
	cancel()
	s.check(a.Sweep(s.ctx, n))
	s.wantIDs(a, "g", "m.0")
	s.equal("users offline", len(s.offline(b, 0)), 499)
}

func testReturning(s *registrySuite) {
	a, b, c := s.store.Open(), s.store.Open(), s.store.Open()
	for range 5 {
		old := s.lease(a, "n")
		var all []herald.Entry
		for i := range 300 {
			all = append(all, entry(fmt.Sprintf("n.%d", i), fmt.Sprint(i), "g"))
		}
		for i, added := range s.add(a, old, all...) {
			all[i].Session.Since = added.Since
		}
		s.kill(b, old)
		var wg sync.WaitGroup
		for _, r := range []herald.Registry{b, c} {
			wg.Go(func() {
				if err := r.Sweep(s.ctx, old); err != nil {
					s.Errorf("sweep: %v", err)
				}
			})
		}
		next := s.lease(a, "n")
		s.add(a, next, all[:100]...)
		s.add(a, next, all[100:]...)
		wg.Wait()
		s.check(b.Sweep(s.ctx, old))
		got := s.sessions(c, "g")
		s.equal("sessions after the return", len(got), len(all))
		found := s.entries(c, next)
		for _, e := range all {
			session := found[e.Session.ID].Session
			if !session.Since.Equal(e.Session.Since) {
				s.fail("%s: Since is %v, want the first, %v", e.Session.ID, session.Since, e.Session.Since)
			}
			s.wantIDs(b, e.UserTopic, e.Session.ID)
		}
		s.equal("entries of the old generation", len(s.entries(c, old)), 0)
		s.equal("users offline", s.offline(a, 0), []string{})
		nodes, _, err := a.Nodes(s.ctx)
		s.check(err)
		s.equal("nodes", len(nodes), 1)
		s.check(a.Remove(s.ctx, next, all...))
		s.check(a.Release(s.ctx, next))
		s.equal("users offline", len(s.offline(a, 0)), len(all))
	}
}

func testOffline(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, dead := s.lease(a, "n"), s.lease(a, "dead")
	s.add(a, n, entry("n.1", "1"), entry("n.2", "2"), entry("n.3", "2"), entry("n.4", "4"))
	s.add(a, dead, entry("dead.5", "5"), entry("dead.2", "2"))
	s.check(a.Remove(s.ctx, n, entry("n.1", "1"), entry("n.2", "2"), entry("n.4", "4")))
	s.equal("users offline for an hour", s.offline(b, time.Hour), []string{})
	s.add(a, n, entry("n.6", "4", "only"))
	s.check(a.Remove(s.ctx, n, herald.Entry{Session: herald.Session{ID: "n.6"}, Topics: []string{"only"}}))
	s.equal("users offline", s.offline(b, 0), []string{"1"})
	s.equal("users offline once more", s.offline(b, 0), []string{})
	s.kill(a, dead)
	s.equal("users offline before the sweep", s.offline(b, 0), []string{})
	s.check(a.Sweep(s.ctx, dead))
	s.equal("users offline after the sweep", s.offline(b, 0), []string{"5"})

	const delay = 50 * time.Millisecond
	_, before, err := a.Nodes(s.ctx)
	s.check(err)
	s.check(a.Remove(s.ctx, n, entry("n.3", "2")))
	var users []string
	s.await("a user goes offline", delay/2, func() bool {
		users = s.offline(b, delay)
		return len(users) > 0
	})
	_, after, err := a.Nodes(s.ctx)
	s.check(err)
	s.equal("users offline after the delay", users, []string{"2"})
	if after.Sub(before) < delay {
		s.fail("offline after %v, want %v", after.Sub(before), delay)
	}
}

func testOfflineOnce(s *registrySuite) {
	a := s.store.Open()
	n := s.lease(a, "n")
	var all []herald.Entry
	for i := range 2500 {
		all = append(all, entry(fmt.Sprintf("n.%d", i), fmt.Sprint(i)))
	}
	for some := range slices.Chunk(all, 250) { // a slow store would not manage all of them in time
		s.add(a, n, some...)
		s.check(a.Remove(s.ctx, n, some...))
	}
	var mu sync.Mutex
	seen := make(map[string]int)
	var wg sync.WaitGroup
	for range 4 {
		r := s.store.Open()
		wg.Go(func() {
			for {
				users, err := r.Offline(s.ctx, 0)
				if err != nil {
					s.Errorf("offline: %v", err)
				}
				if len(users) == 0 {
					return
				}
				mu.Lock()
				for _, user := range users {
					seen[user]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.equal("users", len(seen), len(all))
	for user, times := range seen {
		s.equal("times that user "+user+" was handed over", times, 1)
	}
}

func testRelease(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n := s.lease(a, "n")
	s.add(a, n, entry("n.1", "42", "g"))
	s.check(a.Remove(s.ctx, n, entry("n.1", "42", "g")))
	s.check(a.Release(s.ctx, n))
	s.check(b.Release(s.ctx, n))
	s.check(b.Release(s.ctx, herald.Lease{Node: "x", Generation: 1}))
	nodes, _, err := b.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes", len(nodes), 0)
	_, err = a.Add(s.ctx, n, entry("n.1", "42"))
	s.wantErr(err, herald.ErrLeaseLost)

	// An old lease is released while the node has a newer one.
	n2 := s.lease(a, "n")
	s.check(a.Release(s.ctx, n))
	s.add(a, n2, entry("n.2", "42", "g"))
	s.wantIDs(b, "g", "n.2")

	// A lease with entries left is dead at once, and can be swept.
	s.check(a.Release(s.ctx, n2))
	s.wantIDs(b, "g")
	s.check(b.Sweep(s.ctx, n2))
	s.equal("users offline", s.offline(b, 0), []string{"42"})
	nodes, _, err = b.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes", len(nodes), 0)
}

func testPrefix(s *registrySuite) {
	if s.store.Other == nil {
		s.Skipf("the store has no Other, so nobody tried: promise %s", s.promise)
	}
	a, other := s.store.Open(), s.store.Other()
	n := s.lease(a, "n")
	s.add(a, n, entry("n.1", "42", "g"))
	nodes, _, err := other.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes under the other prefix", len(nodes), 0)
	_, err = other.Add(s.ctx, n, entry("n.2", "42", "g"))
	s.wantErr(err, herald.ErrLeaseLost)
	n2 := s.lease(other, "n")
	s.wantIDs(other, "g")
	s.equal("Online under the other prefix", s.add(other, n2, entry("n.1", "42"))[0].Online, true)
	s.check(other.Remove(s.ctx, n2, entry("n.1", "42", "g")))
	s.wantIDs(a, "g", "n.1")
	s.equal("users offline", s.offline(a, 0), []string{})
	s.equal("entries under the other prefix", len(s.entries(other, n)), 0)
}
