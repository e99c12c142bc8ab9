package uplink

import "sync"

// An Echo has the last of a Bus' own probes that came back. Probes have rising
// numbers, and any goroutine may wait for one. The zero Echo has heard none.
type Echo struct {
	mu      sync.Mutex
	last    uint64
	changed chan struct{} // closed when last changes; nil while nobody waits
}

// Hear notes that probe n has come back.
func (e *Echo) Hear(n uint64) {
	e.mu.Lock()
	var changed chan struct{}
	if n > e.last {
		e.last = n
		changed, e.changed = e.changed, nil
	}
	e.mu.Unlock()
	if changed != nil {
		close(changed)
	}
}

// Last returns the last probe that came back, and a channel that is closed when a
// later one does.
func (e *Echo) Last() (n uint64, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return e.last, e.changed
}
