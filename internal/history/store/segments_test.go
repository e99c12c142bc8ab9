package store_test

import (
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// sized returns a batch of one message with a body of bytes.
func sized(bytes int) []store.Draft {
	return []store.Draft{{Topics: []string{"a"}, Body: make([]byte, bytes)}}
}

// A segment ends after an eighth of what is to be kept, by age or by bytes.
func TestSegmentEnds(t *testing.T) {
	age, bytes := caller.Agreed.Age, caller.Agreed.Bytes
	for _, test := range []struct {
		name  string
		first int   // bytes of the first message
		later int64 // how much later the next message comes
		want  store.Outcome
	}{
		{"young and small", bytes/8 - 1, age/8 - 1, store.Taken},
		{"old", 1, age / 8, store.WrongSegment},
		{"large", bytes / 8, 0, store.WrongSegment},
	} {
		l := store.New(100)
		c := caller
		c.Now = 1_000
		c.Known = l.Fence(c)
		l.Append(c, 0, sized(test.first))
		c.Now += test.later
		if r := l.Append(c, 0, sized(1)); r.Outcome != test.want {
			t.Errorf("%s: %+v", test.name, r)
		}
	}
}

// The oldest segment is due when everything after it is too old, or when the log
// has more than it is to keep. The last segment stays.
func TestDue(t *testing.T) {
	age, bytes := caller.Agreed.Age, caller.Agreed.Bytes
	for _, test := range []struct {
		name     string
		segments []int // bytes of each segment; each begins an age after the one before
		later    int64 // how long after the last one began
		due      bool
	}{
		{"one alone", []int{2 * bytes}, 10 * age, false},
		{"not old enough", []int{1, 1}, age - 1, false},
		{"old enough", []int{1, 1}, age, true},
		{"as much as may be", []int{bytes / 2, bytes / 2}, 0, false},
		{"more", []int{bytes / 2, bytes/2 + 1}, 0, true},
	} {
		l := store.New(100)
		c := caller
		c.Known = l.Fence(c)
		for n, size := range test.segments {
			c.Now += age
			if r := l.Append(c, uint64(n), sized(size)); r.Outcome != store.Taken {
				t.Fatalf("%s: %+v", test.name, r)
			}
		}
		if n, due := l.Due(c.Now + test.later); due != test.due || n != 0 {
			t.Errorf("%s: segment %d is due: %v", test.name, n, due)
		}
	}
}

// Entries below the horizon are told to be missing. The horizon is the end of the
// last segment that was removed.
func TestTrim(t *testing.T) {
	l := store.New(4)
	c := caller
	c.Known = l.Fence(c)
	for n := range uint64(3) {
		l.Append(c, n, sized(1))
		c.Now += c.Agreed.Age
	}
	for n := range uint64(2) {
		if !l.Trim(c, n) {
			t.Fatalf("segment %d stays", n)
		}
		horizon := 4 * history.Offset(n+1)
		for _, from := range []history.Offset{horizon - 1, horizon} {
			s := l.Survey(c, history.Point{Epoch: 1, Offset: from}, nil, 9)
			if s.From != horizon || s.Whole != (from == horizon) {
				t.Errorf("without segment %d, from %d: %+v", n, from, s)
			}
		}
	}
	if l.Trim(c, 2) {
		t.Error("the last segment went")
	}
}
