package rate

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Each key has a bucket of its own, that holds what comes in the span.
func TestKeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewKeyed(10, 2*time.Second)
		take := func(key uint64, n int) (taken int) {
			for range n {
				if r.Allow(key) {
					taken++
				}
			}
			return taken
		}
		for _, step := range []struct {
			pause   time.Duration
			key     uint64
			n, want int
		}{
			{0, 1, 30, 20}, {0, 2, 5, 5}, {100 * time.Millisecond, 1, 5, 1}, {time.Second, 1, 30, 10},
			{0, 2, 30, 20}, {time.Hour, 1, 30, 20}, {0, 0, 30, 20},
		} {
			time.Sleep(step.pause)
			if got := take(step.key, step.n); got != step.want {
				t.Errorf("%+v: got %d", step, got)
			}
		}
		for _, limit := range []int{0, -1} {
			if off := NewKeyed(limit, time.Second); !off.Allow(1) || off.sets != nil {
				t.Errorf("a limit of %d is one", limit)
			}
		}
		if one := NewKeyed(1, time.Second); !one.Allow(1) || one.Allow(1) {
			t.Error("a limit of 1 is not one a second")
		}
	})
}

// A flood of keys makes the table no larger, free nobody who has spent the
// bucket, and have nobody refused who has not.
func TestKeyedUnderManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewKeyed(10, time.Second)
		seed := maphash.MakeSeed()
		spent := maphash.String(seed, "mallory")
		for r.Allow(spent) {
		}
		for i := range 200_000 {
			if key := maphash.Comparable(seed, i); !r.Allow(key) && key != spent {
				t.Fatalf("key %d was refused its first token", i)
			}
		}
		if r.Allow(spent) {
			t.Error("a flood of other keys filled the bucket of one that had spent it")
		}
		if len(r.sets) != sets {
			t.Errorf("%d sets", len(r.sets))
		}
	})
}

// All goroutines together get what one would.
func TestKeyedRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewKeyed(1_000, time.Second)
		var taken [4]atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 4_000 {
					if key := rand.N(uint64(len(taken))); r.Allow(key) {
						taken[key].Add(1)
					}
				}
			})
		}
		all.Wait()
		for key := range taken {
			if n := taken[key].Load(); n != 1_000 {
				t.Errorf("key %d got %d of 1,000 tokens", key, n)
			}
		}
	})
}

func BenchmarkKeyed(b *testing.B) {
	r := NewKeyed(1_000, time.Second)
	b.RunParallel(func(pb *testing.PB) {
		for key := rand.Uint64(); pb.Next(); key++ {
			r.Allow(key)
		}
	})
}
