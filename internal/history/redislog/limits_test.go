package redislog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// A miniRig has a Log on a miniredis whose clock stands still.
type miniRig struct {
	*rig
	t      *testing.T
	server *miniredis.Miniredis
	now    time.Time
	log    *Log
	known  history.Point
}

func newMiniRig(t *testing.T, limits store.Limits) *miniRig {
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { rdb.Close() })
	r := &miniRig{rig: &rig{rdb: rdb}, t: t, server: server, now: time.UnixMilli(1_700_000_000_000)}
	rdb.AddHook(r.rig)
	server.SetTime(r.now)
	r.log = New(Config{Client: rdb, Limits: limits, Keys: "k:", Topics: "c:", Fences: "f"})
	end, err := r.log.Fence(t.Context(), history.Point{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.known = end
	return r
}

func (r *miniRig) step(d time.Duration) {
	r.now = r.now.Add(d)
	r.server.SetTime(r.now)
}

// append appends bodies to a topic, and returns the segment that they went to.
func (r *miniRig) append(bodies ...string) uint64 {
	r.t.Helper()
	var batch []store.Draft
	for _, body := range bodies {
		batch = append(batch, store.Draft{Topics: []string{"a"}, Body: []byte(body)})
	}
	for n, segment := 0, uint64(0); n < 2; n++ {
		reply, err := r.log.Append(r.t.Context(), r.known, segment, batch)
		if err != nil {
			r.t.Fatal(err)
		}
		if reply.Outcome == store.Taken {
			r.known = reply.End
			return segment
		}
		segment = reply.Segment
	}
	r.t.Fatal("it was not taken")
	return 0
}

func (r *miniRig) trim() (segments int) {
	r.t.Helper()
	if err := r.log.Trim(r.t.Context(), r.known); err != nil {
		r.t.Fatal(err)
	}
	return len(r.keys(r.t)) - 1
}

// A segment ends, and is removed, at the exact millisecond and byte.
func TestLimitsOfSegments(t *testing.T) {
	r := newMiniRig(t, store.Limits{Segment: 64, Age: 8000, Bytes: 80})
	r.append("1")
	r.step(999 * time.Millisecond)
	if n := r.append("2"); n != 0 {
		t.Errorf("too young, and it goes to %d", n)
	}
	r.step(time.Millisecond)
	if n := r.append("123456789"); n != 1 {
		t.Errorf("old enough, and it goes to %d", n)
	}
	if n := r.append("0"); n != 1 {
		t.Errorf("of too few bytes, and it goes to %d", n)
	}
	if n := r.append(strings.Repeat("x", 68)); n != 2 || r.trim() != 3 {
		t.Errorf("of enough bytes, and it goes to %d; all of them are kept up to 80: %d", n, r.trim())
	}
	if r.append("x"); r.trim() != 3 {
		t.Errorf("there are %d bytes and one goes, and %d are left", 81, r.trim())
	}
}

// A segment is removed when what came after it is old enough.
func TestAge(t *testing.T) {
	r := newMiniRig(t, store.Limits{Segment: 64, Age: 8000, Bytes: 1 << 20})
	r.append("1")
	r.step(time.Second)
	r.append("2")
	r.step(7999 * time.Millisecond)
	if n := r.trim(); n != 2 {
		t.Errorf("too young, and there are %d", n)
	}
	r.step(time.Millisecond)
	if n := r.trim(); n != 1 {
		t.Errorf("old enough, and there are %d", n)
	}
}

// The keys last while a node works, and their time to live follows the agreement.
func TestKeysLast(t *testing.T) {
	r := newMiniRig(t, store.Limits{Segment: 64, Age: 8000, Bytes: 80})
	lasts := func(what, key string, want time.Duration) {
		t.Helper()
		if left := r.server.TTL(key); left != want {
			t.Errorf("after %s, %s lasts %v, want %v", what, key, left, want)
		}
		r.server.SetTTL(key, time.Second)
	}
	lasts("a table that is new", "k:t", 76*time.Second)
	if _, err := r.log.Fence(t.Context(), r.known, 2); err != nil {
		t.Fatal(err)
	}
	lasts("a fence", "k:t", 76*time.Second)
	r.append("1")
	lasts("an append", "k:t", 76*time.Second)
	lasts("an append", "k:s:0", 76*time.Second)
	r.log = New(Config{Client: r.rdb, Limits: store.Limits{Segment: 64, Age: 10_000, Bytes: 80}, Keys: "k:"})
	r.append("2")
	lasts("an agreement", "k:t", 80*time.Second)
	lasts("an agreement", "k:s:0", 80*time.Second)
}

// A call that is repeated, although none should be, does no harm to the table: an
// epoch that began for it does not begin again.
func TestRepeated(t *testing.T) {
	r := newMiniRig(t, store.Limits{Segment: 64, Age: 8000, Bytes: 80})
	r.append("1")
	repeated := &repeater{next: r.rdb}
	r.log.config.Client = repeated
	if _, err := r.log.Fence(t.Context(), history.Point{}, 1); err != nil {
		t.Error(err)
	}
	r.known.Offset++ // so that an epoch begins
	if _, err := r.log.Fence(t.Context(), r.known, 1); err == nil || !strings.Contains(err.Error(), "repeated") {
		t.Errorf("the second time it says %v", err)
	}
	r.do(t, "DEL", "k:t")
	end, err := r.log.Fence(t.Context(), history.Point{}, 1)
	if err != nil {
		t.Error(err)
	}
	if again, err := r.log.Fence(t.Context(), history.Point{}, 1); err != nil || again != end {
		t.Errorf("%v, %v after %v", again, err, end)
	}
}

// A repeater runs each script twice.
type repeater struct {
	Client
	next *redis.Client
}

func (r *repeater) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	r.next.EvalSha(ctx, sha, keys, args...)
	return r.next.EvalSha(ctx, sha, keys, args...)
}

