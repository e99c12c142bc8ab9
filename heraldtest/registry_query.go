package heraldtest

import (
	"fmt"

	"github.com/heraldgo/herald"
)

// testOnlineTopics asks about more topics than one script takes.
func testOnlineTopics(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m, dead := s.lease(a, "n"), s.lease(b, "m"), s.lease(a, "dead")
	s.add(a, n, entry("n.1", "42", "g"), entry("n.2", "43"))
	s.add(b, m, entry("m.1", "42"))
	s.add(a, dead, entry("dead.1", "44", "g"))
	var topics []string
	var want []bool
	for i := range 600 {
		topics = append(topics, fmt.Sprint("nobody", i), userTopic("43"))
		want = append(want, false, true)
	}
	topics = append(topics, userTopic("42"), userTopic("44"), "g", "")
	want = append(want, true, true, true, false)
	got, err := b.Online(s.ctx, m, topics...)
	s.check(err)
	s.equal("online", got, want)
	none, err := b.Online(s.ctx, m)
	s.check(err)
	s.equal("online of no topics", len(none), 0)

	s.kill(b, dead)
	s.check(b.Remove(s.ctx, n, entry("n.2", "43")))
	got, err = a.Online(s.ctx, n, userTopic("42"), userTopic("43"), userTopic("44"), "g")
	s.check(err)
	s.equal("online after a death and a Remove", got, []bool{true, false, false, true})
	s.check(b.Sweep(s.ctx, dead))
}

func testHeld(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	s.add(b, m, entry("m.1", "42"))
	ask := func(lease herald.Lease, want error) {
		s.Helper()
		for _, topic := range []string{userTopic("42"), "nobody"} {
			sessions, err := a.Sessions(s.ctx, lease, topic)
			online, err2 := a.Online(s.ctx, lease, topic)
			if want != nil {
				s.wantErr(err, want)
				s.wantErr(err2, want)
				continue
			}
			s.check(err)
			s.check(err2)
			s.equal("online", online[0], topic != "nobody")
			s.equal("sessions", len(sessions[0]) > 0, topic != "nobody")
		}
	}
	ask(n, nil)
	ask(herald.Lease{}, nil)
	ask(herald.Lease{Node: "n", Generation: n.Generation + 1}, herald.ErrLeaseLost)
	ask(herald.Lease{Node: "nobody", Generation: 1}, herald.ErrLeaseLost)
	s.kill(a, n)
	ask(n, herald.ErrLeaseLost)
	_, err := a.KeepAlive(s.ctx, herald.Node{ID: "n", Generation: n.Generation}, long)
	s.check(err)
	ask(n, nil)
	s.check(a.Release(s.ctx, n))
	ask(n, herald.ErrLeaseLost)
}

func testCheck(s *registrySuite) {
	a := s.store.Open()
	n := s.lease(a, "n")
	check := func(lease herald.Lease, entries ...herald.Entry) []herald.Entry {
		s.Helper()
		missing, err := a.Check(s.ctx, lease, entries...)
		s.check(err)
		return missing
	}
	var all []herald.Entry
	for i := range 500 {
		all = append(all, entry(fmt.Sprint("n.", i), fmt.Sprint(i/2), "g", fmt.Sprint("h", i%7)))
	}
	s.equal("missing of none", len(check(n)), 0)
	s.equal("missing before Add", len(check(n, all...)), len(all))
	s.add(a, n, all...)
	s.equal("missing", len(check(n, all...)), 0)
	s.check(a.Remove(s.ctx, n, herald.Entry{Session: all[3].Session, Topics: []string{"g"}}, all[5]))
	missing := check(n, all...)
	s.equal("missing", missing, []herald.Entry{{Session: all[3].Session, Topics: []string{"g"}}, all[5]})
	s.add(a, n, missing...)
	s.equal("missing after it was put back", len(check(n, all...)), 0)

	_, err := a.Check(s.ctx, herald.Lease{Node: "nobody", Generation: 1}, all[0])
	s.wantErr(err, herald.ErrLeaseLost)
	n2 := s.lease(a, "n")
	s.equal("missing under a new lease", len(check(n2, all...)), len(all))
	s.check(a.Release(s.ctx, n2))
	_, err = a.Check(s.ctx, n2, all[0])
	s.wantErr(err, herald.ErrLeaseLost)
}
