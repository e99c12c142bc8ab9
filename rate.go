package herald

import "time"

// A rate is a token bucket that holds a second's worth.
type rate struct {
	last   int64 // on clock
	tokens float64
}

// allow takes a token, where there is one. A limit below 1 is none.
func (r *rate) allow(limit int) bool {
	if limit < 1 {
		return true
	}
	now := clock()
	if r.last == 0 {
		r.tokens = float64(limit)
	}
	r.tokens = min(float64(limit), r.tokens+float64(now-r.last)/float64(time.Second)*float64(limit))
	r.last = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}
