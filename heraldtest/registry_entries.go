package heraldtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

func testAdd(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	for _, generation := range []int64{0, 1} {
		_, err := a.Add(s.ctx, herald.Lease{Node: "n", Generation: generation}, entry("n.1", "42"))
		s.wantErr(err, herald.ErrLeaseLost)
	}
	lease := s.lease(a, "n")
	_, err := a.Add(s.ctx, herald.Lease{Node: "other", Generation: lease.Generation}, entry("n.1", "42"))
	s.wantErr(err, herald.ErrLeaseLost)
	s.wantIDs(b, userTopic("42"))

	e := entry("n.1", "42", "g1", "g2")
	e.Session.Device, e.Session.Platform, e.Session.RemoteAddr = "phone", "ios", "192.0.2.1:5"
	e.Session.Meta = map[string]string{"k": "v", "": "empty"}
	added := s.add(a, lease, e, entry("n.2", "42", "g2"))
	want := e.Session
	want.Node, want.Since = "n", added[0].Since
	for _, topic := range []string{userTopic("42"), "g1", "g2"} {
		s.equal("first session of "+topic, s.sessions(b, topic)[0], want)
	}
	s.wantIDs(b, "g1", "n.1")
	s.wantIDs(b, "g2", "n.1", "n.2")

	e.Session.Device = "tablet"
	s.add(a, lease, e)
	s.wantIDs(b, "g1", "n.1")
	s.equal("device after the second Add", s.sessions(b, "g1")[0].Device, "tablet")
	s.add(a, lease)

	// Many at once, more than one pipeline holds.
	var many []herald.Entry
	for i := range 1200 {
		many = append(many, entry(fmt.Sprintf("n.m%d", i), fmt.Sprintf("m%d", i), "many"))
	}
	s.add(a, lease, many...)
	s.equal("sessions of many", len(s.sessions(b, "many")), len(many))
}

func testSince(s *registrySuite) {
	a := s.store.Open()
	lease, dead := s.lease(a, "n"), s.lease(a, "dead")
	_, now, err := a.Nodes(s.ctx)
	s.check(err)
	future := now.Add(time.Hour)
	last := now.Add(-time.Microsecond)
	e := entry("dead.1", "42")
	e.Session.Since = future
	for i, added := range s.add(a, lease, entry("n.1", "42"), entry("n.2", "42"), entry("n.3", "42")) {
		if !added.Since.After(last) {
			s.fail("Since of session %d is %v, not after %v", i, added.Since, last)
		}
		last = added.Since
	}
	s.equal("Since that was set", s.add(a, dead, e)[0].Since.Equal(future), true)
	s.kill(a, dead)
	if added := s.add(a, lease, entry("n.4", "42"))[0]; !added.Since.After(future) {
		s.fail("Since is %v, not after %v of a dead node's Session", added.Since, future)
	}
	before := s.sessions(a, userTopic("42"))
	s.equal("Since added again", s.add(a, lease, entry("n.1", "42"))[0].Since.Equal(before[0].Since), true)
	s.equal("sessions", s.sessions(a, userTopic("42")), before)
}

func testOlder(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m, dead := s.lease(a, "n"), s.lease(b, "m"), s.lease(a, "dead")
	e := entry("n.1", "42")
	e.Session.Device, e.Session.Meta = "phone", map[string]string{"k": "v"}
	first := s.add(a, n, asking(e)...)[0]
	s.equal("Older of the first", len(first.Older), 0)
	s.add(a, dead, entry("dead.1", "42"))
	second := s.add(b, m, asking(entry("m.1", "42"), entry("m.2", "other"))...)
	s.equal("Older of the third", ids(second[0].Older), []string{"n.1", "dead.1"})
	want := e.Session
	want.Node, want.Since = "n", first.Since
	s.equal("an older Session", second[0].Older[0], want)
	s.equal("Older of another user", len(second[1].Older), 0)
	s.kill(a, dead)
	s.equal("Older without the dead", ids(s.add(a, n, asking(entry("n.2", "42"))...)[0].Older), []string{"n.1", "m.1"})
	s.equal("Older of the first, added again", len(s.add(a, n, asking(e)...)[0].Older), 0)

	group := herald.Entry{Session: herald.Session{ID: "n.9", User: "9"}, Topics: []string{userTopic("42")}}
	s.equal("Older without a UserTopic", len(s.add(a, n, asking(group)...)[0].Older), 0)
}

