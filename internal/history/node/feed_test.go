package node_test

import (
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/node"
)

func at(e history.Epoch, o history.Offset) history.Point { return history.Point{Epoch: e, Offset: o} }

func kept(topic string, p history.Point, prev history.Offset) history.Packet {
	return history.Packet{Topic: topic, Kept: true, At: p, Born: p.Epoch, Prev: prev}
}

// flowing returns a Feed that flows at a point, with a topic that shows holes.
func flowing(t *testing.T, p history.Point) *node.Feed {
	t.Helper()
	f := node.NewFeed(node.Limits{Held: 4, Recent: 4, Bytes: 1 << 20, Page: 4, Survey: 4})
	f.Follow("a")
	s := f.Restored()
	s = f.Surveyed(s.Ask.Round, history.Survey{End: p, From: p.Offset})
	if s.Gap || s.Ask.Round != 0 || f.At() != p {
		t.Fatalf("it begins with %+v at %v", s, f.At())
	}
	for i := range history.Offset(2) {
		f.Mark(at(p.Epoch, p.Offset+i+1))
	}
	return f
}

// hands returns the offsets of the packets that are handed on.
func hands(s node.Step) (offsets []history.Offset) {
	for _, p := range s.Hand {
		offsets = append(offsets, p.At.Offset)
	}
	return offsets
}

func expect(t *testing.T, what string, s node.Step, gap bool, offsets ...history.Offset) {
	t.Helper()
	got := hands(s)
	same := len(got) == len(offsets)
	for i := range got {
		same = same && got[i] == offsets[i]
	}
	if s.Gap != gap || !same {
		t.Errorf("%s: gap %v, handed on %v, want %v and %v", what, s.Gap, got, gap, offsets)
	}
}

// A hole is filled before the packets behind it are handed on, and nobody is told.
func TestHole(t *testing.T) {
	f := flowing(t, at(1, 0)) // its Marks have moved it to 2
	expect(t, "the next", f.Take(kept("a", at(1, 3), 2)), false, 3)
	s := f.Take(kept("a", at(1, 5), 4))
	expect(t, "behind a hole", s, false)
	if s.Ask.From != at(1, 2) {
		t.Errorf("it asks for what came since %v", s.Ask.From)
	}
	expect(t, "while it asks", f.Take(kept("a", at(1, 6), 5)), false)
	if s := f.Mark(at(1, 6)); s.Mark.Epoch != 0 {
		t.Error("a Mark while something is held")
	}
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(1, 5), From: 2, Whole: true, Offsets: []history.Offset{3, 4, 5}})
	var entries []history.Entry
	for _, o := range s.Ask.Offsets {
		entries = append(entries, history.Entry{Offset: o, Born: 1, Links: []history.Link{{Topic: "a", Prev: o - 1}}})
	}
	expect(t, "filled", f.Entries(s.Ask.Round, entries, true), false, 4, 5, 6)
}

// A hole that can no longer be filled in order is told at once.
func TestLateHole(t *testing.T) {
	f := flowing(t, at(1, 0))
	expect(t, "another topic", f.Take(kept("b", at(1, 5), 0)), false, 5)
	expect(t, "behind a hole below it", f.Take(kept("a", at(1, 6), 4)), true, 6)
}

// No question has the number of an earlier one, so that a late answer is not taken
// for that of another question.
func TestRounds(t *testing.T) {
	f := node.NewFeed(node.Limits{Held: 4, Recent: 4, Bytes: 1 << 20, Page: 1, Survey: 4})
	rounds := make(map[uint64]bool)
	asks := func(what string, s node.Step) uint64 {
		t.Helper()
		if s.Ask.Round == 0 || rounds[s.Ask.Round] {
			t.Errorf("%s: it asks in round %d after %v", what, s.Ask.Round, rounds)
		}
		rounds[s.Ask.Round] = true
		return s.Ask.Round
	}
	round := asks("the link is up", f.Restored())
	f.Surveyed(round, history.Survey{End: at(1, 0)})
	if !f.Flowing() || f.Repairing() {
		t.Error("it does not flow")
	}
	if s := f.Follow("a"); s.Ask.Round != 0 {
		t.Error("it asks for a topic that flows")
	}
	if s := f.Met(1); s.Ask.Round != 0 {
		t.Error("it asks for the epoch that it is in")
	}
	survey := history.Survey{End: at(2, 2), Fork: history.Fork{Epoch: 2}, Offsets: []history.Offset{1, 2}}
	asks("another epoch", f.Met(2))
	if f.Flowing() || !f.Repairing() {
		t.Error("it flows before it has the answer")
	}
	if s := f.Met(2); s.Ask.Round != 0 {
		t.Error("it asks for an epoch that it has asked for")
	}
	round = asks("another topic meanwhile", f.Follow("b"))
	round = asks("the first page", f.Surveyed(round, survey))
	round = asks("the second page", f.Entries(round, nil, true))
	round = asks("another epoch meanwhile", f.Entries(round, nil, false))
	f.Down()
	if f.Flowing() || f.Repairing() {
		t.Error("it asks while the link is down")
	}
	asks("the next link", f.Restored())
	if s := f.Surveyed(round, survey); s.Ask.Round != 0 || !f.Repairing() {
		t.Errorf("it takes an answer of the link before: %+v", s)
	}
}

