package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestIdle(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"27056.24 7660.03\n": 7660*time.Second + 30*time.Millisecond,
		"1.00 0.00\n":        0,
		"27056.24\n":         0,
		"":                   0,
		"a b":                0,
		"1.00 2.00 3.00":     0,
	} {
		if got := idle([]byte(text)); got.Round(time.Microsecond) != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// A gauge measures once a window, and a load that begins is seen.
func TestBusy(t *testing.T) {
	var g Gauge
	if g.Busy() {
		t.Error("busy before anything was measured")
	}
	first := g.last
	if first.idle == 0 || first.used == 0 {
		t.Fatalf("nothing was read: %+v", first)
	}
	if g.Busy(); g.last != first {
		t.Error("measured twice within a window")
	}
	var stop atomic.Bool
	var working sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		working.Go(func() {
			for !stop.Load() {
			}
		})
	}
	defer working.Wait()
	defer stop.Store(true)
	for !g.Busy() { // or the test's deadline
		time.Sleep(window / 8)
	}
}

func BenchmarkTake(b *testing.B) {
	now := time.Now()
	for b.Loop() {
		take(now)
	}
}
