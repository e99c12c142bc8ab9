// Package faults lets heraldtest break the Bus and the Registry in memory, which have
// no exported methods for that. Package herald sets the functions.
package faults

import "time"

// A Bus has the functions that break a *herald.MemoryBus. heraldtest documents each.
type Bus struct {
	Cut, Heal func()
	Lose      func(lose bool)
	Delay     func(d time.Duration)

	// Hand puts a packet behind those that wait for Receive, whatever fault there is.
	Hand func(topic string, data []byte)
}

// A Registry has the functions that break a handle of a *herald.MemoryRegistry.
type Registry struct{ Cut, Heal func() }

var (
	// OfBus takes a *herald.MemoryBus.
	OfBus func(bus any) Bus

	// OfRegistry takes a *herald.MemoryRegistry.
	OfRegistry func(registry any) Registry
)
