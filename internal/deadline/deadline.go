// Package deadline lets calls that begin at about the same time share a deadline: a
// context and a timer for each would cost as much as the rest of a short call.
package deadline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Source makes the deadlines of calls of one kind. Calls that begin within a 64th
// of the timeout share one, and none ends later than its timeout.
type Source struct {
	timeout time.Duration
	cause   error

	current atomic.Pointer[Deadline]

	mu sync.Mutex // held to replace current
}

const parts = 64

// New returns a Source. cause is what context.Cause returns for a context that ended
// at one of its deadlines; Err returns context.DeadlineExceeded.
func New(timeout time.Duration, cause error) *Source {
	return &Source{timeout: timeout, cause: cause}
}

// A Deadline is shared by the calls that it ends.
type Deadline struct {
	ctx    context.Context
	cancel context.CancelFunc // never called: the deadline always comes
	cause  error
	until  time.Time // calls that begin later get another one
}

// Now returns the deadline of a call that begins now.
func (s *Source) Now() *Deadline {
	now := time.Now()
	if d := s.current.Load(); d != nil && now.Before(d.until) {
		return d
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.current.Load(); d != nil && now.Before(d.until) {
		return d
	}
	d := &Deadline{cause: s.cause, until: now.Add(s.timeout / parts)}
	d.ctx, d.cancel = context.WithDeadlineCause(context.Background(), now.Add(s.timeout), s.cause)
	s.current.Store(d)
	return d
}

// Context returns a context that ends at the deadline.
func (d *Deadline) Context() context.Context { return d.ctx }

// Bound returns ctx with the deadline. The caller must call release when the call is
// over.
func (d *Deadline) Bound(ctx context.Context) (bound context.Context, release func()) {
	if ctx == context.Background() {
		return d.ctx, func() {}
	}
	c := &endsContext{boundContext{Context: ctx, shared: d}}
	return c, c.release
}

// Child returns ctx with the deadline. cancel ends it too, and must be called.
func (d *Deadline) Child(ctx context.Context) (child context.Context, cancel context.CancelFunc) {
	c := &boundContext{Context: ctx, shared: d}
	return c, c.end
}

// A boundContext ends with the caller's context, or at a shared deadline. It makes a
// context that has both ends in one channel only if its Done is called.
type boundContext struct {
	context.Context // the caller's
	shared          *Deadline

	mu     sync.Mutex
	merged context.Context // nil until it is needed
	cancel context.CancelFunc
	ended  bool  // end was called
	err    error // the first error that Err has returned
}

// An endsContext is one for package batch, in which most calls wait: it calls Ends and
// not Done.
type endsContext struct{ boundContext }

// Ends returns two channels, one of which is closed when the context ends. One
// may be nil.
func (c *endsContext) Ends() (a, b <-chan struct{}) {
	return c.Context.Done(), c.shared.ctx.Done()
}

// Deadline returns the earlier of the two deadlines.
func (c *boundContext) Deadline() (time.Time, bool) {
	shared, _ := c.shared.ctx.Deadline()
	if at, ok := c.Context.Deadline(); ok && at.Before(shared) {
		return at, true
	}
	return shared, true
}

func (c *boundContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.merged == nil {
		c.merge(c.Context)
		if c.ended {
			c.cancel()
		}
	}
	return c.merged.Done()
}

// merge makes a context of ctx that also ends at the deadline. The caller holds mu.
func (c *boundContext) merge(ctx context.Context) {
	at, _ := c.shared.ctx.Deadline()
	c.merged, c.cancel = context.WithDeadlineCause(ctx, at, c.shared.cause)
}

// Err returns an error as soon as one of Ends is closed, and the same from then on.
func (c *boundContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.merged != nil {
		c.err = c.merged.Err()
	}
	if c.err == nil && c.ended {
		c.err = context.Canceled
	}
	if c.err == nil {
		c.err = c.Context.Err()
	}
	if c.err == nil {
		if c.err = c.shared.ctx.Err(); c.err != nil {
			// For context.Cause, whatever the caller's context says later. If there
			// is a merged context its timer is due, too, but may not have run yet.
			c.merge(context.WithoutCancel(c.Context))
		}
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

func (c *boundContext) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.release()
}
