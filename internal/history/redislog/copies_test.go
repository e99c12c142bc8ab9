package redislog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// A copyRig has a log of 400 messages to 40 topics in turn, in segments of 64.
type copyRig struct {
	*miniRig
	scans counter
}

// A counter counts the pipelines that a Log runs: its scans.
type counter struct {
	Client
	n int
}

func (c *counter) Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	c.n++
	return c.Client.Pipelined(ctx, fn)
}

func newCopyRig(t *testing.T, copies *Budget) *copyRig {
	r := &copyRig{miniRig: newMiniRig(t, store.Limits{Segment: 64, Age: 8000, Bytes: 1 << 20})}
	r.scans.Client = r.rdb
	r.log.config.Client, r.log.copies.budget = &r.scans, copies
	r.fill(400)
	return r
}

func (r *copyRig) fill(messages int) {
	r.t.Helper()
	for i, segment := 0, uint64(0); i < messages; {
		topics := []string{fmt.Sprint(i % 40), "all"}
		reply, err := r.log.Append(r.t.Context(), r.known, segment, []store.Draft{{Topics: topics[:1+i%2], Body: fmt.Append(nil, i)}})
		if err != nil {
			r.t.Fatal(err)
		}
		if reply.Outcome == store.Taken {
			i++
		}
		r.known, segment = reply.End, max(segment, reply.Segment)
	}
}