func testOlderBounded(s *registrySuite) {
	a := s.store.Open()
	n := s.lease(a, "n")
	ask := func(id string, most int) herald.Added {
		s.Helper()
		e := entry(id, "42")
		e.Older = most
		return s.add(a, n, e)[0]
	}
	for i := range 20 {
		ask(fmt.Sprintf("n.%02d", i), 0)
	}
	for most, want := range map[int][]string{
		-1: {},
		0:  {},
		3:  {"n.00", "n.01", "n.02"},
	} {
		added := ask("n.99", most)
		s.equal(fmt.Sprintf("Older, %d asked for", most), ids(added.Older), want)
		if most > 0 {
			s.equal("OlderTotal", added.OlderTotal, 20)
		}
	}
	added := ask("n.99", 1000)
	s.equal("Older, enough asked for", len(added.Older), 20)
	s.equal("OlderTotal", added.OlderTotal, 20)
	added = ask("n.05", 3)
	s.equal("Older of one in the middle", ids(added.Older), []string{"n.00", "n.01", "n.02"})
	s.equal("OlderTotal of one in the middle", added.OlderTotal, 5)
}

func testOnline(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	online := func(r herald.Registry, lease herald.Lease, id string, want bool) {
		s.Helper()
		s.equal("Online of "+id, s.add(r, lease, entry(id, "42"))[0].Online, want)
	}
	group := herald.Entry{Session: herald.Session{ID: "n.0", User: "42"}, Topics: []string{"g"}}
	s.equal("Online without a UserTopic", s.add(a, n, group)[0].Online, false)
	online(a, n, "n.1", true)
	online(b, m, "m.1", false)
	s.check(a.Remove(s.ctx, n, entry("n.1", "42")))
	online(a, n, "n.2", false)
	s.check(a.Remove(s.ctx, n, entry("n.2", "42")))
	s.check(b.Remove(s.ctx, m, entry("m.1", "42")))
	online(a, n, "n.3", false) // nobody has reported it
	s.equal("users offline", s.offline(b, 0), []string{})
	s.check(a.Remove(s.ctx, n, entry("n.3", "42")))
	s.equal("users offline", s.offline(b, 0), []string{"42"})
	online(b, m, "m.2", true)
	s.kill(b, m)
	online(a, n, "n.4", false) // nobody has swept the dead one
}

func testAgain(s *registrySuite) {
	a := s.store.Open()
	n := s.lease(a, "n")
	first := s.add(a, n, entry("n.1", "42"))
	s.equal("Online", first[0].Online, true)
	s.equal("answer again", s.add(a, n, entry("n.1", "42")), first)
	second := s.add(a, n, entry("n.2", "42"))
	s.equal("answer again", s.add(a, n, entry("n.1", "42")), first)
	s.equal("answer again", s.add(a, n, entry("n.2", "42")), second)
	s.check(a.Remove(s.ctx, n, entry("n.1", "42"), entry("n.2", "42")))
	third := s.add(a, n, entry("n.3", "42"))
	s.equal("Online of a user who was about to go", third[0].Online, false)
	s.equal("answer again", s.add(a, n, entry("n.3", "42")), third)
	n = s.lease(a, "n")
	s.equal("Online under a new generation", s.add(a, n, entry("n.3", "42"))[0].Online, false)
}

