// Package backoff spaces out a Bus' attempts to connect to its broker.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// first is the wait after one failure. Each further failure doubles it.
const first = 50 * time.Millisecond

// DefaultMax is the longest wait if a Backoff does not name one.
const DefaultMax = 5 * time.Second

// A Backoff says how long to wait before the next attempt to keep one link: at first
// not at all, then 50 ms, doubled with each failure up to Max. It adds jitter, so
// that nodes that have lost the same broker do not all come back at once. Only one
// goroutine at a time may use it. The zero value is ready to use.
type Backoff struct {
	Max time.Duration // the longest wait; 0 means DefaultMax

	failures int // in a row
}

// Fail counts a failed attempt and returns how long to wait: between half and all of
// what is due.
func (b *Backoff) Fail() time.Duration {
	d := min(first<<min(b.failures, 10), b.max())
	b.failures++
	return d/2 + rand.N(d/2)
}

// Reconnect calls connect after the loss of a link that lived for d, and again until
// it returns nil, with waits in between. It returns false if ctx ends during a wait.
func (b *Backoff) Reconnect(ctx context.Context, d time.Duration, connect func() error) bool {
	for wait := b.Lost(d); ; wait = b.Fail() {
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return false
			}
		}
		if connect() == nil {
			return true
		}
	}
}

// Lost counts a link that lived for d and returns how long to wait: not at all,
// unless links keep dying young.
func (b *Backoff) Lost(d time.Duration) time.Duration {
	if d < b.max() && b.failures > 0 {
		return b.Fail()
	}
	b.failures = 1
	return 0
}

func (b *Backoff) max() time.Duration {
	if b.Max == 0 {
		return DefaultMax
	}
	return b.Max
}
