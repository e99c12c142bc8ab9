package herald

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// start sets the Hub's own goroutines going. Shutdown waits for them.
func (h *Hub) start() {
	ctx, cancel := context.WithCancel(context.Background())
	last, cancelLast := context.WithCancel(context.Background())
	h.cancel, h.cancelLast = cancel, cancelLast
	for _, f := range []func(context.Context){
		h.calls.run,
		h.heartbeat.run,
		h.watchBus,
		h.heartbeat.watch,
		(&housekeeping{p: h.presence}).run,
		func(ctx context.Context) { h.presence.collectOffline(ctx, h.telling("OnOffline", h.config.OnOffline)) },
		h.keepalive,
		h.watchQueues,
	} {
		h.background.Go(func() { f(ctx) })
	}
	for _, f := range []func(context.Context){h.follower.Run, h.receive, h.gaps.run} {
		h.last.Go(func() { f(last) })
	}
}

func (h *Hub) shutdown(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.config.DrainTime)
		defer cancel()
	}
	deadline, _ := ctx.Deadline()
	total := time.Until(deadline)
	patient, cancel := context.WithDeadline(ctx, deadline.Add(-min(stopGrace, total/10)))
	defer cancel()
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.drainConns(patient, total*8/10)
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	waitFor(patient, &h.handshakes)
	// Those that were still in their handshake.
	for _, c := range h.index.appendConns(nil, topicEveryone) {
		c.shut(restarting)
	}
	close(h.drained)
	err := waitFor(patient, &h.wg)
	if err != nil {
		open := h.closing.list()
		for _, c := range open {
			c.kill(nil)
		}
		if len(open) > 0 {
			err = fmt.Errorf("%d connections had not gone and were cut: %w", len(open), err)
		}
		close(h.cut)
		// For their readers and OnDisconnect.
		end, cancel := context.WithDeadline(context.WithoutCancel(ctx), time.Now().Add(min(stopGrace, total/20)))
		defer cancel()
		waitFor(end, &h.wg)
	}
	stopErr := h.stop(ctx)
	return cmp.Or(err, stopErr)
}

var restarting = &CloseError{Code: StatusServiceRestart, Reason: "the service restarts"}

// drainConns begins to close all connections, spread over span.
func (h *Hub) drainConns(ctx context.Context, span time.Duration) {
	conns := h.index.appendConns(nil, topicEveryone)
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, c := range conns {
		if wait := time.Until(begin.Add(span / time.Duration(len(conns)) * time.Duration(i))); wait > 0 && ctx.Err() == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		c.shut(restarting)
	}
}

// stopGrace is how long the end may take beyond Shutdown's context, and the
// most that is kept for it of the time before.
const stopGrace = 2 * time.Second

// stop ends everything but the connections. A callback that does not return
// holds up nothing for longer than ctx and stopGrace.
func (h *Hub) stop(ctx context.Context) error {
	end, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) })()
	h.cancel()
	if ctx.Err() == nil {
		waitFor(ctx, &h.background)
	} else {
		waitFor(end, &h.background)
	}
	close(h.stopped)
	h.presence.stop(end)
	h.cancelLast()
	h.closeParts()
	waitFor(end, &h.last)
	h.writers.close()
	return ctx.Err()
}

// abort ends a Hub that New could not finish.
func (h *Hub) abort() {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	h.stop(ctx)
}

// waitFor waits for wg until ctx is done.
func waitFor(ctx context.Context, wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A connSet is a set of Conns.
type connSet struct {
	mu  sync.Mutex
	set map[*Conn]struct{}
}

func (s *connSet) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[c] = struct{}{}
}

func (s *connSet) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.set, c)
}

func (s *connSet) list() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.set))
}
