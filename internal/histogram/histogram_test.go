package histogram

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// A duration is in the first bucket whose bound it does not exceed, and bounds are a
// quarter of an octave apart.
func TestBuckets(t *testing.T) {
	check := func(d time.Duration) {
		t.Helper()
		var c Counts
		c.Observe(d)
		got := slices.Index(c.Buckets[:], 1)
		if got < 0 {
			t.Fatalf("%v is in no bucket", d)
		}
		if d > Bound(got) || got > 0 && d <= Bound(got-1) {
			t.Errorf("%v is in bucket %d, up to %v", d, got, Bound(got))
		}
	}
	for i := range Size - 1 {
		seconds := math.Exp2(Lowest + float64(i)/PerOctave)
		if got := Bound(i).Seconds(); math.Abs(got-seconds) > 2e-9 {
			t.Errorf("bound %d is %g s, want %g", i, got, seconds)
		}
		check(Bound(i))
		check(Bound(i) + 1)
	}
	if last := Bound(Size - 2); last != 1024*time.Second {
		t.Errorf("the last bucket has what took more than %v", last)
	}
	for range 10_000 {
		check(time.Duration(rand.Uint64() >> 1 >> rand.IntN(63)))
	}
	check(0)
	check(-time.Second)
	check(math.MaxInt64)
}

// The search for a bucket begins with the one of the shortest duration that is as long in
// bits.
func TestFirst(t *testing.T) {
	for n := 1; n < len(first); n++ {
		if shortest := time.Duration(1) << (n - 1); first[n] != bucketOf(shortest) {
			t.Errorf("for %d bits it begins with %d, and %v is in %d", n, first[n], shortest, bucketOf(shortest))
		}
	}
}

// Any goroutine may count, and nothing is lost.
func TestHistogram(t *testing.T) {
	var h Histogram
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 1_000 {
				h.Observe(time.Duration(i) * time.Millisecond)
			}
		})
	}
	all.Wait()
	sum := h.Counts()
	sum.Add(h.Counts())
	n := uint64(0)
	for _, b := range sum.Buckets {
		n += b
	}
	if n != 16_000 || sum.Sum != 2*28*time.Second {
		t.Errorf("%d durations, %v together", n, sum.Sum)
	}
}

func BenchmarkObserve(b *testing.B) {
	var c Counts
	for b.Loop() {
		c.Observe(123 * time.Microsecond)
	}
}
