package heraldclient

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// A backoff spaces out the tries to connect, with "full jitter": a random time
// between nothing and a bound that doubles (Brooker, "Exponential Backoff And
// Jitter", AWS Architecture Blog, 2015). After a restart of the servers their
// clients come back spread out, not in waves.
type backoff struct {
	min, max time.Duration
	tries    int // in a row
}

// manyTries is how many tries one counts for if it failed because the server is too
// busy, or because it refuses what the client says.
const manyTries = 4

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = 5 * time.Minute

// reset says that the server serves.
func (b *backoff) reset() { b.tries = 0 }

// wait returns how long to wait after a connection that ended with err, or after a
// failed try.
func (b *backoff) wait(err error) time.Duration {
	var asked time.Duration
	var closed *CloseError
	if errors.As(err, &closed) {
		asked = min(closed.retryAfter, maxRetryAfter)
		if slices.Contains(later, closed.Code) {
			b.tries = max(b.tries, manyTries)
		}
	}
	bound := b.max
	if b.tries < 32 && b.min<<b.tries>>b.tries == b.min {
		bound = min(b.max, b.min<<b.tries)
	}
	b.tries++
	return asked + rand.N(bound+1)
}

// Close codes that decide what a client does next: RFC 6455 section 7.4 and
// herald's own. An HTTP status is told as one of these, as herald's Hub does it.
const (
	httpCode           = 4000
	closeTryAgainLater = 1013
	closeUnauthorized  = httpCode + http.StatusUnauthorized
	closeReplaced      = 4409
	closeExpired       = 4410
)

// later are the codes after which a client waits longer.
var later = []int{
	closeTryAgainLater, httpCode + http.StatusServiceUnavailable, httpCode + http.StatusTooManyRequests,
	1002, 1007, 1008, 1009, // what the client says is wrong, or refused
}

// retryAfter reads the header (RFC 9110 section 10.2.3). It returns 0 if that says
// nothing.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
