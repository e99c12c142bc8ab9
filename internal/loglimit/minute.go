package loglimit

import (
	"sync"
	"time"
)

// A Minute lets one line a minute through, for events of one kind.
type Minute struct {
	mu    sync.Mutex
	told  time.Time // when a line was last let through; zero if never
	since int       // how many events came after it
}

// Tell counts an event, and reports whether to log it now. count is how many have come
// since the last line, this one included.
func (m *Minute) Tell() (count int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since++
	if now := time.Now(); m.told.IsZero() || now.Sub(m.told) >= time.Minute {
		count, m.since, m.told = m.since, 0, now
		return count, true
	}
	return 0, false
}
