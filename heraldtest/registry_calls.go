package heraldtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

func testTime(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n := s.lease(a, "n")
	_, before, err := a.Nodes(s.ctx)
	s.check(err)
	added := s.add(b, n, entry("n.1", "42"))[0]
	_, after, err := a.Nodes(s.ctx)
	s.check(err)
	if added.Since.Before(before) || added.Since.After(after) {
		s.fail("Since is %v, not from %v to %v", added.Since, before, after)
	}
	s.equal("Since in microseconds", added.Since.Nanosecond()%1000, 0)
	if s.store.Advance == nil {
		return
	}
	s.store.Advance(3 * time.Hour)
	for _, r := range []herald.Registry{a, b} {
		nodes, now, err := r.Nodes(s.ctx)
		s.check(err)
		if now.Sub(after) < 3*time.Hour {
			s.fail("now is %v, 3 hours after %v", now, after)
		}
		s.equal("Alive", nodes[0].Alive, true)
	}
	s.store.Advance(long)
	s.wantIDs(a, userTopic("42"))
}

func testSteps(s *registrySuite) {
	if s.store.Step == nil {
		s.Skipf("the store has no Step, so nobody tried: promise %s", s.promise)
	}
	a, b := s.store.Open(), s.store.Open()
	n, dead := s.lease(a, "n"), s.lease(a, "dead")
	last := s.add(a, n, entry("n.0", "42"))[0].Since
	s.add(a, dead, entry("dead.0", "43"))
	s.wantIDs(b, userTopic("43"), "dead.0")
	id := 0
	for _, step := range []time.Duration{time.Hour, -time.Minute, -2 * time.Hour, time.Minute, 12 * time.Hour} {
		s.store.Step(step)
		for _, r := range []herald.Registry{a, b} {
			online, err := r.Online(s.ctx, n, userTopic("42"), userTopic("43"))
			s.check(err)
			s.equal(fmt.Sprintf("online after a step of %v", step), online, []bool{true, true})
			s.check(r.Sweep(s.ctx, n)) // which does nothing
		}
		id++
		e := asking(entry(fmt.Sprint("n.", id), "42"))[0]
		added := s.add(b, n, e)[0]
		if !added.Since.After(last) {
			s.fail("after a step of %v Since is %v, not after %v", step, added.Since, last)
		}
		s.equal(fmt.Sprintf("Older after a step of %v", step), len(added.Older), id)
		last = added.Since
		_, now, err := b.Nodes(s.ctx)
		s.check(err)
		if now.Before(last) {
			s.fail("after a step of %v now is %v, before a Since of %v", step, now, last)
		}
		_, err = a.KeepAlive(s.ctx, herald.Node{ID: "n", Generation: n.Generation}, long)
		s.check(err)
	}

	// A lease that was last renewed before the clock stepped back.
	s.kill(a, dead)
	s.store.Step(-time.Hour)
	late := s.store.Open()
	s.wantIDs(late, userTopic("43"))
	for _, r := range []herald.Registry{a, b} {
		s.await("the dead node to be known as dead", 20*time.Millisecond, func() bool { return len(s.sessions(r, userTopic("43"))) == 0 })
	}
	s.await("the dead node to be swept", 20*time.Millisecond, func() bool {
		s.check(late.Sweep(s.ctx, dead))
		nodes, _, err := b.Nodes(s.ctx)
		s.check(err)
		return len(nodes) == 1
	})
	s.store.Step(time.Hour)
	gone := func(user string) {
		s.Helper()
		s.await(user+" to be offline", 20*time.Millisecond, func() bool { return slices.Contains(s.offline(b, 0), user) })
	}
	gone("43")

	// A user who went offline before a step has been gone only for the time that has
	// passed.
	s.offline(b, time.Minute)
	s.add(a, n, entry("n.g", "44"))
	s.check(a.Remove(s.ctx, n, entry("n.g", "44")))
	s.store.Step(time.Hour)
	s.equal("users offline for a minute, after a step forward", s.offline(b, time.Minute), []string{})
	s.store.Step(-2 * time.Hour)
	s.equal("users offline for a minute, after a step back", s.offline(b, time.Minute), []string{})
	s.store.Step(time.Second) // a clock that was stepped may stand still
	gone("44")
}

