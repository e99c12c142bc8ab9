package herald

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/callbacks"
)

// Shutdown ends the Hub. At once it takes no more connections, and Health
// returns ErrDraining. It waits for ShutdownDelay. Then it closes the connections
// with 1012, spread over up to 80% of the time that ctx gives (DrainTime if it has no
// deadline), so that their clients do not all come to the other nodes at once. It
// closes the last one early enough for a client that does not answer: CloseTimeout
// before the end, if that leaves a quarter of the time. At last the node leaves the
// Registry, and the Bus is closed. Send works until then.
//
// Connections are cut if they are still there shortly before the deadline (a
// tenth of the time, or two seconds if that is less), or when ctx is canceled.
// The error then counts them and wraps context.DeadlineExceeded or
// context.Canceled. If a callback does not return, or the Registry does not
// answer, Shutdown may take two seconds longer than ctx, and leaves that
// callback's goroutine behind. The error then names such callbacks. All calls
// return the same. A callback must not call it.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.shutdownOnce.Do(func() {
		if err := h.shutdown(ctx); err != nil {
			h.shutdownErr = fmt.Errorf("herald: shutdown: %w", err)
		}
	})
	return h.shutdownErr
}

func (h *Hub) shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.delayShutdown(ctx)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.config.DrainTime)
		defer cancel()
	}
	deadline, _ := ctx.Deadline()
	total := time.Until(deadline)
	grace := min(stopGrace, total/10)
	patient, cancel := context.WithDeadline(ctx, deadline.Add(-grace))
	defer cancel()
	h.drainConns(patient, min(total*8/10, max(total/4, total*95/100-grace-h.config.CloseTimeout)))
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
		// Leave time for their readers and OnDisconnect.
		end, cancel := context.WithDeadline(context.WithoutCancel(ctx), time.Now().Add(min(stopGrace, total/20)))
		defer cancel()
		waitFor(end, &h.wg)
	}
	stopErr := h.stop(ctx)
	return h.nameRunning(cmp.Or(err, stopErr))
}

// delayShutdown waits for ShutdownDelay, or half of the time if that is less.
func (h *Hub) delayShutdown(ctx context.Context) {
	delay := h.config.ShutdownDelay
	if deadline, ok := ctx.Deadline(); ok {
		delay = min(delay, time.Until(deadline)/2)
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
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

// stopGrace is how long the end may take beyond Shutdown's context, and at most how much
// of the time before is kept for it.
const stopGrace = 2 * time.Second

// stop ends everything but the connections. A callback that does not return delays it by
// no more than ctx and stopGrace.
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
	h.changes.Flush(end)
	h.cancelLast()
	h.closeParts()
	waitFor(end, &h.last)
	h.writers.close()
	h.poller.Close()
	return ctx.Err()
}

func (h *Hub) closeParts() {
	if h.keeping != nil {
		h.keeping.stop()
	}
	if h.bus != nil {
		h.bus.Close()
		releaseBus(h.bus)
	}
	for _, f := range h.closers {
		f()
	}
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

// tellGap makes watched groups be listed again, and calls OnGap.
func (h *Hub) tellGap(g Gap) {
	h.watching.Doubt()
	if h.config.OnGap != nil {
		h.guard(nil, "OnGap", func() { h.config.OnGap(g) })
	}
}

// telling returns a function that calls OnOnline or OnOffline, or nil if that is not set.
func (h *Hub) telling(name string, callback func(user string)) func(user string) {
	if callback == nil {
		return nil
	}
	return func(user string) { h.run(nil, callbacks.Call{Name: name, User: user}, func() { callback(user) }) }
}

// guard runs a callback. A panic in it closes the Conn, and is logged and counted; guard
// then returns false. runtime.Goexit counts as a panic, but does end the goroutine. c may
// be nil.
func (h *Hub) guard(c *Conn, name string, callback func()) (ok bool) {
	call := callbacks.Call{Name: name}
	if c != nil {
		call.User, call.Conn, call.Key = c.identity.User, c, c.counter
	}
	return h.run(c, call, callback)
}

func (h *Hub) run(c *Conn, call callbacks.Call, callback func()) (ok bool) {
	running := h.callbacks.Begin(call)
	defer func() {
		running.End()
		if ok {
			return
		}
		v := recover() // nil after runtime.Goexit
		h.stats.panics.Add(1)
		args := []any{slog.String("callback", call.Name), slog.Any("panic", v), slog.String("stack", string(debug.Stack()))}
		if c != nil {
			args = append(args, slog.String("conn", c.ID()))
		}
		h.config.Logger.Error("herald: panic in a callback", args...)
		if c != nil {
			c.shut(&CloseError{Code: StatusInternalError, Reason: "internal error"})
		}
	}()
	callback()
	return true
}

// slowCallback is how long a callback may run before that is logged.
const slowCallback = 30 * time.Second

// tellSlow logs the callbacks that have run for too long, each once.
func (h *Hub) tellSlow() {
	for _, r := range h.callbacks.Slow(slowCallback) {
		h.config.Logger.Warn("herald: a callback has not returned", slog.String("callback", r.Name),
			slog.String("user", r.User), slog.String("conn", r.Conn), slog.Duration("for", r.For.Round(time.Second)))
	}
}

// maxNamed is how many of the callbacks that have not returned Shutdown names.
const maxNamed = 5

// nameRunning adds to err the callbacks that still run.
func (h *Hub) nameRunning(err error) error {
	running := h.callbacks.Running()
	if err == nil || len(running) == 0 {
		return err
	}
	var names []string
	for _, r := range running[:min(len(running), maxNamed)] {
		name := r.Name
		if r.User != "" {
			name += fmt.Sprintf(" of user %q", r.User)
		}
		names = append(names, fmt.Sprintf("%s (%v)", name, r.For.Round(time.Millisecond)))
	}
	if more := len(running) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return fmt.Errorf("callbacks have not returned: %s: %w", strings.Join(names, ", "), err)
}
