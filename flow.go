package herald

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
