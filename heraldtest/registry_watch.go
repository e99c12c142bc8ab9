package heraldtest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

// watchable returns the handle as one whose topics can be watched. The suite skips
// what needs it if the Registry has none.
func (s *registrySuite) watchable(r herald.Registry) herald.WatchRegistry {
	s.Helper()
	w, ok := r.(herald.WatchRegistry)
	if !ok {
		s.Skipf("a %T cannot be watched, so nobody tried: promise %s", r, s.promise)
	}
	return w
}

func (s *registrySuite) openWatchable() herald.WatchRegistry {
	s.Helper()
	return s.watchable(s.store.Open())
}

// watch watches one topic.
func (s *registrySuite) watch(r herald.WatchRegistry, topic string) herald.Watched {
	s.Helper()
	all, err := r.Watch(s.ctx, herald.Lease{}, long, topic)
	s.check(err)
	if len(all) != 1 {
		s.fail("Watch of one topic answered %d", len(all))
	}
	if all[0].Number <= 0 {
		s.fail("number is %d, want above 0", all[0].Number)
	}
	return all[0]
}

// wantChanges takes the changes that a handle has made, and checks who came (+) and
// who left (-), in the order of their numbers, which go on from the last. It returns
// the number of the last one.
func (s *registrySuite) wantChanges(r herald.WatchRegistry, topic string, last int64, want ...string) int64 {
	s.Helper()
	got := []string{}
	for _, c := range r.Changes() {
		if c.Topic != topic {
			s.fail("a change of topic %q, which is not watched", c.Topic)
		}
		if last++; c.Number != last {
			s.fail("a change has number %d, want %d", c.Number, last)
		}
		sign := "+"
		if c.Left {
			sign = "-"
		}
		got = append(got, sign+c.Session.ID)
	}
	s.equal(fmt.Sprintf("changes of %q", topic), got, append([]string{}, want...))
	return last
}

func testWatch(s *registrySuite) {
	a, b := s.openWatchable(), s.openWatchable()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	s.add(a, n, entry("n.1", "42", "g"))
	s.add(b, m, entry("m.1", "43", "g", "h"))
	got, err := a.Watch(s.ctx, n, long, "g", "nobody", "h")
	s.check(err)
	s.equal("answers", len(got), 3)
	for i, topic := range []string{"g", "nobody", "h"} {
		s.equal(fmt.Sprintf("sessions of %q", topic), got[i].Sessions, s.sessions(b, topic))
	}
	again := s.watch(b, "g")
	s.equal("the number while nothing changes", again.Number, got[0].Number)
	s.add(b, m, entry("m.2", "43", "g"))
	s.check(a.Remove(s.ctx, n, entry("n.1", "42", "g")))
	after := s.watch(b, "g")
	s.equal("the number after two changes", after.Number, got[0].Number+2)
	s.equal("sessions after two changes", ids(after.Sessions), []string{"m.1", "m.2"})
	none, err := a.Watch(s.ctx, n, long)
	s.check(err)
	s.equal("answers about no topics", len(none), 0)

	_, err = a.Watch(s.ctx, herald.Lease{Node: "nobody", Generation: 1}, long, "g")
	s.wantErr(err, herald.ErrLeaseLost)
	// A handle that asks must have seen the end of the lease, on each server if there
	// are several.
	s.kill(a, m)
	s.equal("sessions of living nodes", len(s.watch(a, "g").Sessions), 0)
	s.kill(b, m)
	_, err = b.Watch(s.ctx, m, long, "g")
	s.wantErr(err, herald.ErrLeaseLost)
}

// testDay marks a topic for longer than any mark lasts.
func testDay(s *registrySuite) {
	pass := s.store.Advance
	if pass == nil {
		pass = s.store.Step
	}
	if pass == nil {
		s.Skipf("the store has neither Advance nor Step, so nobody tried: promise %s", s.promise)
	}
	a, b := s.openWatchable(), s.openWatchable()
	n := s.lease(a, "n")
	_, err := b.Watch(s.ctx, herald.Lease{}, 3*long, "g")
	s.check(err)
	s.add(a, n, entry("n.1", "42", "g"))
	s.equal("changes at once", len(a.Changes()), 1)
	pass(long + time.Hour)
	s.add(a, n, entry("n.2", "43", "g"))
	s.equal("changes after a day", len(a.Changes()), 0)
}

func testNumbers(s *registrySuite) {
	a, b := s.openWatchable(), s.openWatchable()
	n, m := s.lease(a, "n"), s.lease(b, "m")
	s.add(a, n, entry("n.0", "42", "g"))
	last := s.watch(b, "g").Number
	s.add(a, n, entry("n.1", "42", "g", "h"), entry("n.2", "43", "g"), entry("n.3", "43", "h"))
	last = s.wantChanges(a, "g", last, "+n.1", "+n.2")
	s.add(b, m, entry("m.1", "43", "g"))
	last = s.wantChanges(b, "g", last, "+m.1")
	s.add(a, n, entry("n.1", "42", "g", "h")) // again
	s.check(a.Remove(s.ctx, n, entry("n.9", "42", "g"), entry("n.3", "43", "h")))
	last = s.wantChanges(a, "g", last)
	s.check(b.Remove(s.ctx, m, entry("n.1", "42", "g", "h"))) // another's
	last = s.wantChanges(b, "g", last, "-n.1")
	s.add(a, n, entry("n.1", "42", "g"))
	last = s.wantChanges(a, "g", last, "+n.1")
	s.equal("the number of the last change", s.watch(a, "g").Number, last)

	// A mark that runs out.
	const brief = 20 * time.Millisecond
	got, err := a.Watch(s.ctx, herald.Lease{}, brief, "brief")
	s.check(err)
	i := 0
	s.await("the mark to run out", brief, func() bool {
		i++
		s.add(a, n, entry(fmt.Sprint("n.1", i), "44", "brief"))
		return len(a.Changes()) == 0
	})
	if again := s.watch(b, "brief"); again.Number <= got[0].Number+int64(i-1) {
		s.fail("a mark that is made anew begins at %d, and %d had been given", again.Number, got[0].Number+int64(i-1))
	}
	// A shorter mark does not end a longer one.
	s.watch(b, "g")
	_, err = a.Watch(s.ctx, herald.Lease{}, time.Millisecond, "g")
	s.check(err)
	before := time.Now()
	s.await("more than a millisecond", brief, func() bool { return time.Since(before) > brief })
	s.add(a, n, entry("n.5", "42", "g"))
	s.wantChanges(a, "g", last, "+n.5")
}

