// Package cpu tells whether the machine, or the process' share of it, has
// processors to spare.
package cpu

import (
	"runtime"
	"sync"
	"time"
)

// The processors are busy when the load was busyAbove in two windows one after the
// other, and until it is below busyBelow: who waits because they are busy gives them
// time to idle.
const (
	window    = 250 * time.Millisecond // that a load is measured over
	stale     = 4 * window             // when a sample is too old to measure from
	busyAbove = 0.85
	busyBelow = 0.70
)

// A Gauge tells whether the processors are busy. The zero value is ready to use.
// Its method may be called by any number of goroutines.
type Gauge struct {
	mu   sync.Mutex
	last sample
	high int // windows one after the other with a load of busyAbove
	busy bool
}

// A sample is what was known at a time.
type sample struct {
	at   time.Time
	idle time.Duration // of all the machine's processors since it was started; 0: not known
	used time.Duration // of any processor, by this process
}

// Busy returns whether the processors were busy in the last half a second or so. It
// answers false if nobody has asked for a second, and on systems that do not tell: all
// but Linux. Four times a second at most it reads a file of the kernel's, which takes
// some microseconds.
func (g *Gauge) Busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.last.at) >= window {
		g.add(take(now), runtime.NumCPU(), runtime.GOMAXPROCS(0))
	}
	return g.busy
}

// add makes s the last sample. The machine has n processors that this process may
// use, procs of them at once.
func (g *Gauge) add(s sample, n, procs int) {
	last := g.last
	g.last = s
	taken := s.at.Sub(last.at)
	if taken >= stale || s.idle == 0 {
		g.high, g.busy = 0, false
		return
	}
	share := func(d time.Duration, n int) float64 { return float64(d) / float64(taken) / float64(n) }
	load := max(1-share(s.idle-last.idle, n), share(s.used-last.used, procs))
	if g.high++; load < busyAbove {
		g.high = 0
	}
	g.busy = g.high > 1 || g.busy && load >= busyBelow
}
