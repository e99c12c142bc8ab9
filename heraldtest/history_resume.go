package heraldtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

func testResume(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v := s.visit(one, "user=a&group=g")
	targets := []herald.Target{herald.User("a"), herald.Group("g"), herald.Everyone()}
	for _, to := range []*historyNode{one, two, one} {
		one.send(herald.User("a"), "before")
		v.wants("before")
		v.cut()
		missed := make([][]string, len(targets)) // by topic
		for i, text := range texts("missed", 100) {
			k := i % len(targets)
			missed[k] = append(missed[k], text)
			[]*historyNode{one, two}[i%2].send(targets[k], text)
		}
		one.send(herald.User("a", "b"), "to two users")
		missed[0] = append(missed[0], "to two users")
		one.send(herald.User("b"), "to another")
		v.comes(to)
		two.send(herald.Group("g"), "then")
		missed[1] = append(missed[1], "then")
		v.wantsEach(missed...)
		v.nothing()
		if v.missing || !v.welcome.Resumed {
			s.failf("the welcome says %t, and that something may be missing is %t", v.welcome.Resumed, v.missing)
		}
	}
}

func testCutAgain(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v := s.visit(one, "user=a")
	one.send(herald.User("a"), "before")
	v.wants("before")
	v.cut()
	missed := texts("missed", 200)
	one.send(herald.User("a"), missed...)
	for n := 0; len(missed) > 0; n++ {
		from, _ := v.memory.Resume()
		v.comes([]*historyNode{one, two}[n%2])
		if v.welcome.Positions != from {
			s.failf("the welcome's positions are %v, the client's are %v", v.welcome.Positions, from)
		}
		step := min(70, len(missed))
		v.wants(missed[:step]...)
		missed = missed[step:]
		v.cut()
	}
	v.comes(one)
	v.complete()
}

func testFresh(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	for user, n := range map[string]*historyNode{"a": one, "b": two} {
		v := s.newVisitor("user=" + user)
		v.comes(n)
		if v.welcome.Resumed || v.position() == "" {
			s.failf("a new client's welcome has resumed %t and positions %q", v.welcome.Resumed, v.position())
		}
		v.settled()
		v.cut()
		one.send(herald.User(user), "missed")
		v.comes(one)
		v.complete("missed")
	}
}

func testQuiet(s *historySuite) {
	short := func(c *herald.Config) { c.Retention = time.Second }
	n := s.node(short)
	v, busy := s.visit(n, "user=quiet"), s.visit(n, "user=busy")
	for range 3 {
		at := v.welcome.Positions[0]
		n.send(herald.User("busy"), texts("busy", 10)...)
		busy.wants(texts("busy", 10)...)
		text, err := n.Position(s.Context())
		s.ok(err)
		var end history.Positions
		s.ok(end.UnmarshalText([]byte(text)))
		for at != end[0] {
			f := v.next()
			if f.Kind != device.Mark {
				s.failf("got %s, want a mark", describe(f))
			}
			at = f.At
		}
	}
	v.cut()
	v.comes(n)
	v.complete()
}

func testMeanwhile(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v := s.visit(one, "user=a&group=g")
	const total = 1_500
	all := texts("text", total)
	var sending sync.WaitGroup
	ctx := s.Context()
	sending.Go(func() {
		for i, text := range all {
			target := herald.User("a")
			if i%2 == 1 {
				target = herald.Group("g")
			}
			if err := one.Send(ctx, target, herald.Text(text)); err != nil {
				s.Errorf("send: %v", err)
				return
			}
		}
	})
	for i := 0; len(all) > 0; i++ {
		step := min(97, len(all))
		v.wants(all[:step]...)
		if all = all[step:]; len(all) > 0 {
			v.cut()
			v.comes([]*historyNode{one, two}[i%2])
		}
	}
	sending.Wait()
	v.nothing()
	if v.missing {
		s.failf("told that something may be missing, and nothing is")
	}
}

// shortQueues gives clients short queues.
func shortQueues(c *herald.Config) {
	c.QueueMessages, c.MaxSendSize, c.QueueBytes = 32, 64<<10, 256<<10
	c.WriteTimeout = historyPatience
}

// padded returns n texts of that size at least.
func padded(what string, n, size int) []string {
	all := texts(what, n)
	for i := range all {
		all[i] += strings.Repeat(".", size)
	}
	return all
}

