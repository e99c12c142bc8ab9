package memlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/wake"
)

// A Link is a node's connection to a Server: a driver.Log and a driver.Bus. The
// calls of the Log work while the link is down, because they use connections of
// their own.
type Link struct {
	server *Server
	push   func(driver.Event)
	wake   wake.Signal // wire may have something
	quit   chan struct{}
	ended  chan struct{}

	// Guarded by Server.mu.
	topics map[string]struct{}
	up     bool
	deaf   bool
	wire   []driver.Event
	faults Faults
}

// Faults are the faults of a node's calls.
type Faults struct {
	Delay  time.Duration // the longest delay before a call is carried out, and after it
	Refuse error         // no call is carried out, except Publish
	Forget bool          // calls are carried out, but their answers are lost
}

// Break sets the faults from now on.
func (l *Link) Break(f Faults) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.faults = f
}

// Up makes a new link if it is down, with all subscriptions.
func (l *Link) Up() {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if !l.up {
		l.up = true
		l.send(driver.Event{Kind: driver.Restored})
	}
}

// Cut breaks the link. Up to arrive events that are on their way still arrive.
func (l *Link) Cut(arrive int) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.cut(arrive)
}

// Deafen makes the link deliver nothing more. That is noticed when it is cut.
func (l *Link) Deafen() {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.deaf = l.up
}

func (l *Link) cut(arrive int) {
	if !l.up {
		return
	}
	l.wire = l.wire[:min(arrive, len(l.wire))]
	doubt := l.deaf
	l.deaf = false
	l.send(driver.Event{Kind: driver.Down})
	if doubt {
		l.send(driver.Event{Kind: driver.Doubt})
	}
	l.up = false
}

func (l *Link) send(e driver.Event) {
	if l.up && !l.deaf {
		l.wire = append(l.wire, e)
		l.wake.Set()
	}
}

// Close closes the Link. Its node must not be waiting for any event.
func (l *Link) Close() {
	l.server.mu.Lock()
	delete(l.server.links, l)
	l.server.mu.Unlock()
	close(l.quit)
	<-l.ended
}

func (l *Link) run() {
	defer close(l.ended)
	for {
		select {
		case <-l.wake:
		case <-l.quit:
			return
		}
		for e, ok := l.next(); ok; e, ok = l.next() {
			l.push(e)
		}
	}
}

func (l *Link) next() (e driver.Event, ok bool) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if len(l.wire) == 0 {
		return e, false
	}
	e, l.wire = l.wire[0], l.wire[1:]
	return e, true
}

// script runs f as a script, unless a fault prevents it.
func (l *Link) script(ctx context.Context, f func(*Server)) error {
	l.server.mu.Lock()
	faults := l.faults
	l.server.mu.Unlock()
	if err := faults.wait(ctx); err != nil {
		return err
	}
	if faults.Refuse != nil {
		return faults.Refuse
	}
	l.server.mu.Lock()
	f(l.server)
	l.server.mu.Unlock()
	err := faults.wait(ctx)
	if err == nil && !faults.Forget {
		return nil
	}
	return fmt.Errorf("%w: the answer was lost", errs.Unknown)
}

// wait waits for as long as the network takes in one direction.
func (f Faults) wait(ctx context.Context) error {
	if f.Delay == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(rand.N(f.Delay)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Append implements driver.Log.
func (l *Link) Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (reply store.Reply, err error) {
	err = l.script(ctx, func(s *Server) {
		reply = s.log.Append(s.caller(known), segment, batch)
		s.publish(reply.Published...)
	})
	return reply, err
}

// Publish implements driver.Log.
func (l *Link) Publish(ctx context.Context, batch []store.Draft) error {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	for _, d := range batch {
		for _, topic := range d.Topics {
			l.server.publish(history.Packet{Topic: topic, Body: d.Body})
		}
	}
	return ctx.Err()
}

// Fence implements driver.Log.
func (l *Link) Fence(ctx context.Context, known history.Point, number uint64) (end history.Point, err error) {
	err = l.script(ctx, func(s *Server) {
		end = s.log.Fence(s.caller(known))
		l.send(driver.Event{Kind: driver.Fence, Number: number, End: end})
	})
	return end, err
}

// Survey implements driver.Log.
func (l *Link) Survey(ctx context.Context, known, from history.Point, topics []string, most int) (survey history.Survey, err error) {
	err = l.script(ctx, func(s *Server) { survey = s.log.Survey(s.caller(known), from, topics, most) })
	return survey, err
}

// Read implements driver.Log.
func (l *Link) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (x history.Excerpt, ok bool, err error) {
	x = history.Excerpt{Offsets: slices.Concat(offsets, more)}
	slices.Sort(x.Offsets)
	err = l.script(ctx, func(s *Server) { x.Entries, ok = s.log.Read(s.caller(known), epoch, x.Offsets) })
	return x, ok, err
}

// Forget is store.Log.Forget.
func (l *Link) Forget(ctx context.Context, known history.Point, topics []string) error {
	return l.script(ctx, func(s *Server) { s.log.Forget(s.caller(known), topics) })
}

// Renew is store.Log.Renew.
func (l *Link) Renew(ctx context.Context, known history.Point, epoch history.Epoch) (end history.Point, err error) {
	err = l.script(ctx, func(s *Server) { end = s.log.Renew(s.caller(known), epoch) })
	return end, err
}

// Trim implements driver.Log.
func (l *Link) Trim(ctx context.Context, known history.Point) error {
	return l.script(ctx, func(s *Server) {
		s.log.Fence(s.caller(known)) // what the node knows may begin an epoch, once
		for c := s.caller(history.Point{}); ; {
			if n, due := s.log.Due(c.Now); !due || !s.log.Trim(c, n) {
				return
			}
		}
	})
}

// Subscribe implements driver.Bus. It fails while the link is down.
func (l *Link) Subscribe(_ context.Context, topics ...string) error {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if !l.up || l.deaf {
		return errs.BusDown
	}
	for _, topic := range topics {
		l.topics[topic] = struct{}{}
	}
	return nil
}

// Unsubscribe implements driver.Bus.
func (l *Link) Unsubscribe(_ context.Context, topics ...string) error {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	for _, topic := range topics {
		delete(l.topics, topic)
	}
	return nil
}
