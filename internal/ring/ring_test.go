package ring

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
		r := Ring[*int]{Buf: first[:]}
		var want []*int
		for range 1000 {
			if random.IntN(100) < 55 {
				v := new(int)
				r.Push(v)
				want = append(want, v)
			} else if i := random.IntN(max(1, 4*r.Len())); i < r.Len() {
				if got := r.Remove(i); got != want[i] {
					t.Fatalf("seed %d: another value than the %d-th came out", seed, i)
				}
				want = slices.Delete(want, i, i+1)
			} else if r.Len() > 0 {
				if got := r.Pop(); got != want[0] {
					t.Fatalf("seed %d: another value than the first came out", seed)
				}
				want = want[1:]
			}
			for i, v := range want {
				if *r.At(i) != v {
					t.Fatalf("seed %d: value %d of %d is another", seed, i, len(want))
				}
			}
			kept := 0
			for _, v := range slices.Concat(r.Buf, first[:]) {
				if v != nil {
					kept++
				}
			}
			if len(r.Buf) > 1 && kept != len(want) || r.Len() != len(want) {
				t.Fatalf("seed %d: %d values, %d counted, %d kept", seed, len(want), r.Len(), kept)
			}
		}
	}
}

// Of the values before the one that is taken out and those behind it, the fewer move.
func TestRemoveMoves(t *testing.T) {
	for i := range 8 {
		var r Ring[int]
		for n := range 8 {
			r.Push(n)
		}
		first, last := r.At(0), r.At(7)
		r.Remove(i)
		if before := i < 8/2; before != (r.At(0) != first) || before != (r.At(6) == last) {
			t.Errorf("to take out value %d, those before it move: %v", i, r.At(0) != first)
		}
	}
}