func testBacklog(s *historySuite) {
	n := s.node(shortQueues)
	v := s.visit(n, "user=a")
	for _, backlog := range []struct {
		size, more, last int
	}{
		{10, 0, 0},
		{unread / 100, 200, 100},
	} {
		v.cut()
		missed := padded("missed", 150, backlog.size)
		n.send(herald.User("a"), missed...)
		v.comes(n)
		v.wants(missed[0])
		// It reads nothing, and more comes than its queue holds; and once more when it
		// has read what it missed.
		more := padded("more", backlog.more, backlog.size)
		n.send(herald.User("a"), more...)
		v.wants(missed[1:]...)
		last := texts("last", backlog.last)
		n.send(herald.User("a"), last...)
		v.wants(append(more, last...)...)
		v.nothing()
		if v.missing {
			s.failf("told that something may be missing, and nothing is")
		}
	}
}

func testGroups(s *historySuite) {
	joins := func(c *herald.Config) {
		c.OnConnect = func(ctx context.Context, conn *herald.Conn) error { return conn.Join(ctx, "always") }
	}
	one, two := s.node(joins), s.node(joins)
	v := s.visit(one, "user=a")
	v.cut()
	one.send(herald.Group("always"), "missed")
	one.send(herald.Group("later"), "not a member")
	v.comes(two)
	v.complete("missed")
	s.ok(two.Join(s.Context(), herald.User("a"), "later"))
	one.send(herald.Group("later"), "member")
	v.wants("member")
	v.cut()
	one.send(herald.Group("later"), "missed too")
	v.query.Add("group", "later")
	v.comes(one)
	v.complete("missed too")

	// A Join while a client comes back takes nothing away.
	v.cut()
	missed := texts("missed", 200)
	one.send(herald.User("a"), missed...)
	v.comes(two)
	for i := range 10 {
		s.ok(one.Join(s.Context(), herald.User("a"), fmt.Sprint("group ", i)))
		one.send(herald.Group(fmt.Sprint("group ", i)), fmt.Sprint("joined ", i))
	}
	got := v.back()
	for len(got) < len(missed)+10 {
		got = append(got, v.message())
	}
	seen := make(map[string]int)
	for _, text := range got {
		seen[text]++
	}
	for _, text := range append(missed, texts("joined", 10)...) {
		if seen[text] != 1 {
			s.failf("%q came %d times", text, seen[text])
		}
	}
	v.nothing()
}

func testLostGroup(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v := s.visit(one, "user=a&group=kept&group=lost")
	v.cut()
	for i := range 20 {
		one.send(herald.Group("lost"), fmt.Sprint("lost ", i))
		one.send(herald.Group("lost", "kept"), fmt.Sprint("kept ", i))
	}
	v.query["group"] = []string{"kept"}
	v.comes(two)
	v.complete(texts("kept", 20)...)
	v.nothing()

	// It loses the group while it comes back, and has not read all.
	n := s.node(shortQueues)
	slow := s.visit(n, "user=b&group=lost")
	slow.cut()
	missed := padded("missed", 150, unread/100)
	n.send(herald.Group("lost"), missed...)
	slow.comes(n)
	slow.wants(missed[0])
	s.ok(one.Leave(s.Context(), herald.User("b"), "lost"))
	if got := slow.back(); len(got) == len(missed)-1 {
		s.failf("all that was sent to the group came, though it was lost")
	}
	slow.nothing()
}

func testFilters(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v, other := s.visit(one, "user=a&platform=web"), s.visit(two, "user=a&platform=ios")
	all := []*visitor{v, other}
	before := one.conn(v).ID()
	v.cut()
	other.cut()
	target := herald.User("a")
	send := func(suffix string) {
		one.send(target.Except(before), "except"+suffix)
		one.send(target.ExceptUser("a"), "nobody"+suffix)
		one.send(target.On("ios"), "ios"+suffix)
		one.send(target.On("web"), "web"+suffix)
		one.send(target, "all"+suffix)
	}
	send("")
	for _, v := range all {
		v.comes(one)
	}
	v.complete("web", "all")
	other.complete("except", "ios", "all")
	send(" live")
	v.wants("web live", "all live")
	other.wants("except live", "ios live", "all live")
	v.cut()
	v.comes(two)
	v.complete()
	v.nothing()
}
