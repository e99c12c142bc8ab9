package store_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

var caller = store.Caller{Server: "a", Fresh: 1, Agreed: store.Agreement{Version: 1, Age: 100, Bytes: 1 << 10}}

func drafts(topics ...string) (batch []store.Draft) {
	for _, topic := range topics {
		batch = append(batch, store.Draft{Topics: []string{topic}, Body: []byte("body")})
	}
	return batch
}

// Each topic has a chain. An entry that is not kept has a place but no offset of
// its own.
func TestAppend(t *testing.T) {
	l := store.New(8)
	c := caller
	c.Known = l.Fence(c)
	batch := drafts("a", "b", "a")
	batch[1].Unkept = true
	r := l.Append(c, 0, batch)
	if r.Outcome != store.Taken || r.End != (history.Point{Epoch: 1, Offset: 2}) || len(r.Published) != 3 {
		t.Fatalf("%+v", r)
	}
	first, unkept, last := r.Published[0], r.Published[1], r.Published[2]
	if first.At.Offset != 1 || first.Prev != 0 || unkept.Kept || unkept.At.Offset != 1 || last.At.Offset != 2 || last.Prev != 1 {
		t.Errorf("%+v", r.Published)
	}
	s := l.Survey(c, history.Point{Epoch: 1}, []string{"a", "b"}, 8)
	if !s.Whole || len(s.Offsets) != 2 {
		t.Errorf("%+v", s)
	}
}

// A log that another master has handed over goes on in its epoch. One that has come
// in any other way may lack entries.
func TestMoved(t *testing.T) {
	l := store.New(8)
	c := caller
	first := l.Fence(c)
	c.Server, c.From, c.Fresh = "b", "a", 2
	if end := l.Fence(c); end != first {
		t.Errorf("moved, it ends at %v, and ended at %v", end, first)
	}
	c.Server, c.From, c.Fresh = "c", "a", 3
	if end := l.Fence(c); end.Epoch != 3 {
		t.Errorf("from a server that had given it away, it ends at %v", end)
	}
	c.Server, c.From, c.Fresh = "d", "", 4
	if end := l.Fence(c); end.Epoch != 4 {
		t.Errorf("from nobody knows where, it ends at %v", end)
	}
}

// A refused append has no effect.
func TestRefused(t *testing.T) {
	l := store.New(4)
	c := caller
	c.Known = l.Fence(c)
	if r := l.Append(c, 0, drafts("a", "a", "a")); r.Outcome != store.Taken {
		t.Fatal(r.Outcome)
	}
	r := l.Append(c, 0, drafts("a", "a")) // one of these two would fit
	if r.Outcome != store.WrongSegment || r.Segment != 1 || r.End.Offset != 3 {
		t.Errorf("a full segment: %+v", r)
	}
	c.Known.Epoch = 7
	if r := l.Append(c, 1, drafts("a")); r.Outcome != store.WrongEpoch || r.End != (history.Point{Epoch: 1, Offset: 3}) {
		t.Errorf("another epoch: %+v", r)
	}
	c.Known.Epoch = 1
	if r := l.Append(c, 1, drafts("a", "a")); r.Outcome != store.Taken || r.Published[0].At.Offset != 5 || r.Published[0].Prev != 3 {
		t.Errorf("the next segment: %+v", r)
	}
	if r := l.Append(c, 1, drafts("a", "a")); r.Outcome != store.Taken || r.End.Offset != 8 {
		t.Errorf("what fills it: %+v", r)
	}
	unkept := drafts("a")
	unkept[0].Unkept = true
	if r := l.Append(c, 9, unkept); r.Outcome != store.Taken || r.End.Offset != 8 {
		t.Errorf("what is not kept goes to no segment, and yet: %+v", r)
	}
}

// A log goes on in its epoch as long as it has everything that was acknowledged.
// The first entry of a new epoch begins a segment, and no other entry does.
func TestEpochs(t *testing.T) {
	l := store.New(8)
	c := caller
	c.Known = l.Fence(c)
	c.Known = l.Append(c, 0, drafts("a", "a")).End
	c.Fresh = 2
	if end := l.Fence(c); end != c.Known {
		t.Errorf("it has all that the node knows, and is at %v", end)
	}
	c.Server = "b"
	c.Known = l.Fence(c)
	if c.Known != (history.Point{Epoch: 2, Offset: 2}) {
		t.Fatalf("with another server it is at %v", c.Known)
	}
	if r := l.Append(c, 0, drafts("a")); r.Outcome != store.WrongSegment || r.Segment != 1 {
		t.Errorf("the segment of the epoch before: %+v", r)
	}
	for range 2 {
		if r := l.Append(c, 1, drafts("a")); r.Outcome != store.Taken {
			t.Errorf("its own: %+v", r)
		}
	}
}

// A copy has everything that the log has, and then changes on its own.
func TestClone(t *testing.T) {
	l := store.New(4)
	if none := l.Clone(); none.String() != l.String() || none.String() != "no table\n" {
		t.Errorf("an empty log is %q, its copy %q", l, none)
	}
	c := caller
	c.Known = l.Fence(c)
	l.Append(c, 0, drafts("a", "b"))
	l.Forget(c, []string{"b"})
	had := l.String()
	clone := l.Clone()
	if clone.String() != had {
		t.Errorf("the log is\n%s\nits copy\n%s", had, clone)
	}
	for _, want := range []string{"epoch 1 on a", "counter 2", "span 0 began 0 bytes 8", `topic "a" at 1, forgotten up to 0`, `topic "b" at 2, forgotten up to 2`, "entry 1 born 1"} {
		if !strings.Contains(had, want) {
			t.Errorf("%q is not in\n%s", want, had)
		}
	}
	clone.Append(c, 0, drafts("a"))
	clone.Forget(c, []string{"a"})
	if l.String() != had {
		t.Errorf("a change of the copy made of the log\n%s", l)
	}
}