// calls are all methods, by name.
func calls(r herald.Registry, lease herald.Lease, id string) map[string]func(context.Context) error {
	e := entry(id, "42", "g")
	node := herald.Node{ID: lease.Node, Generation: lease.Generation}
	all := map[string]func(context.Context) error{
		"Add":       func(ctx context.Context) error { _, err := r.Add(ctx, lease, e); return err },
		"Remove":    func(ctx context.Context) error { return r.Remove(ctx, lease, e) },
		"Sessions":  func(ctx context.Context) error { _, err := r.Sessions(ctx, lease, "g"); return err },
		"Online":    func(ctx context.Context) error { _, err := r.Online(ctx, lease, "g"); return err },
		"Check":     func(ctx context.Context) error { _, err := r.Check(ctx, lease, e); return err },
		"KeepAlive": func(ctx context.Context) error { _, err := r.KeepAlive(ctx, node, long); return err },
		"Nodes":     func(ctx context.Context) error { _, _, err := r.Nodes(ctx); return err },
		"Sweep":     func(ctx context.Context) error { return r.Sweep(ctx, lease) },
		"Offline":   func(ctx context.Context) error { _, err := r.Offline(ctx, time.Hour); return err },
		"Entries":   func(ctx context.Context) error { _, _, err := r.Entries(ctx, lease, ""); return err },
		"Release": func(ctx context.Context) error {
			return r.Release(ctx, herald.Lease{Node: lease.Node, Generation: lease.Generation + 1})
		},
	}
	if w, ok := r.(herald.WatchRegistry); ok {
		all["Watch"] = func(ctx context.Context) error {
			_, err := w.Watch(ctx, lease, long, "g")
			w.Changes()
			return err
		}
	}
	return all
}

func testContext(s *registrySuite) {
	a := s.store.Open()
	n := s.lease(a, "n")
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	late, cancel := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for name, call := range calls(a, n, "n.1") {
		for _, ctx := range []context.Context{cancelled, late} {
			if err := call(ctx); err == nil {
				s.fail("%s with a context that is done: no error", name)
			} else {
				s.wantErr(err, ctx.Err())
			}
		}
	}
}

func testRegistryConcurrency(s *registrySuite) {
	var wg sync.WaitGroup
	for h := range 2 {
		r := s.store.Open()
		n := s.lease(r, fmt.Sprint("n", h))
		for g := range 2 {
			for name, call := range calls(r, n, fmt.Sprintf("n%d.%d", h, g)) {
				wg.Go(func() {
					for range 20 {
						if err := call(s.ctx); err != nil {
							s.Errorf("%s: %v\npromise %s", name, err, s.promise)
							return
						}
					}
				})
			}
		}
	}
	wg.Wait()
}

func testRegistryOwnership(s *registrySuite) {
	a := s.store.Open()
	n := s.lease(a, "n")
	entries := []herald.Entry{entry("n.1", "42", "g")}
	entries[0].Session.Meta = map[string]string{"k": "v"}
	s.add(a, n, entries...)
	entries[0].Session.Meta["k"] = "changed"
	entries[0].Topics[0] = "changed"
	entries[0].UserTopic = "changed"
	topics := []string{"g"}
	for range 2 {
		all, err := a.Sessions(s.ctx, n, topics...)
		s.check(err)
		s.equal("sessions", len(all[0]), 1)
		s.equal("Meta", all[0][0].Meta, map[string]string{"k": "v"})
		all[0][0].Meta["k"] = "changed"
		topics[0] = "changed"
		all[0] = nil
		topics = []string{"g"}

		older := s.add(a, n, asking(entry("n.2", "42"))...)[0].Older
		s.equal("Meta of an older Session", older[0].Meta, map[string]string{"k": "v"})
		older[0].Meta["k"] = "changed"

		e := s.entries(a, n)["n.1"]
		s.equal("topics", e.Topics, []string{"g"})
		s.equal("Meta of an Entry", e.Session.Meta, map[string]string{"k": "v"})
		e.Session.Meta["k"], e.Topics[0] = "changed", "changed"
	}
}
