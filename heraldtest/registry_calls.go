package heraldtest

import (
	"context"
	"fmt"
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

// calls are all methods, by name.
func calls(r herald.Registry, lease herald.Lease, id string) map[string]func(context.Context) error {
	e := entry(id, "42", "g")
	node := herald.Node{ID: lease.Node, Generation: lease.Generation}
	return map[string]func(context.Context) error{
		"Add":       func(ctx context.Context) error { _, err := r.Add(ctx, lease, e); return err },
		"Remove":    func(ctx context.Context) error { return r.Remove(ctx, lease, e) },
		"Sessions":  func(ctx context.Context) error { _, err := r.Sessions(ctx, "g"); return err },
		"KeepAlive": func(ctx context.Context) error { _, err := r.KeepAlive(ctx, node, long); return err },
		"Nodes":     func(ctx context.Context) error { _, _, err := r.Nodes(ctx); return err },
		"Sweep":     func(ctx context.Context) error { return r.Sweep(ctx, lease) },
		"Offline":   func(ctx context.Context) error { _, err := r.Offline(ctx, time.Hour); return err },
		"Entries":   func(ctx context.Context) error { _, _, err := r.Entries(ctx, lease, ""); return err },
		"Release": func(ctx context.Context) error {
			return r.Release(ctx, herald.Lease{Node: lease.Node, Generation: lease.Generation + 1})
		},
	}
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
		all, err := a.Sessions(s.ctx, topics...)
		s.check(err)
		s.equal("sessions", len(all[0]), 1)
		s.equal("Meta", all[0][0].Meta, map[string]string{"k": "v"})
		all[0][0].Meta["k"] = "changed"
		topics[0] = "changed"
		all[0] = nil
		topics = []string{"g"}

		older := s.add(a, n, entry("n.2", "42"))[0].Older
		s.equal("Meta of an older Session", older[0].Meta, map[string]string{"k": "v"})
		older[0].Meta["k"] = "changed"

		e := s.entries(a, n)["n.1"]
		s.equal("topics", e.Topics, []string{"g"})
		s.equal("Meta of an Entry", e.Session.Meta, map[string]string{"k": "v"})
		e.Session.Meta["k"], e.Topics[0] = "changed", "changed"
	}
}
