package callbacks

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/histogram"
)

type conn string

func (c conn) ID() string { return string(c) }

// Calls are told from their beginning to their end, the oldest first, and the slow
// ones once, whichever of them ends.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set
		var calls []*Call
		for i := range uint64(5) {
			calls = append(calls, s.Begin(Call{Name: "OnMessage", User: fmt.Sprint(i), Conn: conn(fmt.Sprint("n.", i)), Key: i % 2 * 16}))
			time.Sleep(time.Second)
		}
		names := func(all []Running) (names []string) {
			for _, r := range all {
				names = append(names, fmt.Sprintf("%s %s %s %v", r.Name, r.User, r.Conn, r.For))
			}
			return names
		}
		if got, want := names(s.Slow(4*time.Second)), []string{"OnMessage 0 n.0 5s"}; !slices.Equal(got, want) {
			t.Errorf("slow are %q, want %q", got, want)
		}
		if got, want := names(s.Slow(3*time.Second)), []string{"OnMessage 1 n.1 4s"}; !slices.Equal(got, want) {
			t.Errorf("slow are %q then, want %q", got, want)
		}
		for _, i := range []int{2, 0, 4} { // in the middle, first and last of their list
			calls[i].End()
		}
		gap := s.Begin(Call{Name: "OnGap"})
		if got, want := names(s.Running()), []string{"OnMessage 1 n.1 4s", "OnMessage 3 n.3 2s", "OnGap   0s"}; !slices.Equal(got, want) {
			t.Errorf("running are %q, want %q", got, want)
		}
		calls[3].End()
		calls[1].End()
		var want histogram.Counts
		for _, seconds := range []int{3, 5, 1, 2, 4} {
			want.Observe(time.Duration(seconds) * time.Second)
		}
		if totals := s.Totals(); len(totals) != 1 || *totals["OnMessage"] != want {
			t.Errorf("totals are %v, want %v", totals, want)
		}
		for range 2 { // the second time it is known by name
			gap.End()
			gap = s.Begin(Call{Name: "OnGap"})
		}
		for range 3 {
			s.Begin(Call{Name: "OnMessage"}).End()
			want.Observe(0)
		}
		var wantGaps histogram.Counts
		wantGaps.Observe(0)
		wantGaps.Observe(0)
		if totals := s.Totals(); len(totals) != 2 || *totals["OnMessage"] != want || *totals["OnGap"] != wantGaps {
			t.Errorf("totals are %v, want %v and %v", totals, want, wantGaps)
		}
		for i := range s.shards {
			if n := len(s.shards[i].sums); n > 2 {
				t.Errorf("%d sums are kept of two callbacks", n)
			}
		}
	})
}

func TestSetAtOnce(t *testing.T) {
	var s Set
	var all sync.WaitGroup
	for i := range uint64(40) {
		all.Go(func() {
			for range 100 {
				c := s.Begin(Call{Name: "OnMessage", Key: i})
				s.Slow(0)
				c.End()
			}
		})
	}
	all.Wait()
	returned := uint64(0)
	for _, n := range s.Totals()["OnMessage"].Buckets {
		returned += n
	}
	if n := len(s.Running()); n != 0 || returned != 4_000 {
		t.Errorf("%d run, %d have returned", n, returned)
	}
}

func BenchmarkCall(b *testing.B) {
	var s Set
	b.ReportAllocs()
	for b.Loop() {
		s.Begin(Call{Name: "OnMessage", User: "42", Key: 7}).End()
	}
}
