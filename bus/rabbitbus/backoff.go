package rabbitbus

import (
	"math/rand/v2"
	"time"
)

// A backoff spaces out attempts to connect: the first is free, the others
// wait 50 ms and up to 5 s, with jitter.
type backoff struct{ failures int }

const (
	backoffStart = 50 * time.Millisecond
	backoffMax   = 5 * time.Second
)

// fail counts a failed attempt and returns how long to wait.
func (b *backoff) fail() time.Duration {
	d := min(backoffStart<<min(b.failures, 10), backoffMax)
	b.failures++
	return d/2 + rand.N(d/2)
}

// lost counts a link that lived for d and returns how long to wait: not at
// all, unless links die as soon as they are born.
func (b *backoff) lost(d time.Duration) time.Duration {
	if d < backoffMax && b.failures > 0 {
		return b.fail()
	}
	b.failures = 1
	return 0
}
