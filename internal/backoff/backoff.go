// Package backoff spaces out a Bus' attempts to connect to its broker.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// first is the wait after one failure; each further one doubles it.
const first = 50 * time.Millisecond

// DefaultMax is the longest wait if a Backoff does not name one.
const DefaultMax = 5 * time.Second

// A Backoff says how long to wait before the next attempt to keep one link:
// not at all at first, then 50 ms and, failure by failure, up to Max, with
// jitter, so that nodes that have lost the same broker do not come back all at
// once. One goroutine at a time uses it. The zero value is ready to use.
type Backoff struct {
	Max time.Duration // the longest wait, above zero; 0: DefaultMax

	failures int // in a row
}

// Fail counts a failed attempt and returns how long to wait: between half of
// what is due and all of it.
func (b *Backoff) Fail() time.Duration {
	d := min(first<<min(b.failures, 10), b.max())
	b.failures++
	return d/2 + rand.N(d/2)
}

// Reconnect calls connect after a link is lost that lived for d, and again
// until it returns nil, with the waits that are due. It returns false if
// ctx ends in one of them.
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

// Lost counts a link that lived for d and returns how long to wait: not at
// all, unless links die as soon as they are born.
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
