// Package memlog has the log of a partition in memory, for the nodes of one
// process. It is everything that a driver.Driver needs of a broker, with its
// faults.
package memlog

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/wake"
)

// A Server has the log, and delivers what is published to the links of all nodes.
// Its methods may be called concurrently.
type Server struct {
	limits store.Limits

	mu     sync.Mutex
	log    *store.Log
	saved  *store.Log
	starts int
	links  map[*Link]struct{}
}

// New returns a Server whose log is empty.
func New(limits store.Limits) *Server {
	return &Server{
		limits: limits, log: store.New(limits.Segment), saved: store.New(limits.Segment),
		links: make(map[*Link]struct{}),
	}
}

// Data is what a Server has after a restart.
type Data uint8

const (
	Kept    Data = iota // all data
	Saved               // the data at the last Save
	Nothing             // none
)

// Save makes the Server remember its data, as a replica or a disk does.
func (s *Server) Save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved = s.log.Clone()
}

// Restart restarts the Server under a new id, and breaks all links.
func (s *Server) Restart(data Data) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch data {
	case Saved:
		s.log = s.saved.Clone()
	case Nothing:
		s.log = store.New(s.limits.Segment)
	}
	s.starts++
	for l := range s.links {
		l.cut(rand.IntN(4))
	}
}

// Flush removes all keys silently.
func (s *Server) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = store.New(s.limits.Segment)
}

// caller returns the arguments of a node's script, and what it finds.
func (s *Server) caller(known history.Point) store.Caller {
	return store.Caller{
		Server: fmt.Sprint(s.starts), Now: time.Now().UnixMilli(),
		Known: known, Fresh: history.Epoch(rand.Uint64() | 1), Agreed: s.limits.Wanted(),
	}
}

// publish sends the packets to all links that are subscribed to their topics.
func (s *Server) publish(packets ...history.Packet) {
	for l := range s.links {
		for _, p := range packets {
			if _, ok := l.topics[p.Topic]; ok {
				l.send(driver.Event{Kind: driver.Packet, Packet: p})
			}
		}
	}
}

// Link returns a new link for a node, which Close ends. It is down at first. Its
// events are passed to push, one after the other.
func (s *Server) Link(push func(driver.Event)) *Link {
	l := &Link{
		server: s, push: push, wake: wake.New(),
		quit: make(chan struct{}), ended: make(chan struct{}),
		topics: make(map[string]struct{}),
	}
	s.mu.Lock()
	s.links[l] = struct{}{}
	s.mu.Unlock()
	go l.run()
	return l
}