// A position is whole only in its own epoch, above the horizon, and if it existed.
func TestSurvey(t *testing.T) {
	l := store.New(1)
	c := caller
	c.Known = l.Fence(c)
	for n := range uint64(4) {
		l.Append(c, n, drafts("a"))
	}
	c.Now = 1_000
	if n, ok := l.Due(c.Now); ok && n != 0 || l.Trim(c, 1) {
		t.Error("a segment went that is not the oldest")
	}
	l.Append(c, 4, drafts("a"))
	for n := range uint64(2) {
		if !l.Trim(c, n) {
			t.Fatal("it is not due")
		}
	}
	look := func(what string, e history.Epoch, o, from history.Offset, whole bool, entries int) {
		t.Helper()
		s := l.Survey(c, history.Point{Epoch: e, Offset: o}, []string{"a"}, 2)
		if s.From != from || s.Whole != whole || len(s.Offsets) != entries {
			t.Errorf("%s: %+v", what, s)
		}
	}
	look("below the horizon", 1, 1, 3, false, 2) // two of three are left
	look("above it", 1, 3, 3, true, 2)
	look("at the end", 1, 5, 5, true, 0)
	look("in the future", 1, 6, 5, false, 0)
	look("nowhere", 0, 0, 5, false, 0)
	look("somewhere else", 9, 2, 5, false, 0)

	c.Server, c.Fresh = "b", 2
	c.Known = history.Point{}
	c.Known = l.Fence(c)
	look("in the parent", 1, 4, 4, false, 1)
	l.LoseSegment(4)
	look("a lost segment", 2, 4, 4, false, 0)
	c.Known, c.Fresh = history.Point{Epoch: 2, Offset: 9}, 3
	if end := l.Fence(c); end.Epoch != 3 {
		t.Errorf("what was acknowledged and is not there: %v", end)
	}
}

// Forget removes what was kept for a topic, except entries that other topics share.
// Clients that have not got it are told.
func TestForget(t *testing.T) {
	l := store.New(4)
	c := caller
	c.Known = l.Fence(c)
	l.Append(c, 0, drafts("a", "b", "a"))
	l.Append(c, 0, []store.Draft{{Topics: []string{"a", "b"}}})
	l.Forget(c, []string{"a", "none"})
	look := func(what, topic string, from history.Offset, whole bool, want ...history.Offset) {
		t.Helper()
		s := l.Survey(c, history.Point{Epoch: 1, Offset: from}, []string{topic}, 8)
		if s.Whole != whole || !slices.Equal(s.Offsets, want) {
			t.Errorf("%s: %+v", what, s)
		}
	}
	look("who lacks the last", "a", 3, false)
	look("who had all", "a", 4, true)
	look("who shares it", "b", 0, true, 2, 4)
	if entries, _ := l.Read(c, 1, []history.Offset{1, 2, 3, 4}); len(entries) != 2 {
		t.Errorf("there is still %v", entries)
	}
	if r := l.Append(c, 1, drafts("a")); r.Published[0].Prev != 4 {
		t.Errorf("the chain goes on with %+v", r.Published)
	}
	look("what comes after", "a", 4, true, 5)
	look("what comes after, to one who lacks", "a", 3, false, 5)
	l.Forget(c, []string{"b"})
	look("the other one", "b", 3, false)
	if entries, _ := l.Read(c, 1, []history.Offset{2, 4, 5}); len(entries) != 1 {
		t.Errorf("there is still %v", entries)
	}
	l.Forget(c, []string{"a"}) // one entry of this topic was left
	if entries, _ := l.Read(c, 1, []history.Offset{5}); len(entries) != 0 {
		t.Errorf("there is still %v", entries)
	}
}

// However many nodes ask for it, a new epoch begins only once.
func TestRenew(t *testing.T) {
	l := store.New(4)
	l.Fence(caller)
	c := caller
	for c.Fresh = range history.Epoch(4) {
		c.Fresh += 2
		if end := l.Renew(c, 1); end.Epoch != 2 {
			t.Errorf("it is in %v", end)
		}
	}
}

// The log keeps what the newest node wants, even if the table is lost. Nodes that
// started before do not change that.
func TestAgreement(t *testing.T) {
	l := store.New(4)
	c := caller
	agree := func(what string, brings, want store.Agreement) {
		t.Helper()
		c.Agreed = brings
		l.Fence(c)
		if has, _ := l.Agreed(); has != want {
			t.Errorf("%s: %+v", what, has)
		}
	}
	five, ten := store.Limits{Age: 5}.Wanted(), store.Limits{Age: 10}.Wanted()
	agree("the first", five, store.Agreement{Version: 1, Age: 5})
	agree("one like it", five, store.Agreement{Version: 1, Age: 5})
	agree("another one", ten, store.Agreement{Version: 2, Age: 10})
	agree("the first again", store.Agreement{Version: 1, Age: 5}, store.Agreement{Version: 2, Age: 10})
	agree("another one of the same version", store.Agreement{Version: 2, Age: 7}, store.Agreement{Version: 2, Age: 10})
	l.LoseTable()
	agree("after a loss", store.Agreement{Version: 1, Age: 5}, store.Agreement{Version: 1, Age: 5})
	agree("who knows better", store.Agreement{Version: 2, Age: 10}, store.Agreement{Version: 2, Age: 10})
}
