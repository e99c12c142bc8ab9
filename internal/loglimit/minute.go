package loglimit

import (
	"sync"
	"time"
)

// A Minute lets one line a minute through, of those that tell of the same.
type Minute struct {
	mu    sync.Mutex
	told  time.Time // zero is never
	since int       // how often it happened since then
}

// Tell counts one, and says whether to tell of it now, with all since the last
// line.
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
