package heraldtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

func testNotKept(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v, there := s.visit(one, "user=a"), s.visit(two, "user=a")
	ctx := s.Context()
	id := one.conn(v).ID()
	s.ok(two.Send(ctx, herald.Connection(id), herald.Text("to a connection")))
	v.wants("to a connection")
	v.cut()
	s.ok(one.Send(ctx, herald.User("a"), herald.Text("volatile").Volatile()))
	s.ok(one.Send(ctx, herald.User("a"), herald.Text("unkept").Unkept()))
	there.wants("volatile", "unkept")
	s.ok(one.Send(ctx, herald.Connection(id, two.conn(there).ID()), herald.Text("to connections")))
	there.wants("to connections") // to another topic than the rest, so in no promised order
	one.send(herald.User("a"), "kept")
	there.wants("kept")
	v.comes(two)
	v.complete("kept")
	there.cut()
	there.comes(one)
	there.complete()
}

func testCopies(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v := s.visit(one, "user=a&group=g1&group=g2&group=g3&group=g50&group=g90")
	three := herald.Group("g1", "g2", "g3")
	one.send(three, "live")
	v.wants("live")
	v.nothing()
	v.cut()
	missed := texts("missed", 50)
	two.send(three, missed...)
	many := make([]string, 100) // more than an entry has topics
	for i := range many {
		many[i] = fmt.Sprint("g", i)
	}
	two.send(herald.Group(many...), "many")
	v.comes(two)
	got := v.back()
	if i := slices.Index(got, "many"); i >= 0 { // it may come from another partition
		got = slices.Delete(got, i, i+1)
	}
	if !slices.Equal(got, missed) || v.missing {
		s.failf("got %s, and that something may be missing is %t", abridged(got), v.missing)
	}
	one.send(three, "live")
	v.wants("live")
	two.send(herald.Group(many...), "many, live")
	v.wants("many, live")
	v.nothing()
	if v.copies > 0 {
		s.failf("%d messages came twice on one connection, and the client had to leave them out", v.copies)
	}
}

func testPosition(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	one.send(herald.User("a"), "before")
	position, err := two.Position(s.Context())
	s.ok(err)
	one.send(herald.User("a"), "after", "and more")
	v := s.at("user=a", position)
	v.comes(two)
	v.complete("after", "and more")
	v.nothing()
}

// at returns a visitor who begins at a position.
func (s *historySuite) at(query, position string) *visitor {
	s.Helper()
	var from history.Positions
	s.ok(from.UnmarshalText([]byte(position)))
	v := s.newVisitor(query)
	v.memory = device.NewClient(from, nil)
	return v
}

func testUnknownPositions(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	one.send(herald.User("a"), "kept")
	now, err := one.Position(s.Context())
	s.ok(err)
	var at history.Positions
	s.ok(at.UnmarshalText([]byte(now)))
	future, strange := at, at
	future[0].Offset += 1_000_000
	strange[0].Epoch ^= 1 << 40
	strange[0].Offset = 0
	for name, from := range map[string]history.Positions{"future": future, "unknown epoch": strange} {
		v := s.newVisitor("user=a")
		v.memory = device.NewClient(from, nil)
		v.comes(two)
		v.back()
		if !v.missing {
			s.failf("a position (%s) was taken as complete", name)
		}
		one.send(herald.User("a"), "live")
		v.wants("live")
		v.cut()
		if from == future {
			continue // a client never goes back within an epoch
		}
		one.send(herald.User("a"), "missed")
		v.comes(one)
		v.complete("missed")
		v.cut()
	}
}

// gone waits until a client that was somewhere is told that it lacks something.
// Before that it gets all. Meanwhile messages go to others.
func (s *historySuite) gone(n *historyNode, query, position string, all []string) {
	s.Helper()
	s.await("nothing that was kept goes", func() bool {
		n.send(herald.User("another"), "another")
		v := s.at(query, position)
		v.comes(n)
		got := v.back()
		v.cut()
		if !v.missing && strings.Join(got, ",") != strings.Join(all, ",") {
			s.failf("got %s of %s, and not told that something is missing", abridged(got), abridged(all))
		}
		return v.missing
	})
}

func testRetention(s *historySuite) {
	n := s.node(func(c *herald.Config) { c.Retention = time.Second })
	position, err := n.Position(s.Context())
	s.ok(err)
	missed := texts("missed", 10)
	n.send(herald.User("a"), missed...)
	s.gone(n, "user=a", position, missed)
	// A client that lacks nothing is not told, however long ago it was here.
	v := s.at("user=b", position)
	v.comes(n)
	v.back()
}

func testRetentionBytes(s *historySuite) {
	n := s.node(func(c *herald.Config) { c.MaxSendSize, c.RetentionBytes = 32<<10, 64<<10 })
	position, err := n.Position(s.Context())
	s.ok(err)
	var missed []string
	for i := range 30 {
		text := fmt.Sprint(i, strings.Repeat(".", 8<<10))
		n.send(herald.User("a"), text)
		missed = append(missed, text)
	}
	s.gone(n, "user=a", position, missed)
	v := s.at("user=a", position)
	v.comes(n)
	got := v.incomplete()
	if len(got) == 0 || got[len(got)-1] != missed[len(missed)-1] {
		s.failf("the newest is not there: got %s", abridged(got))
	}
}

func testDropOldest(s *historySuite) {
	n := s.node(func(c *herald.Config) {
		c.DropOldest, c.QueueMessages, c.MaxSendSize, c.WriteTimeout = true, 16, 64<<10, historyPatience
	})
	v := s.visit(n, "user=a")
	const total = 800 // more than the kernel holds
	for i := range total {
		n.send(herald.User("a"), fmt.Sprintf("%03d%s", i, strings.Repeat(".", 32<<10)))
	}
	last, told, gaps := -1, false, 0
	for last < total-1 {
		switch f := v.next(); f.Kind {
		case device.Gap:
			if told {
				s.failf("two gaps, and nothing between them")
			}
			told, gaps = true, gaps+1
		case device.Message:
			i, err := strconv.Atoi(string(f.Body[:3]))
			s.ok(err)
			if i != last+1 && !told {
				s.failf("%d came behind %d, and no gap between them", i, last)
			}
			if i <= last {
				s.failf("%d came behind %d", i, last)
			}
			last, told = i, false
		}
	}
	if gaps == 0 {
		s.failf("nothing was dropped")
	}
	v.cut()
	n.send(herald.User("a"), "missed")
	v.comes(n)
	v.complete("missed")
}

func testForget(s *historySuite) {
	one, two := s.node(nil), s.node(nil)
	v, other := s.visit(one, "user=a&group=g"), s.visit(one, "user=b&group=g")
	v.cut()
	other.cut()
	one.send(herald.User("a"), "forgotten")
	one.send(herald.Group("g"), "kept")
	s.ok(two.Forget(s.Context(), herald.User("a")))
	v.comes(two)
	if got := v.incomplete(); len(got) != 1 || got[0] != "kept" {
		s.failf("got %q", got)
	}
	other.comes(one)
	other.complete("kept")
	one.send(herald.User("a"), "live")
	v.wants("live")
	v.cut()
	one.send(herald.User("a"), "missed")
	v.comes(one)
	v.complete("missed")
	if err := one.Forget(s.Context(), herald.Connection("x.1")); !errors.Is(err, herald.ErrInvalid) {
		s.failf("Forget of a Connection returned %v", err)
	}
}
