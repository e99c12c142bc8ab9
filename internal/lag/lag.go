// Package lag measures how long messages wait in a queue, without a time for each
// message.
package lag

import (
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/histogram"
)

// A Meter follows one message of a queue at a time: the last one in the queue when
// the Meter begins, until it has left. A nil Meter follows none.
type Meter struct {
	since int64 // on clock: since when the message has waited
	ahead int   // how many are in the queue up to it, itself included; 0 if none is followed
	took  int64 // how long the message before it waited
	tell  *histogram.Histogram
}

// Begin follows the last of n messages, which has waited since the time since, unless
// one is followed already. If tell is not nil, it gets how long the followed message
// waits.
func (m *Meter) Begin(since int64, n int, tell *histogram.Histogram) {
	if m.ahead == 0 {
		m.since, m.ahead, m.tell = since, n, nil
	}
	if tell != nil {
		m.tell = tell
	}
}

// Passed notes that the first n messages have left the queue.
func (m *Meter) Passed(n int) {
	if m == nil || m.ahead == 0 {
		return
	}
	if m.ahead -= n; m.ahead > 0 {
		return
	}
	m.ahead = 0
	m.took = clock.Now() - m.since
	if m.tell != nil {
		m.tell.Observe(time.Duration(m.took))
	}
}

// Dropped notes that n messages behind the first keep have been given up.
func (m *Meter) Dropped(keep, n int) {
	if m != nil && m.ahead > keep {
		m.ahead = max(keep, m.ahead-n)
	}
}

// Age returns roughly how long the oldest message has waited: as long as the message
// that is followed, or as the one before it did in total, whichever is longer.
func (m *Meter) Age() time.Duration {
	switch {
	case m == nil:
		return 0
	case m.ahead == 0:
		return time.Duration(m.took)
	}
	return time.Duration(max(m.took, clock.Now()-m.since))
}