// The entries, bytes, topics, chains and segments of a call are bounded.
func TestBoundsOfCalls(t *testing.T) {
	r := newMiniRig(t, store.Limits{Segment: 4, Age: 8000, Bytes: 1 << 20})
	for range 10 {
		r.append("1234567890")
	}
	from := history.Point{Epoch: r.known.Epoch}
	all := []history.Offset{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		set   func(b *bounds)
		walks int
		reads int
		ahead int // entries of a read of three offsets, with seven more if they cost little
	}{
		{func(*bounds) {}, 1, 1, 10},
		{func(b *bounds) { b.walked = 3 }, 4, 1, 10},
		{func(b *bounds) { b.segments = 1 }, 3, 1, 10},
		{func(b *bounds) { b.read = 4 }, 1, 3, 4},
		{func(b *bounds) { b.read = 2 }, 1, 5, 4},
		{func(b *bounds) { b.bytes = 20 }, 5, 5, 4},
		{func(b *bounds) { b.bytes = 21 }, 4, 4, 3},
	} {
		r.log.bounds = usual
		c.set(&r.log.bounds)
		for _, r.log.config.Cluster = range []bool{false, true} {
			calls := c.walks // the first call looks, too
			if r.log.config.Cluster {
				calls++
			}
			r.forget()
			s, err := r.log.Survey(t.Context(), r.known, from, []string{"a"}, 100)
			if err != nil || !s.Whole || len(s.Offsets) != 10 || len(r.calls) != calls {
				t.Errorf("%+v: %+v, %v after %d calls, not %d", r.log.bounds, s, err, len(r.calls), calls)
			}
		}
		r.forget()
		x, ok, err := r.log.Read(t.Context(), r.known, r.known.Epoch, all, nil)
		if err != nil || !ok || len(x.Entries) != 10 || len(r.calls) != c.reads {
			t.Errorf("%+v: %d, %v after %d calls", r.log.bounds, len(x.Entries), err, len(r.calls))
		}
		r.forget()
		x, ok, err = r.log.Read(t.Context(), r.known, r.known.Epoch, all[5:8], slices.Concat(all[:5], all[8:]))
		if err != nil || !ok || len(x.Entries) != c.ahead || len(x.Offsets) != c.ahead || !slices.Contains(x.Offsets, 8) || !slices.IsSorted(x.Offsets) {
			t.Errorf("%+v: %v, %v", r.log.bounds, x, err)
		}
	}
	r.log.bounds = usual
	for _, n := range []int{0, 1, usual.asked, usual.asked + 1} {
		topics := make([]string, n)
		for i := range topics {
			topics[i] = fmt.Sprint(i)
		}
		r.forget()
		if s, err := r.log.Survey(t.Context(), r.known, from, topics, 100); err != nil || !s.Whole || len(r.calls) != 1+max(0, n-1)/usual.asked {
			t.Errorf("%d topics: %+v, %v after %d calls", n, s, err, len(r.calls))
		}
	}
}

// If a node guesses wrongly which segments have entries, it finds all of them
// nevertheless.
func TestGuess(t *testing.T) {
	limits := store.Limits{Segment: 4, Age: 8000, Bytes: 1 << 20}
	r := newMiniRig(t, limits)
	late := New(Config{Client: r.rdb, Limits: limits, Keys: "k:", Topics: "c:", Fences: "f"})
	if _, err := late.Fence(t.Context(), r.known, 1); err != nil {
		t.Fatal(err)
	}
	from := r.known
	for n := 1; n <= 30; n++ {
		r.append(fmt.Sprint(n))
		if n%7 != 0 {
			continue
		}
		for calls := range 2 { // the first call guesses from what the last one found
			r.forget()
			s, err := late.Survey(t.Context(), r.known, from, []string{"a"}, 100)
			if err != nil || !s.Whole || len(s.Offsets) != n || len(r.calls) != 2-calls {
				t.Errorf("%d: %+v, %v after %d calls", n, s, err, len(r.calls))
			}
		}
	}
}

// A guess from an epoch that is over leaves out nothing of the present one.
func TestGuessOfAnotherEpoch(t *testing.T) {
	limits := store.Limits{Segment: 64, Age: 8000, Bytes: 1 << 20}
	r := newMiniRig(t, limits)
	r.append("1", "2")
	had := history.Point{Epoch: r.known.Epoch, Offset: 66}
	late := New(Config{Client: r.rdb, Limits: limits, Keys: "k:", Topics: "c:", Fences: "f"})
	late.end = history.Point{Epoch: had.Epoch, Offset: 70} // before the server lost 3 to 70
	end, err := r.log.Renew(t.Context(), r.known, r.known.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	r.known = end
	r.append("3", "4", "5") // 65, 66 and 67
	s, err := late.Survey(t.Context(), history.Point{Epoch: had.Epoch}, had, []string{"a"}, 100)
	if err != nil || s.Whole || s.From != 2 || len(s.Offsets) != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}
