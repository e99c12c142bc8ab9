// Package faults lets heraldtest break what package herald keeps in memory, which
// has no exported methods for that. Package herald sets the functions.
package faults

import "time"

// A Bus is how to break a *herald.MemoryBus. heraldtest says what each does.
type Bus struct {
	Cut, Heal func()
	Lose      func(lose bool)
	Delay     func(d time.Duration)

	// Hand hands a packet over behind those that wait for Receive, whatever
	// fault there is.
	Hand func(topic string, data []byte)
}

// A Registry is how to break a handle of a *herald.MemoryRegistry.
type Registry struct{ Cut, Heal func() }

var (
	// OfBus takes a *herald.MemoryBus.
	OfBus func(bus any) Bus

	// OfRegistry takes a *herald.MemoryRegistry.
	OfRegistry func(registry any) Registry
)
