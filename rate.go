package herald

import "github.com/heraldgo/herald/internal/clock"

// A rate is a token bucket.
type rate struct {
	last   int64 // on clock
	tokens float64
}

// allow takes a token, if there is one, of a bucket that holds a second's worth.
// A limit below 1 is none.
func (r *rate) allow(limit int) bool {
	return limit < 1 || r.spend(clock.Now(), 1, int64(limit), int64(limit))
}

// spend takes n tokens at the time now, and answers false if there are not
// as many. The bucket gets limit tokens a second, up to burst.
func (r *rate) spend(now, n, limit, burst int64) bool {
	if r.last == 0 {
		r.tokens = float64(burst)
	}
	r.tokens = max(r.tokens, min(float64(burst), r.tokens+tokensOf(now-r.last, limit)))
	r.last = now
	if r.tokens < float64(n) {
		return false
	}
	r.tokens -= float64(n)
	return true
}

// maxBacklog is the most that counts of what a client has sent while nobody
// read: more than the kernel keeps of a connection (6 MB on Linux by default).
const maxBacklog = 8 << 20

// unread gives the bucket what it would have got from then to now, above burst
// too. Nothing was read meanwhile: what has come since is read at once now, and is
// no burst of the client's.
func (r *rate) unread(then, now, limit, burst int64) {
	r.tokens = max(r.tokens, min(float64(burst+maxBacklog), r.tokens+tokensOf(now-then, limit)))
	r.last = now
}

// tokensOf returns the tokens that a bucket gets in a time.
func tokensOf(time, limit int64) float64 { return float64(time) / 1e9 * float64(limit) }
