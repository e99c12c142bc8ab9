// Package netpoll tells when plain TCP connections can be read. One goroutine waits
// for all of them, so a waiting connection takes no goroutine, no stack and no
// buffer. For a busy connection Go's own poller is faster.
package netpoll

import (
	"sync"
	"time"
)

// Quiet is how long a connection must be quiet before it is left to a Poller. It is a
// variable for tests, which set it before they make a Hub.
var Quiet = 5 * time.Second

// A Place is a connection's place in a Poller. The zero Place is none.
type Place uint32

// A Ticket is what Prepare returns for Arm.
type Ticket struct {
	place      Place
	generation uint32
	known      bool // the kernel knows the connection
}

// pageSize is how many places are allocated at once. A page is never moved.
const pageSize = 1024

// A table has the connections of a Poller by their places.
type table[T any] struct {
	mu    sync.Mutex
	pages []*[pageSize]slot[T]
	next  Place   // the highest place ever taken
	free  []Place // places that were given up
}

// A slot is what a Poller knows of a connection.
//
// An event may be under way while its connection is closed, and its descriptor or its
// place is given to another one. So each event brings the generation that its slot
// had when it was armed, and counts only if the slot still has it.
type slot[T any] struct {
	value      T
	generation uint32 // changes with each Prepare and Release
	armed      bool   // an event of this generation is awaited
	known      bool   // the kernel knows the connection
}

// prepare readies the place for the next event. If there is none, it takes a new one.
func (t *table[T]) prepare(place *Place, value T) Ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	if *place == 0 {
		*place = t.take()
	}
	s := t.slot(*place)
	ticket := Ticket{*place, s.generation + 1, s.known}
	*s = slot[T]{value: value, generation: ticket.generation, armed: true, known: true}
	return ticket
}

func (t *table[T]) take() Place {
	if n := len(t.free); n > 0 {
		p := t.free[n-1]
		t.free = t.free[:n-1]
		return p
	}
	if int(t.next) == len(t.pages)*pageSize {
		t.pages = append(t.pages, new([pageSize]slot[T]))
	}
	t.next++
	return t.next
}

func (t *table[T]) slot(p Place) *slot[T] {
	p--
	return &t.pages[p/pageSize][p%pageSize]
}

// withdraw undoes prepare, because the kernel has refused the event.
func (t *table[T]) withdraw(k Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.slot(k.place); s.generation == k.generation {
		s.armed, s.known = false, k.known
	}
}

// event returns the connection that an event is for. ok is false if nobody waits for
// the event any more.
func (t *table[T]) event(place Place, generation uint32) (value T, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if place == 0 || place > t.next {
		return value, false
	}
	s := t.slot(place)
	if !s.armed || s.generation != generation {
		return value, false
	}
	s.armed = false
	return s.value, true
}

// release gives the place up.
func (t *table[T]) release(place *Place) {
	if *place == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.slot(*place)
	*s = slot[T]{generation: s.generation + 1}
	t.free = append(t.free, *place)
	*place = 0
}

// taken returns how many places are taken.
func (t *table[T]) taken() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int(t.next) - len(t.free)
}
