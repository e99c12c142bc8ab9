package herald

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var errSendTimeout = fmt.Errorf("SendTimeout: %w", context.DeadlineExceeded)

// timeout bounds a call.
func (h *Hub) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, h.config.SendTimeout, errSendTimeout)
}

// ourTimeout says whether it was SendTimeout that ended ctx, and not its caller.
func ourTimeout(ctx context.Context) bool {
	s, ok := ctx.(*sendContext)
	if !ok {
		return context.Cause(ctx) == errSendTimeout
	}
	s.Err()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ours
}

// deadlines bounds Sends. Those that begin within a 64th of SendTimeout end
// together: a context and a timer for each would cost as much as the rest of a
// Send.
type deadlines struct {
	timeout time.Duration // SendTimeout

	current atomic.Pointer[deadline]

	mu sync.Mutex // held to replace current
}

const deadlineParts = 64

// A deadline is the end of some Sends.
type deadline struct {
	context.Context
	cancel context.CancelFunc // never called: the deadline always comes
	until  time.Time          // Sends that begin later get another
}

// bound bounds a Send. The caller calls release after it.
func (d *deadlines) bound(ctx context.Context) (bound context.Context, release func()) {
	shared := d.now()
	if ctx == context.Background() {
		return shared, func() {}
	}
	c := &sendContext{Context: ctx, shared: shared}
	return c, c.release
}

// now returns the deadline for a Send that begins now.
func (d *deadlines) now() *deadline {
	now := time.Now()
	if c := d.current.Load(); c != nil && now.Before(c.until) {
		return c
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.current.Load(); c != nil && now.Before(c.until) {
		return c
	}
	c := &deadline{until: now.Add(d.timeout / deadlineParts)}
	c.Context, c.cancel = context.WithDeadlineCause(context.Background(), now.Add(d.timeout), errSendTimeout)
	d.current.Store(c)
	return c
}

// A sendContext ends with its caller's, or at a shared deadline. Only a Bus
// that asks for its Done pays for a context that has both ends in one channel;
// batch, with which most of ours publish, asks for Ends.
type sendContext struct {
	context.Context // the caller's
	shared          *deadline

	mu     sync.Mutex
	merged context.Context // nil before Done is called
	cancel context.CancelFunc
	err    error // Err's first that was not nil
	ours   bool  // err is SendTimeout's
}

// Ends returns two channels, one of which is closed when the context ends. One
// may be nil.
func (c *sendContext) Ends() (a, b <-chan struct{}) {
	return c.Context.Done(), c.shared.Done()
}

// Deadline is the earlier of the two.
func (c *sendContext) Deadline() (time.Time, bool) {
	shared, _ := c.shared.Deadline()
	if at, ok := c.Context.Deadline(); ok && at.Before(shared) {
		return at, true
	}
	return shared, true
}

func (c *sendContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.merged == nil {
		at, _ := c.shared.Deadline()
		c.merged, c.cancel = context.WithDeadlineCause(c.Context, at, errSendTimeout)
	}
	return c.merged.Done()
}

// Err is not nil as soon as one of Ends is closed, and then stays the same.
func (c *sendContext) Err() error {
	err, ours := c.Context.Err(), false
	if err == nil {
		err = c.shared.Err()
		ours = err != nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.merged != nil && c.merged.Err() != nil {
		err, ours = c.merged.Err(), context.Cause(c.merged) == errSendTimeout
	}
	if c.err == nil {
		c.err, c.ours = err, ours
	}
	return c.err
}

func (c *sendContext) Value(key any) any {
	c.mu.Lock()
	merged := c.merged
	c.mu.Unlock()
	if merged != nil { // for context.Cause, and children
		return merged.Value(key)
	}
	return c.Context.Value(key)
}

func (c *sendContext) release() {
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
