package herald

import "time"

// spend takes n tokens at the time now, and answers false if there are not
// as many. The bucket gets limit tokens a second, and holds burst.
func (r *rate) spend(now, n, limit, burst int64) bool {
	if r.last == 0 {
		r.tokens = float64(burst)
	}
	r.tokens = min(float64(burst), r.tokens+float64(now-r.last)/float64(time.Second)*float64(limit))
	r.last = now
	if r.tokens < float64(n) {
		return false
	}
	r.tokens -= float64(n)
	return true
}
