// Package wake wakes goroutines that have something to do.
package wake

// A Signal is set by whoever has left something to do, and received by the one
// goroutine that does it. If it is set several times before, it is received once.
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
