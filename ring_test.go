package herald

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// A ring gives out what was put in, in that order, and keeps nothing of it.
func TestRing(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		var first [1]*int
		r := ring[*int]{buf: first[:]}
		var want []*int
		for range 1000 {
			if random.IntN(100) < 55 {
				v := new(int)
				r.push(v)
				want = append(want, v)
			} else if r.n > 0 {
				if got := r.pop(); got != want[0] {
					t.Fatalf("seed %d: another value than the first came out", seed)
				}
				want = want[1:]
			}
			for i, v := range want {
				if *r.at(i) != v {
					t.Fatalf("seed %d: value %d of %d is another", seed, i, len(want))
				}
			}
			kept := 0
			for _, v := range slices.Concat(r.buf, first[:]) {
				if v != nil {
					kept++
				}
			}
			if len(r.buf) > 1 && kept != len(want) || r.n != len(want) {
				t.Fatalf("seed %d: %d values, %d counted, %d kept", seed, len(want), r.n, kept)
			}
		}
	}
}
