// Package cpu tells whether the machine, or the process' share of it, has
// processors to spare.
package cpu

import (
	"runtime"
	"sync"
	"time"
)

// The processors become busy when the load was busyAbove in two windows in a row, and
// stay busy until it is below busyBelow: goroutines that rest because of that leave
// them idle for a while.
const (
	window    = 250 * time.Millisecond // over which a load is measured
	stale     = 4 * window             // the age at which a sample is too old to measure from
	busyAbove = 0.85
	busyBelow = 0.70
)

// A Gauge tells whether the processors are busy. The zero value is ready to use. Its
// method may be called concurrently.
type Gauge struct {
	mu   sync.Mutex
	last sample
	high int // how many windows in a row had a load of busyAbove
	busy bool
}

// A sample is what the system told at a time.
type sample struct {
	at    time.Time
	idle  time.Duration // of all the machine's processors together since it was started; 0 if not known
	used  time.Duration // processor time of this process
	quota float64       // how many processors this process may use on average; 0 if no quota is known
}

// Busy reports whether the processors were busy in the last half second or so. It
// returns false if nobody has asked for a second, and on systems that do not tell:
// all but Linux. It reads three files of the kernel at most four times a second, which
// takes some tens of microseconds.
func (g *Gauge) Busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.last.at) >= window {
		g.add(take(now), runtime.NumCPU(), runtime.GOMAXPROCS(0))
	}
	return g.busy
}

// add makes s the last sample. This process may use n processors of the machine,
// procs of them at once. A quota may be less than procs: Go rounds it up, and to two
// at least (https://go.dev/doc/go1.25#container-aware-gomaxprocs).
func (g *Gauge) add(s sample, n, procs int) {
	last := g.last
	g.last = s
	taken := s.at.Sub(last.at)
	if taken >= stale || s.idle == 0 {
		g.high, g.busy = 0, false
		return
	}
	most := float64(procs)
	if s.quota > 0 {
		most = min(most, s.quota)
	}
	share := func(d time.Duration, n float64) float64 { return float64(d) / float64(taken) / n }
	load := max(1-share(s.idle-last.idle, float64(n)), share(s.used-last.used, most))
	if g.high++; load < busyAbove {
		g.high = 0
	}
	g.busy = g.high > 1 || g.busy && load >= busyBelow
}
