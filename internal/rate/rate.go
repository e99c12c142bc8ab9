// Package rate has token buckets: single ones, and many by key in a table that never
// grows. They go by the time of package clock.
package rate

import "github.com/heraldgo/herald/internal/clock"

// A Bucket is a token bucket. The zero Bucket is full.
type Bucket struct {
	last   int64 // on clock
	tokens float64
}

// Allow takes a token, if there is one, from a bucket that holds a second's worth. A
// limit below 1 means no limit.
func (b *Bucket) Allow(limit int) bool {
	return limit < 1 || b.Spend(clock.Now(), 1, int64(limit), int64(limit))
}

// Spend takes n tokens at the time now, or returns false if there are fewer. The
// bucket gets limit tokens a second, up to burst.
func (b *Bucket) Spend(now, n, limit, burst int64) bool {
	if b.last == 0 {
		b.tokens = float64(burst)
	}
	b.tokens = max(b.tokens, min(float64(burst), b.tokens+tokensOf(now-b.last, limit)))
	b.last = now
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}

// maxBacklog is the most bytes, sent by a client while nobody read, that are
// credited: more than the kernel buffers for a connection (6 MB on Linux by default).
const maxBacklog = 8 << 20

// Unread gives the bucket the tokens for the time from then to now, even above burst.
// Nothing was read in that time. What has come since is read at once now, and is no
// burst of the client.
func (b *Bucket) Unread(then, now, limit, burst int64) {
	b.tokens = max(b.tokens, min(float64(burst+maxBacklog), b.tokens+tokensOf(now-then, limit)))
	b.last = now
}

// tokensOf returns how many tokens a bucket gets in a time.
func tokensOf(time, limit int64) float64 { return float64(time) / 1e9 * float64(limit) }
