// Package callbacks knows which of the user's callbacks run and since when, and
// how much time those took that have returned.
package callbacks

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/histogram"
)

// A Set has the calls that are under way. Its zero value is empty. Any goroutine
// may call its methods.
type Set struct {
	shards [16]shard // by Call.Key, so that few wait for each other
}

type shard struct {
	mu    sync.Mutex
	calls *Call  // that run: a list
	sums  []*sum // of those that have returned

	_ [64]byte // so that no two share a line of memory
}

type sum struct {
	name string
	took histogram.Counts
}

// A Call is one call of a callback that runs.
type Call struct {
	Name string                   // of the callback
	User string                   // whom it is about, or ""
	Conn interface{ ID() string } // that it is about, or nil
	Key  uint64                   // of any value; the same one for calls that come one after the other

	began int64 // on clock
	told  bool  // by Slow

	shard      *shard
	next, prev *Call
}

// A Running is a Call as it was when it was asked for.
type Running struct {
	Name, User string
	Conn       string        // its id, or ""
	For        time.Duration // since it began
}

var pool = sync.Pool{New: func() any { return new(Call) }}

// Begin counts a call in. The caller calls End of what it returns, once.
func (s *Set) Begin(call Call) *Call {
	c := pool.Get().(*Call)
	*c = call
	c.began = clock.Now()
	c.shard = &s.shards[call.Key%uint64(len(s.shards))]
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if c.next = c.shard.calls; c.next != nil {
		c.next.prev = c
	}
	c.shard.calls = c
	return c
}

// End takes note that the call has returned.
func (c *Call) End() {
	s := c.shard
	s.mu.Lock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		s.calls = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	i := slices.IndexFunc(s.sums, func(t *sum) bool { return t.name == c.Name })
	if i < 0 {
		i = len(s.sums)
		s.sums = append(s.sums, &sum{name: c.Name})
	}
	s.sums[i].took.Observe(time.Duration(clock.Now() - c.began))
	s.mu.Unlock()
	*c = Call{}
	pool.Put(c)
}

// Running returns the calls that run, the oldest first.
func (s *Set) Running() []Running { return s.running(func(*Call, int64) bool { return true }) }

// Slow returns those that have run for longer than limit, each once.
func (s *Set) Slow(limit time.Duration) []Running {
	return s.running(func(c *Call, now int64) bool {
		if c.told || now-c.began <= int64(limit) {
			return false
		}
		c.told = true
		return true
	})
}

func (s *Set) running(which func(c *Call, now int64) bool) (found []Running) {
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock()
		now := clock.Now()
		for c := shard.calls; c != nil; c = c.next {
			if which(c, now) {
				r := Running{Name: c.Name, User: c.User, For: time.Duration(now - c.began)}
				if c.Conn != nil {
					r.Conn = c.Conn.ID()
				}
				found = append(found, r)
			}
		}
		shard.mu.Unlock()
	}
	slices.SortStableFunc(found, func(a, b Running) int { return cmp.Compare(b.For, a.For) })
	return found
}

// Totals returns what those calls of each callback took that have returned.
func (s *Set) Totals() map[string]*histogram.Counts {
	totals := make(map[string]*histogram.Counts)
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock()
		for _, sum := range shard.sums {
			if totals[sum.name] == nil {
				totals[sum.name] = new(histogram.Counts)
			}
			totals[sum.name].Add(&sum.took)
		}
		shard.mu.Unlock()
	}
	return totals
}
