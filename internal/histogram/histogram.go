// Package histogram counts durations by size, in buckets a quarter of an octave wide.
// Prometheus' native histograms have the same bounds in their schema 2.
package histogram

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// The first bucket counts durations of up to 2^Lowest seconds, 8 µs. The last but one
// ends at 2^highest seconds, 17 minutes; the last counts longer ones.
const (
	Lowest    = -17
	highest   = 10
	PerOctave = 4
	Size      = (highest-Lowest)*PerOctave + 2
)

var (
	bounds [Size]time.Duration
	first  [64]int // the first bucket that a number of nanoseconds may be in, by its length in bits
)

func init() {
	for i := range Size - 1 {
		bounds[i] = time.Duration(math.Exp2(float64(i)/PerOctave+Lowest) * 1e9)
	}
	bounds[Size-1] = math.MaxInt64
	for n := 2; n < len(first); n++ {
		i := first[n-1]
		for bounds[i] < 1<<(n-1) {
			i++
		}
		first[n] = i
	}
}

// Bound returns the longest duration of a bucket.
func Bound(bucket int) time.Duration { return bounds[bucket] }

func bucketOf(d time.Duration) int {
	d = max(d, 0)
	i := first[bits.Len64(uint64(d))]
	for d > bounds[i] {
		i++
	}
	return i
}

// Counts is a histogram that its owner guards. The zero value is empty.
type Counts struct {
	Sum     time.Duration
	Buckets [Size]uint64
}

// Observe counts a duration.
func (c *Counts) Observe(d time.Duration) {
	c.Sum += d
	c.Buckets[bucketOf(d)]++
}

// Add counts what another has counted.
func (c *Counts) Add(o *Counts) {
	c.Sum += o.Sum
	for i, n := range o.Buckets {
		c.Buckets[i] += n
	}
}

// A Histogram may be used by any number of goroutines. The zero value is empty.
type Histogram struct {
	sum     atomic.Int64
	buckets [Size]atomic.Uint64
}

// Observe counts a duration.
func (h *Histogram) Observe(d time.Duration) {
	h.sum.Add(int64(d))
	h.buckets[bucketOf(d)].Add(1)
}

// Counts returns what has been counted. A duration that is counted meanwhile may be
// in the sum alone, or in its bucket alone.
func (h *Histogram) Counts() *Counts {
	c := &Counts{Sum: time.Duration(h.sum.Load())}
	for i := range h.buckets {
		c.Buckets[i] = h.buckets[i].Load()
	}
	return c
}