// The same end of the log makes only one Mark.
func TestMark(t *testing.T) {
	f := flowing(t, at(1, 0))
	if s := f.Mark(at(1, 3)); s.Mark != at(1, 3) {
		t.Errorf("the first makes %+v", s)
	}
	if s := f.Mark(at(1, 3)); s.Mark.Epoch != 0 {
		t.Errorf("the second makes %+v", s)
	}
}

// Messages that were sent to a topic before it was followed are not missing.
func TestFollow(t *testing.T) {
	f := flowing(t, at(1, 0))
	f.Follow("b")
	f.Mark(at(1, 3))
	expect(t, "a new topic", f.Take(kept("b", at(1, 6), 5)), false, 6)
	if !f.Flowing() {
		t.Error("it asks for what was sent before")
	}
}

// If an entry of a backlog is missing, that is told before the entries behind it.
func TestLostEntry(t *testing.T) {
	f := flowing(t, at(1, 0))
	f.Down()
	s := f.Restored()
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(1, 9), From: 2, Whole: true, Offsets: []history.Offset{4, 7}})
	there := []history.Entry{{Offset: 7, Born: 1, Links: []history.Link{{Topic: "a", Prev: 4}}}}
	expect(t, "one of two", f.Entries(s.Ask.Round, there, true), true, 7)
}

// A doubt is told even if the log looks whole.
func TestDoubt(t *testing.T) {
	f := flowing(t, at(1, 0))
	expect(t, "while it flows", f.Doubt(), true)
	f.Down()
	expect(t, "while it is down", f.Doubt(), false)
	s := f.Restored()
	expect(t, "restored", f.Surveyed(s.Ask.Round, history.Survey{End: at(1, 2), From: 2, Whole: true}), true)
	f.Down()
	s = f.Restored()
	expect(t, "the next time", f.Surveyed(s.Ask.Round, history.Survey{End: at(1, 2), From: 2, Whole: true}), false)
}

// A packet that was handed on in an epoch is not handed on again if it has
// survived.
func TestBack(t *testing.T) {
	f := flowing(t, at(1, 0))
	expect(t, "in the old epoch", f.Take(kept("a", at(1, 3), 2)), false, 3)
	s := f.Mark(at(2, 8)) // of a log that does not know the old epoch
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(2, 8), From: 8, Fork: history.Fork{Epoch: 2, At: 8}})
	expect(t, "elsewhere", s, true)
	s = f.Mark(at(3, 4)) // of a log that has a part of it
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(3, 4), From: 0, Fork: history.Fork{Epoch: 3, Parent: 2}, Offsets: []history.Offset{3, 4}})
	expect(t, "back", s, true)
	s = f.Entries(s.Ask.Round, []history.Entry{
		{Offset: 3, Born: 1, Links: []history.Link{{Topic: "a", Prev: 0}}},
		{Offset: 4, Born: 3, Links: []history.Link{{Topic: "a", Prev: 3}}},
	}, true)
	expect(t, "what survived", s, false, 4)
}

// An entry of a backlog that was handed on is not handed on again, whichever epoch
// it comes back in.
func TestSurvivedTwice(t *testing.T) {
	f := flowing(t, at(1, 0)) // its Marks have moved it to 2
	born := []history.Entry{{Offset: 3, Born: 1, Links: []history.Link{{Topic: "a", Prev: 2}}}}
	s := f.Mark(at(2, 5))
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(2, 5), From: 2, Fork: history.Fork{Epoch: 2, Parent: 1, At: 5}, Offsets: []history.Offset{3}})
	expect(t, "the first time", f.Entries(s.Ask.Round, born, true), false, 3)
	s = f.Mark(at(3, 5))
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(3, 5), From: 2, Fork: history.Fork{Epoch: 3, Parent: 9, At: 2}, Offsets: []history.Offset{3}})
	expect(t, "the second time", f.Entries(s.Ask.Round, born, true), false)
}

// If it is not known that an epoch comes from the last one, all packets that have
// come in it are handed on, and a loss is told before them.
func TestElsewhere(t *testing.T) {
	for name, test := range map[string]struct{ fork, want history.Fork }{
		"unknown": {history.Fork{Epoch: 2, At: 9}, history.Fork{Epoch: 2, At: 6}},
		"known":   {history.Fork{Epoch: 2, Parent: 1, At: 9}, history.Fork{Epoch: 2, Parent: 1, At: 9}},
	} {
		f := flowing(t, at(1, 0))
		s := f.Take(kept("a", at(2, 7), 6))
		f.Take(kept("a", at(2, 8), 7))
		s = f.Surveyed(s.Ask.Round, history.Survey{End: at(2, 9), From: test.fork.At, Fork: test.fork})
		if s.Fork != test.want {
			t.Errorf("%s: it crosses %+v, want %+v", name, s.Fork, test.want)
		}
		if name == "unknown" {
			expect(t, name, s, true, 7, 8)
			expect(t, "seen by the survey, and late on the link", f.Take(kept("a", at(2, 9), 8)), false, 9)
		}
	}
}