func testRacingAdds(s *registrySuite) {
	const each = 25
	type done struct {
		id    string
		added herald.Added
	}
	var mu sync.Mutex
	var all []done
	var wg sync.WaitGroup
	for h := range 4 {
		r := s.store.Open()
		lease := s.lease(r, fmt.Sprintf("n%d", h))
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%s.%d", lease.Node, i)
				added, err := r.Add(s.ctx, lease, asking(entry(id, "42"))...)
				if err != nil {
					s.Errorf("add: %v", err)
					return
				}
				mu.Lock()
				all = append(all, done{id, added[0]})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b done) int { return a.added.Since.Compare(b.added.Since) })
	var older []string
	for i, d := range all {
		if i > 0 && !d.added.Since.After(all[i-1].added.Since) {
			s.fail("%s and %s share the Since %v", all[i-1].id, d.id, d.added.Since)
		}
		s.equal("Online of "+d.id, d.added.Online, i == 0)
		s.equal("Older of "+d.id, ids(d.added.Older), append([]string{}, older...))
		older = append(older, d.id)
	}
	s.equal("sessions", len(all), 4*each)
}

func testRemove(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n := s.lease(a, "n")
	s.add(a, n, entry("n.1", "42", "g"), entry("n.11", "42", "g"), entry("n.1 ", "42", "g"))
	s.check(b.Remove(s.ctx, n, entry("n", "42", "g"), entry("n.", "42", "g"), entry("n.1*", "42", "g"), entry("n.2", "42", "g")))
	s.wantIDs(b, "g", "n.1", "n.11", "n.1 ")

	leave := herald.Entry{Session: herald.Session{ID: "n.1"}, Topics: []string{"g"}}
	s.check(a.Remove(s.ctx, n, leave))
	s.wantIDs(b, "g", "n.11", "n.1 ")
	s.wantIDs(b, userTopic("42"), "n.1", "n.11", "n.1 ")
	s.check(a.Remove(s.ctx, n, leave))
	s.check(a.Remove(s.ctx, n))

	// A lease that is long gone, and one that nobody ever had.
	n2 := s.lease(a, "n")
	s.add(a, n2, entry("n.3", "42", "g"))
	s.check(a.Remove(s.ctx, n, entry("n.3", "42", "g")))
	s.check(b.Remove(s.ctx, herald.Lease{Node: "x", Generation: 7}, entry("n.11", "42", "g"), entry("n.1", "42"), entry("n.1 ", "42", "g")))
	s.wantIDs(b, "g")
	s.wantIDs(b, userTopic("42"))
	s.equal("entries", len(s.entries(a, n2)), 0)
	s.equal("users offline", s.offline(a, 0), []string{"42"})
}

func testSessions(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	none, err := a.Sessions(s.ctx, n)
	s.check(err)
	s.equal("sessions of no topics", len(none), 0)
	_, now, err := a.Nodes(s.ctx)
	s.check(err)
	topics := make([]string, 1100)
	want := make([][]string, len(topics))
	for i := range topics {
		topics[i] = fmt.Sprintf("t%d", i%1000) // some twice
		want[i] = []string{}
		if i%1000%100 == 7 {
			want[i] = []string{"m.1", "n.2", "n.1"}
		}
	}
	at := func(id string, since time.Duration) herald.Entry {
		e := herald.Entry{Session: herald.Session{ID: id, Since: now.Add(since)}}
		for i := 7; i < 1000; i += 100 {
			e.Topics = append(e.Topics, topics[i])
		}
		return e
	}
	s.add(a, n, at("n.1", time.Second), at("n.2", time.Millisecond))
	s.add(b, m, at("m.1", time.Microsecond))
	for _, r := range []herald.Registry{a, b} {
		all, err := r.Sessions(s.ctx, n, topics...)
		s.check(err)
		var got [][]string
		for _, sessions := range all {
			got = append(got, ids(sessions))
		}
		s.equal("sessions", got, want)
	}
}