func testSweptChanges(s *registrySuite) {
	a, b := s.openWatchable(), s.openWatchable()
	dead, m := s.lease(a, "dead"), s.lease(b, "m")
	var all []herald.Entry
	for i := range 300 { // more than one step of a sweep
		all = append(all, entry(fmt.Sprint("dead.", i), "42", "g", "h"))
	}
	s.add(a, dead, all...)
	s.add(b, m, entry("m.1", "42", "g"))
	last := s.watch(b, "g").Number
	s.kill(b, dead)
	back := s.lease(a, "dead")
	s.add(a, back, all[7])
	last = s.wantChanges(a, "g", last, "+dead.7")
	s.check(b.Sweep(s.ctx, dead))
	swept := make(map[string]bool)
	for _, c := range b.Changes() {
		if last++; c.Number != last || c.Topic != "g" || !c.Left || swept[c.Session.ID] {
			s.fail("swept: change %+v, want number %d", c, last)
		}
		swept[c.Session.ID] = true
	}
	s.equal("swept sessions", len(swept), len(all)-1)
	s.equal("a session that was back before the sweep was swept", swept["dead.7"], false)
	s.check(a.Sweep(s.ctx, dead))
	s.wantChanges(a, "g", last)
	s.equal("the number of the last change", s.watch(a, "g").Number, last)
	s.wantIDs(a, "g", "dead.7", "m.1")
}

// testRacingChanges joins lists and changes while others change the topic.
func testRacingChanges(s *registrySuite) {
	const writers, rounds = 4, 25
	var mu sync.Mutex
	changes := make(map[int64]herald.Change)
	lists := []herald.Watched{s.watch(s.openWatchable(), "g")}
	first := lists[0].Number
	var wg sync.WaitGroup
	for w := range writers {
		r := s.openWatchable()
		lease := s.lease(r, fmt.Sprint("n", w))
		wg.Go(func() {
			for i := range rounds {
				e := entry(fmt.Sprint("n", w, ".", i%3), fmt.Sprint(w), "g")
				if _, err := r.Add(s.ctx, lease, e); err != nil {
					s.Errorf("Add: %v", err)
				}
				if i%2 == 1 {
					if err := r.Remove(s.ctx, lease, e); err != nil {
						s.Errorf("Remove: %v", err)
					}
				}
				list, err := r.Watch(s.ctx, herald.Lease{}, long, "g")
				if err != nil {
					s.Errorf("Watch: %v", err)
					return
				}
				mu.Lock()
				lists = append(lists, list...)
				for _, c := range r.Changes() {
					if _, twice := changes[c.Number]; twice {
						s.Errorf("number %d was given twice", c.Number)
					}
					changes[c.Number] = c
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := first + 1; n <= first+int64(len(changes)); n++ {
		if _, ok := changes[n]; !ok {
			s.fail("of %d changes none has number %d", len(changes), n)
		}
	}
	for _, list := range lists {
		there := make(map[string]bool)
		for n := first + 1; n <= list.Number; n++ {
			if c := changes[n]; c.Left {
				delete(there, c.Session.ID)
			} else {
				there[c.Session.ID] = true
			}
		}
		got := ids(list.Sessions)
		slices.Sort(got)
		s.equal(fmt.Sprintf("the list with number %d, and the changes up to it", list.Number), got, append([]string{}, slices.Sorted(maps.Keys(there))...))
	}
}

func testChanges(s *registrySuite) {
	a, b := s.openWatchable(), s.openWatchable()
	n := s.lease(a, "n")
	last := s.watch(a, "g").Number
	e := herald.Entry{
		Session:   herald.Session{ID: "n.1", User: "42", Device: "d", Platform: "p", RemoteAddr: "r", Meta: map[string]string{"k": "v"}},
		UserTopic: userTopic("42"), Topics: []string{"g"},
	}
	s.add(a, n, e)
	s.wantChanges(b, "g", last) // not those of another handle
	changes := a.Changes()
	s.equal("changes", len(changes), 1)
	s.equal("the session that came", changes[0].Session, s.sessions(b, "g")[0])
	s.wantChanges(a, "g", last+1)
	s.check(a.Remove(s.ctx, n, e))
	s.wantChanges(a, "g", last+1, "-n.1")
	var many []herald.Entry
	for i := range 2_000 {
		many = append(many, entry(fmt.Sprint("n.", i), "42", "g"))
	}
	s.add(a, n, many...)
	s.equal("changes that waited", len(a.Changes()), len(many))
}

func testUnwatched(s *registrySuite) {
	a, b := s.openWatchable(), s.openWatchable()
	n := s.lease(a, "n")
	change := func() {
		s.add(a, n, entry("n.1", "42", "h", "i"))
		s.check(a.Remove(s.ctx, n, entry("n.1", "42", "h", "i")))
	}
	change()
	last := s.watch(b, "g").Number
	change()
	s.wantChanges(a, "g", last)
	s.wantIDs(a, "h")
}
