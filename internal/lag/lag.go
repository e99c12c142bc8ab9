// Package lag measures how long messages wait in a queue, without a time for each
// message.
package lag

import (
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/histogram"
)

// A Meter follows one message of a queue at a time: that which is the last in it when
// the Meter begins, until it has left. A nil Meter follows none.
type Meter struct {
	since int64 // on clock: since when the message waits
	ahead int   // how many are in the queue up to it, itself included; 0 is none
	took  int64 // how long the message before it waited
	tell  *histogram.Histogram
}

// Begin follows the last of n messages, unless one is being followed. If tell is not
// nil it gets how long the one that is followed has waited in the end.
func (m *Meter) Begin(since int64, n int, tell *histogram.Histogram) {
	if m.ahead == 0 {
		m.since, m.ahead, m.tell = since, n, nil
	}
	if tell != nil {
		m.tell = tell
	}
}

// Passed takes note that the first n messages have left the queue.
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

// Dropped takes note that n messages behind the first keep are given up.
func (m *Meter) Dropped(keep, n int) {
	if m != nil && m.ahead > keep {
		m.ahead = max(keep, m.ahead-n)
	}
}

// Age returns how long the oldest message has waited, about: as long as the message
// that is followed, or as the one before it had in the end, whichever is longer.
func (m *Meter) Age() time.Duration {
	switch {
	case m == nil:
		return 0
	case m.ahead == 0:
		return time.Duration(m.took)
	}
	return time.Duration(max(m.took, clock.Now()-m.since))
}