func testEntries(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	s.equal("entries", len(s.entries(a, n)), 0)
	var all []herald.Entry
	want := make(map[string]herald.Entry)
	for i := range 700 {
		e := entry(fmt.Sprintf("n.%d", i), fmt.Sprint(i/2), fmt.Sprint("g", i%5), "h")
		e.Session.Meta = map[string]string{"i": fmt.Sprint(i)}
		all = append(all, e)
	}
	for i, added := range s.add(a, n, all...) {
		all[i].Session.Since, all[i].Session.Node = added.Since, "n"
		want[all[i].Session.ID] = all[i]
	}
	s.add(b, m, entry("m.1", "0", "h"))
	s.equal("entries", s.entries(b, n), want)
	s.check(a.Remove(s.ctx, n, all[3], herald.Entry{Session: all[4].Session, Topics: []string{"h"}}))
	delete(want, all[3].Session.ID)
	all[4].Topics = []string{"g4"}
	want[all[4].Session.ID] = all[4]
	s.equal("entries after Remove", s.entries(b, n), want)

	n2 := s.lease(a, "n")
	s.add(a, n2, all[5])
	delete(want, all[5].Session.ID)
	s.equal("entries of the old generation", s.entries(b, n), want)
	s.equal("entries of the new generation", slices.Collect(maps.Keys(s.entries(b, n2))), []string{all[5].Session.ID})
	s.equal("entries of nobody", len(s.entries(b, herald.Lease{Node: "x", Generation: 1})), 0)
}

// nasty are names that a separator, a pattern or a terminator could break.
var nasty = []string{
	"", " ", "*", "?", "[a]", "{", "}", "{0}", ":", "::", "a.b", ".", "a", "a:b", "a b", "1:a", "1 2 1 3:x", "\n", "\r\n", "\x00", "\x00\x00", "a\x00",
	"北京", "\xff\xfe", "%d", "$1", "'", `"`, `\`, "t:", "nodes", "gone", "-1", strings.Repeat("x", 190),
}

func testNames(s *registrySuite) {
	a, b := s.store.Open(), s.store.Open()
	leases := make(map[string]herald.Lease)
	for _, name := range nasty {
		leases[name] = s.lease(a, name)
	}
	nodes, _, err := b.Nodes(s.ctx)
	s.check(err)
	s.equal("nodes", len(nodes), len(nasty))
	want := make(map[string]herald.Session)
	for i, name := range nasty {
		e := entry(name, name, name)
		e.Session.Device, e.Session.Platform, e.Session.RemoteAddr = name, nasty[len(nasty)-1-i], name
		e.Session.Meta = map[string]string{name: name, name + "2": ""}
		if i%7 == 0 {
			e.Session.User = strings.Repeat(name+"long", 5<<10/(len(name)+4))
		}
		added := s.add(a, leases[name], e)[0]
		s.equal(fmt.Sprintf("Online of %q", name), added.Online, true)
		e.Session.Node, e.Session.Since = name, added.Since
		want[name] = e.Session
	}
	for _, name := range nasty {
		for _, topic := range []string{name, userTopic(name)} {
			if topic != "" {
				s.equal(fmt.Sprintf("sessions of %q", topic), s.sessions(b, topic), []herald.Session{want[name]})
			}
		}
		e := s.entries(b, leases[name])
		s.equal(fmt.Sprintf("entries of %q", name), e[name].Session, want[name])
		s.equal(fmt.Sprintf("topics of %q", name), append(e[name].Topics, e[name].UserTopic), []string{name, userTopic(name)})
	}
	var users []string
	for i, name := range nasty {
		users = append(users, want[name].User)
		if i%2 == 0 {
			s.check(b.Remove(s.ctx, leases[name], entry(name, name, name)))
		} else {
			s.kill(a, leases[name])
			s.check(b.Sweep(s.ctx, leases[name]))
		}
		s.wantIDs(b, userTopic(name))
	}
	slices.Sort(users)
	s.equal("users offline", s.offline(b, 0), users)
}