func (r *copyRig) survey(log *Log, from history.Offset, topics ...string) history.Survey {
	r.t.Helper()
	s, err := log.Survey(r.t.Context(), r.known, history.Point{Epoch: r.known.Epoch, Offset: from}, topics, 4096)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// copied returns how many entries the log has in copies, and checks their bytes.
func (r *copyRig) copied() (n int) {
	r.t.Helper()
	c, bytes := &r.log.copies, 0
	for _, s := range c.segments {
		for _, e := range s.entries {
			bytes += memory(e)
			n++
		}
	}
	if c.budget != nil && (c.budget.used.Load() != int64(bytes) || int64(bytes) > c.budget.most) {
		r.t.Errorf("%d entries have %d bytes of %d, counted %d", n, bytes, c.budget.most, c.budget.used.Load())
	}
	return n
}

// looked returns at how many entries scripts have looked since the last call.
func (r *copyRig) looked() (n int) {
	for _, call := range r.calls {
		n += call.looked
	}
	r.forget()
	return n
}

// If many ask for what they have missed, segments are copied, and surveys say what they
// say without. That is so in each epoch.
func TestCopies(t *testing.T) {
	r := newCopyRig(t, NewBudget(1<<20))
	plain := New(r.log.config)
	plain.config.Client = r.rdb
	for i := range 240 {
		from, topics := history.Offset(rand.IntN(int(r.known.Offset))), []string{fmt.Sprint(i % 40), "all"}
		has, want := r.survey(r.log, from, topics...), r.survey(plain, from, topics...)
		if len(want.Entries) == 0 {
			has.Entries = nil
		}
		if !reflect.DeepEqual(has, want) {
			t.Fatalf("survey %d from %d:\n%+v\nand without copies\n%+v", i, from, has, want)
		}
		switch {
		case i == 120:
			if n := r.copied(); n < 390 {
				t.Errorf("%d entries are copied", n)
			}
			end, err := r.log.Renew(t.Context(), r.known, r.known.Epoch)
			if err != nil {
				t.Fatal(err)
			}
			r.known = end
			r.fill(200)
		case i%50 == 49:
			r.fill(1)
		case i%100 == 30:
			if err := r.log.Forget(t.Context(), r.known, topics[:1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := r.copied(); n < 120 || n > 210 {
		t.Errorf("%d entries of the new epoch are copied", n)
	}
}

// Scripts look at entries until that has cost as much as copies. After that they look only
// at what has come since, and the table alone is asked.
func TestCopiesInTime(t *testing.T) {
	r := newCopyRig(t, NewBudget(1<<20))
	r.log.copies.least = 2
	r.forget()
	for r.copied() < 400 {
		r.survey(r.log, 0, fmt.Sprint(rand.IntN(40)))
	}
	if n := r.looked(); n < 6*4 || n > 7*(8+2) { // at most 8 of a segment, and those of the walk that came to 8
		t.Errorf("scripts have looked at %d entries", n)
	}
	for i := range 40 {
		if s := r.survey(r.log, 0, fmt.Sprint(i)); len(s.Entries) != 10 || !s.Whole {
			t.Errorf("%+v", s)
		}
	}
	for i, call := range r.calls {
		if call.keys != 1 {
			t.Errorf("call %d of %d names %d keys", i+1, len(r.calls), call.keys)
		}
	}
	if n := r.looked(); n > 0 {
		t.Errorf("scripts have looked at %d entries that are copied", n)
	}
	r.fill(2)
	s := r.survey(r.log, 0, "all")
	if n := r.looked(); len(s.Offsets) != 201 || n != 1 {
		t.Errorf("of %d messages one is new, and scripts have looked at %d", len(s.Offsets), n)
	}
}

// What a survey returns is bounded also if it costs nothing.
func TestCopiesOfLargeEntries(t *testing.T) {
	r := newCopyRig(t, NewBudget(1<<20))
	for r.copied() < 400 {
		r.survey(r.log, 0, "all")
	}
	r.log.bounds.bytes = 599 // the bodies have one to three bytes
	if s := r.survey(r.log, 0, "all"); len(s.Offsets) != 200 || len(s.Entries) != 200 {
		t.Errorf("%d of %d entries", len(s.Entries), len(s.Offsets))
	}
	r.log.bounds.bytes = 100
	if s := r.survey(r.log, 0, "all"); len(s.Offsets) != 200 || len(s.Entries) != 0 {
		t.Errorf("%d of %d entries", len(s.Entries), len(s.Offsets))
	}
}

// Few clients cause no copy, and neither do many if there is no room for copies.
func TestNoCopies(t *testing.T) {
	r := newCopyRig(t, NewBudget(1<<20))
	for i := range 3 {
		r.survey(r.log, 0, fmt.Sprint(i))
	}
	if n := r.copied(); n > 0 || r.scans.n > 0 {
		t.Errorf("three clients have come back, and %d entries are copied", n)
	}
	r = newCopyRig(t, nil)
	for i := range 40 {
		r.survey(r.log, 0, fmt.Sprint(i))
	}
	if n := r.copied(); n > 0 || r.scans.n > 0 || len(r.log.copies.segments) > 0 {
		t.Errorf("there is no room for copies, and %d entries are copied", n)
	}
}

// Copies take no more memory than they may. A segment that is too large is not scanned
// again and again, and does not cost others their copies.
func TestCopiesAreBounded(t *testing.T) {
	one := memory(history.Entry{Links: []history.Link{{Topic: "10"}, {Topic: "all"}}, Body: []byte("123")})
	if less := memory(history.Entry{Links: make([]history.Link, 2)}); one-less != 8 || less < 2*24 {
		t.Errorf("%d bytes, and %d without texts", one, less)
	}
	for segments, most := range map[int]int{0: 40 * one, 2: 150 * one} {
		r := newCopyRig(t, NewBudget(most))
		for i := range 200 {
			r.survey(r.log, 0, fmt.Sprint(i%40))
			r.copied()
		}
		if n := r.copied() / 64; n != segments {
			t.Errorf("there is room for %d segments, and %d are copied", segments, n)
		}
		if segments == 0 && r.scans.n > 3*7 {
			t.Errorf("%d scans for nothing", r.scans.n)
		}
	}
	r := newCopyRig(t, NewBudget(100*one))
	for r.copied() == 0 {
		r.survey(r.log, 0, "all")
	}
	n := r.copied()
	large := slices.Repeat([]history.Entry{{Born: r.known.Epoch, Body: make([]byte, one)}}, 101)
	r.log.copies.looked(r.known.Epoch, []history.Offset{64 * 9})
	if r.log.copies.add(r.known.Epoch, r.log.copies.segments[8], large) || r.copied() != n {
		t.Errorf("of %d entries %d are left", n, r.copied())
	}
}

// Logs may share a budget.
func TestCopiesShareABudget(t *testing.T) {
	budget, most := NewBudget(64*1000), int64(0)
	a, b := newCopyRig(t, budget), newCopyRig(t, budget)
	taken := func() (bytes int64) {
		for _, r := range []*copyRig{a, b} {
			for _, s := range r.log.copies.segments {
				bytes += int64(s.bytes)
			}
		}
		return bytes
	}
	for range 40 {
		a.survey(a.log, 0, "all")
		b.survey(b.log, 0, "all")
		if n := budget.used.Load(); n != taken() || n > budget.most {
			t.Fatalf("%d bytes of %d are taken, and counted %d", taken(), budget.most, n)
		}
		most = max(most, taken())
	}
	if most < budget.most/2 {
		t.Errorf("at most %d bytes of %d were taken", most, budget.most)
	}
	for _, r := range []*copyRig{a, b} {
		r.log.copies.enter(0)
		if n := budget.used.Load(); n != taken() || r == b && n > 0 {
			t.Errorf("%d bytes are still taken", n)
		}
	}
}

// Segments may end early. What counts is what was looked at, and not how long they might
// have become.
func TestCopiesOfShortSegments(t *testing.T) {
	c := &copies{size: 1000, least: 1, budget: NewBudget(1 << 20)}
	c.looked(1, []history.Offset{1001, 1016, 2001, 2016})
	for _, x := range []struct {
		end, top, stop history.Offset
		want           []uint64 // one of these
	}{
		{3001, 3001, 0, []uint64{1, 2}},
		{3001, 3001, 1999, []uint64{1, 2}},
		{3001, 3001, 2000, []uint64{2}},
		{3001, 2000, 500, []uint64{1}},
		{3001, 1000, 500, []uint64{0}},
		{2016, 2016, 2000, []uint64{2}},
		{2020, 2016, 2000, []uint64{0}},
	} {
		got := uint64(0)
		if s := c.next(history.Point{Epoch: 1, Offset: x.end}, x.top, x.stop); s != nil {
			got = s.number
		}
		if !slices.Contains(x.want, got) {
			t.Errorf("%+v: segment %d is due", x, got)
		}
		if c.due(history.Point{Epoch: 2, Offset: x.end}, x.top, x.stop) {
			t.Errorf("%+v: a segment is due in another epoch", x)
		}
	}
}

// A scan whose first entries are small does not ask for many at once that may be large.
func TestScansGrow(t *testing.T) {
	r := newMiniRig(t, store.Limits{Segment: 4096, Age: 80000, Bytes: 1 << 30})
	r.log.copies.budget = NewBudget(1 << 30)
	for i := range 200 {
		r.append(strings.Repeat("x", 1+i/16*10_000))
	}
	r.log.copies.looked(r.known.Epoch, []history.Offset{1})
	s := r.log.copies.segments[0]
	largest := &replySizes{Client: r.rdb}
	r.log.config.Client = largest
	if err := r.log.scan(t.Context(), r.known.Epoch, s, 0); err != nil || len(s.entries) != 200 {
		t.Errorf("%d entries, %v", len(s.entries), err)
	}
	if largest.most > 3<<20 {
		t.Errorf("an answer had %d bytes", largest.most)
	}
}

// replySizes notes the largest answer of a scan.
type replySizes struct {
	Client
	most int
}

func (r *replySizes) Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	cmds, err := r.Client.Pipelined(ctx, fn)
	r.most = max(r.most, len(fmt.Sprint(cmds[0].(*redis.Cmd).Val())))
	return cmds, err
}

// A Redis that scans slowly costs a survey some of its time, and not its answer.
func TestCopiesOfASlowRedis(t *testing.T) {
	r := newCopyRig(t, NewBudget(1<<20))
	r.log.config.Client = slowScans{r.rdb}
	for i := range 4 {
		if s := r.survey(r.log, 0, "all"); len(s.Offsets) != 200 || !s.Whole {
			t.Errorf("survey %d: %+v", i, s)
		}
	}
	if n := r.copied(); n > 0 {
		t.Errorf("%d entries are copied", n)
	}
}

type slowScans struct{ Client }

func (slowScans) Pipelined(ctx context.Context, _ func(redis.Pipeliner) error) ([]redis.Cmder, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A copy that is not used for long is forgotten by the next fence.
func TestCopiesExpire(t *testing.T) {
	r := newCopyRig(t, NewBudget(1<<20))
	for r.copied() < 400 {
		r.survey(r.log, 0, "all")
	}
	for _, s := range r.log.copies.segments {
		s.used = s.used.Add(-copiesFor)
	}
	r.log.copies.segments[3].used = time.Now()
	if _, err := r.log.Fence(t.Context(), r.known, 2); err != nil {
		t.Fatal(err)
	}
	if n := r.copied(); n != 64 {
		t.Errorf("%d entries are left", n)
	}
}

// Nothing of another epoch counts, not even if a server that was replaced answers a scan.
func TestCopiesOfAnotherEpoch(t *testing.T) {
	entry := func(at history.Offset, born history.Epoch) history.Entry {
		return history.Entry{Offset: at, Born: born, Links: []history.Link{{Topic: "a", Prev: at - 1}}}
	}
	c := &copies{size: 8, budget: NewBudget(1 << 20)}
	c.looked(1, []history.Offset{12})
	s := c.segments[1]
	for _, x := range []struct {
		epoch history.Epoch
		born  []history.Epoch // from offset 9 on
		has   bool
	}{
		{2, []history.Epoch{2, 2, 2}, false},
		{1, []history.Epoch{1, 2, 1, 1}, false},
		{1, []history.Epoch{1, 1, 2}, false},
		{1, []history.Epoch{1, 1, 1}, true},
	} {
		c.empty(s)
		var scanned []history.Entry
		for i, born := range x.born {
			scanned = append(scanned, entry(history.Offset(9+i), born))
		}
		if more := c.add(x.epoch, s, scanned); more != x.has {
			t.Errorf("%v: there is use for more: %v", x, more)
		}
		for at := history.Offset(8); at <= 16; at++ {
			walked := c.walk(1, []chain{{"a", at, at - 1}}, 1)
			if has := x.has && at >= 9 && at <= 11; (walked != nil) != has || c.walk(2, []chain{{"a", at, at - 1}}, 1) != nil {
				t.Errorf("%v: at %d: %+v", x, at, walked)
			}
		}
		want := history.Offset(3)
		if x.has {
			want = 11
		}
		if top := c.top(1, 17, 3); top != want || c.top(2, 17, 3) != 3 {
			t.Errorf("%v: there is a copy up to %d", x, top)
		}
	}
	if s.alone = 100; c.next(history.Point{Epoch: 1, Offset: 12}, 12, 0) != nil {
		t.Error("a segment of another epoch is scanned again")
	}
	if c.add(1, &segment{number: 1}, nil) {
		t.Error("a copy that was forgotten grows")
	}
}
