package herald

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errSendTimeout      = fmt.Errorf("SendTimeout: %w", context.DeadlineExceeded)
	errHandshakeTimeout = fmt.Errorf("HandshakeTimeout: %w", context.DeadlineExceeded)
)

// timeout bounds a call.
func (h *Hub) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, h.config.SendTimeout, errSendTimeout)
}

// ourTimeout says whether it was SendTimeout that ended ctx, and not its caller.
func ourTimeout(ctx context.Context) bool {
	s, ok := ctx.(*boundContext)
	if !ok {
		return context.Cause(ctx) == errSendTimeout
	}
	s.Err()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ours
}

// deadlines bounds Sends, or handshakes. Those that begin within a 64th of
// the timeout end together: a context and a timer for each would cost as much as
// the rest of a Send.
type deadlines struct {
	timeout time.Duration
	cause   error

	current atomic.Pointer[deadline]

	mu sync.Mutex // held to replace current
}

const deadlineParts = 64

// A deadline is the end of those that share it.
type deadline struct {
	context.Context
	cancel context.CancelFunc // never called: the deadline always comes
	cause  error
	until  time.Time // who begins later gets another
}

// bound returns ctx with the deadline. The caller calls release at the end.
func (d *deadline) bound(ctx context.Context) (bound context.Context, release func()) {
	if ctx == context.Background() {
		return d, func() {}
	}
	c := &boundContext{Context: ctx, shared: d}
	return c, c.release
}

// now returns the deadline for what begins now.
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
	c := &deadline{cause: d.cause, until: now.Add(d.timeout / deadlineParts)}
	c.Context, c.cancel = context.WithDeadlineCause(context.Background(), now.Add(d.timeout), d.cause)
	d.current.Store(c)
	return c
}

// A boundContext ends with its caller's, or at a shared deadline. Only a Bus
// that asks for its Done pays for a context that has both ends in one channel;
// batch, with which most of ours publish, asks for Ends.
type boundContext struct {
	context.Context // the caller's
	shared          *deadline

	mu     sync.Mutex
	merged context.Context // nil before Done is called
	cancel context.CancelFunc
	err    error // Err's first that was not nil
	ours   bool  // err is the deadline's
}

// Ends returns two channels, one of which is closed when the context ends. One
// may be nil.
func (c *boundContext) Ends() (a, b <-chan struct{}) {
	return c.Context.Done(), c.shared.Done()
}

// Deadline is the earlier of the two.
func (c *boundContext) Deadline() (time.Time, bool) {
	shared, _ := c.shared.Deadline()
	if at, ok := c.Context.Deadline(); ok && at.Before(shared) {
		return at, true
	}
	return shared, true
}

func (c *boundContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.merged == nil {
		at, _ := c.shared.Deadline()
		c.merged, c.cancel = context.WithDeadlineCause(c.Context, at, c.shared.cause)
	}
	return c.merged.Done()
}

// Err is not nil as soon as one of Ends is closed, and then stays the same.
func (c *boundContext) Err() error {
	err, ours := c.Context.Err(), false
	if err == nil {
		err = c.shared.Err()
		ours = err != nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.merged != nil && c.merged.Err() != nil {
		err, ours = c.merged.Err(), context.Cause(c.merged) == c.shared.cause
	}
	if c.err == nil {
		c.err, c.ours = err, ours
	}
	return c.err
}

func (c *boundContext) Value(key any) any {
	c.mu.Lock()
	merged := c.merged
	c.mu.Unlock()
	if merged != nil { // for context.Cause, and children
		return merged.Value(key)
	}
	return c.Context.Value(key)
}

func (c *boundContext) release() {
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