// Held packets up to the end of a survey are handed on, including the last one.
func TestHeldToTheEnd(t *testing.T) {
	f := flowing(t, at(1, 0))
	s := f.Take(kept("a", at(1, 5), 4))
	f.Take(kept("a", at(1, 6), 5))
	s = f.Surveyed(s.Ask.Round, history.Survey{End: at(1, 6), From: 2, Whole: true})
	expect(t, "held", s, false, 5, 6)
}

// If the log of another epoch does not answer, the Feed goes on there.
func TestGaveUpElsewhere(t *testing.T) {
	f := flowing(t, at(1, 0))
	s := f.Take(kept("a", at(2, 7), 6))
	s = f.GaveUp(s.Ask.Round)
	expect(t, "given up", s, true, 7)
	if s.Fork != (history.Fork{Epoch: 2, At: 6}) {
		t.Errorf("it crosses %+v", s.Fork)
	}
}

// If the log does not answer, held packets are handed on.
func TestGaveUp(t *testing.T) {
	f := flowing(t, at(1, 0))
	s := f.Take(kept("a", at(1, 5), 4))
	given := f.GaveUp(s.Ask.Round)
	expect(t, "given up", given, true, 5)
	if given.Fork.Epoch != 0 {
		t.Errorf("in the same epoch it crosses %+v", given.Fork)
	}
	expect(t, "the next", f.Take(kept("a", at(1, 6), 5)), false, 6)
	if s := f.GaveUp(s.Ask.Round); s.Gap {
		t.Error("an old question was given up once more")
	}
}

// Recent and held packets are bounded in bytes as well as in number.
func TestBytes(t *testing.T) {
	f := node.NewFeed(node.Limits{Held: 100, Recent: 100, Bytes: 10, Page: 4, Survey: 4})
	f.Follow("a")
	s := f.Restored()
	f.Surveyed(s.Ask.Round, history.Survey{End: at(1, 0)})
	f.Mark(at(1, 1))
	f.Mark(at(1, 2))
	large := func(o, prev history.Offset) history.Packet {
		p := kept("a", at(1, o), prev)
		p.Body = make([]byte, 4)
		return p
	}
	for o := history.Offset(3); o < 9; o++ {
		expect(t, "in order", f.Take(large(o, o-1)), false, o)
	}
	if left, ok := f.Recent(at(1, 6)); !ok || len(left) != 2 {
		t.Errorf("behind 6: %d packets, %v; want 2", len(left), ok)
	}
	if left, ok := f.Recent(at(1, 5)); ok {
		t.Errorf("behind 5: %d packets; want to be told that it is too long ago", len(left))
	}
	s = f.Take(large(11, 10)) // a hole
	for o := history.Offset(12); o < 15; o++ {
		f.Take(large(o, o-1))
	}
	round := s.Ask.Round
	s = f.Surveyed(round, history.Survey{End: at(1, 8), From: 8, Whole: true})
	if s.Ask.Round == 0 || len(s.Hand) > 0 {
		t.Errorf("what it could not hold is not asked for: %+v", s)
	}
}

// Packets are held up to their bounds in number and bytes. If there is one more,
// the Feed asks again.
func TestHeldBounds(t *testing.T) {
	for name, test := range map[string]struct {
		sizes []int
		spilt bool
	}{
		"as many as may be":   {sizes: []int{0, 0, 0}},
		"too many":            {sizes: []int{0, 0, 0, 0}, spilt: true},
		"as large as may be":  {sizes: []int{5, 5}},
		"too large by a byte": {sizes: []int{5, 6}, spilt: true},
	} {
		f := node.NewFeed(node.Limits{Held: 3, Recent: 4, Bytes: 10, Page: 4, Survey: 4})
		s := f.Restored()
		round := s.Ask.Round
		for i, n := range test.sizes {
			p := kept("a", at(1, history.Offset(i+1)), history.Offset(i))
			p.Body = make([]byte, n)
			f.Take(p)
		}
		s = f.Surveyed(round, history.Survey{End: at(1, 0)})
		if spilt := s.Ask.Round != 0; spilt != test.spilt {
			t.Errorf("%s: it asks again: %v", name, spilt)
		}
		if !test.spilt && len(s.Hand) != len(test.sizes) {
			t.Errorf("%s: %d of %d are handed on", name, len(s.Hand), len(test.sizes))
		}
	}
}
