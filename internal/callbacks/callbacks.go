// Package callbacks knows which of the user's callbacks run, since when, and how much
// time finished ones took.
package callbacks

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/histogram"
)

// A Set has the calls under way. Its zero value is empty. Its methods may be called
// concurrently.
type Set struct {
	shards [16]shard // by Call.Key, so that few wait for each other
}

type shard struct {
	mu    sync.Mutex
	calls *Call  // a list of those under way
	sums  []*sum // of those that have returned

	_ [64]byte // so that no two shards share a cache line
}

type sum struct {
	name string
	took histogram.Counts
}

// A Call is one call of a callback under way.
type Call struct {
	Name string                   // of the callback
	User string                   // whom it is about, or ""
	Conn interface{ ID() string } // the Conn that it is about, or nil
	Key  uint64                   // any value; calls that come one after the other should have the same

	began int64 // on clock
	told  bool  // Slow has returned it

	shard      *shard
	next, prev *Call
}

// A Running is a copy of a Call at some moment.
type Running struct {
	Name, User string
	Conn       string        // its id, or ""
	For        time.Duration // since it began
}

var pool = sync.Pool{New: func() any { return new(Call) }}

// Begin notes that a call begins. The caller calls End of the result, once.
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

// End notes that the call has returned. The Call must not be used after that.
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

// Slow returns the calls that have run for longer than limit, each only once.
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

// Totals returns, by callback, how long its finished calls took.
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
