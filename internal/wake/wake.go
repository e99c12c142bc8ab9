// Package wake wakes goroutines that have something to do.
package wake

// A Signal is set by any goroutine that has left something to do, and received by the
// one that does it. If it is set several times in between, it is received once.
type Signal chan struct{}

// New returns a Signal that is not set.
func New() Signal { return make(Signal, 1) }

// Set sets the Signal. It never waits.
func (s Signal) Set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
