package rate

import (
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// The table of a Keyed takes 256 KB once it is used. A key needs a place only until
// its bucket is full again, so a node at its limit of 10,000 handshakes a second
// needs about 1,000.
const (
	sets = 2 << 10
	ways = 8
)

// Keyed has a token bucket for each key, in a table that never grows. A key without a
// place may have one of eight. It takes the one whose bucket is nearest to full. So
// the key that has spent most is remembered longest, and a key that loses its place
// gains a few tokens. No key is refused because of others.
type Keyed struct {
	interval int64 // nanoseconds for a token; 0 means no limit
	capacity int64 // what a bucket holds, in nanoseconds

	mu   sync.Mutex
	sets [][ways]place // nil until the first key
}

type place struct {
	key  uint64
	full int64 // on clock: when it will be full again
}

// NewKeyed returns buckets that get limit tokens a second and hold as many as come in
// span. A limit below 1 means no limit.
func NewKeyed(limit int, span time.Duration) *Keyed {
	if limit < 1 {
		return &Keyed{}
	}
	return &Keyed{interval: max(int64(time.Second)/int64(limit), 1), capacity: int64(span)}
}

// Allow takes a token from the key's bucket, if there is one.
func (r *Keyed) Allow(key uint64) bool {
	if r.interval == 0 {
		return true
	}
	now := clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sets == nil {
		r.sets = make([][ways]place, sets)
	}
	b := r.bucket(key)
	full := max(b.full, now) + r.interval
	if full-now > r.capacity {
		return false
	}
	b.full = full
	return true
}

// bucket returns the key's bucket: a full one if it has no place.
func (r *Keyed) bucket(key uint64) *place {
	set := &r.sets[key%sets]
	b := &set[0]
	for i := range set {
		if set[i].key == key {
			return &set[i]
		}
		if set[i].full < b.full {
			b = &set[i]
		}
	}
	*b = place{key: key}
	return b
}
