// Package uplink keeps what a Bus knows of the links that it receives on, one after
// the other: the current one, why it is not up, and when it was last proved healthy.
package uplink

import (
	"context"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/backoff"
)

// An Uplink follows links of the type L, a pointer. One goroutine, its keeper,
// connects them and calls Set, Up, Fail and Down; another may do so before the keeper
// runs. The other methods may be called concurrently.
type Uplink[L comparable] struct {
	ctx    context.Context // ends at Close
	reason func(L) error   // why a link is dead, or nil
	closed error           // what Await returns after Close

	mu     sync.Mutex
	link   L             // the last one, dead or alive
	up     chan struct{} // closed once link is up
	gone   chan struct{} // closed once link is down again, with a new up
	down   error         // why link is not up, or nil
	proved time.Time     // a loss of any packet published before has been reported
}

// New returns an Uplink that is down for the reason down. When ctx ends, Await
// returns closed. The function reason returns why a link is dead, or nil while it
// lives.
func New[L comparable](ctx context.Context, reason func(L) error, down, closed error) *Uplink[L] {
	return &Uplink[L]{
		ctx: ctx, reason: reason, closed: closed, down: down,
		up:     make(chan struct{}),
		gone:   make(chan struct{}),
		proved: time.Now(),
	}
}

// Link returns the last link, dead or alive; nil before the first.
func (u *Uplink[L]) Link() L {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.link
}

// Health returns why nothing can be received, or nil. After Close it returns the
// error for that.
func (u *Uplink[L]) Health() error {
	if u.ctx.Err() != nil {
		return u.closed
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.down
}

// Await waits until the link is up and alive, and returns it. A link that has died
// does not count, even if the keeper has not noted that yet. The error is that of
// ctx, or says that the Bus is closed.
func (u *Uplink[L]) Await(ctx context.Context) (link L, err error) {
	for {
		u.mu.Lock()
		up, gone := u.up, u.gone
		u.mu.Unlock()
		select {
		case <-up:
			u.mu.Lock()
			present, same := u.link, u.up == up
			u.mu.Unlock()
			if same && u.reason(present) == nil {
				return present, nil
			}
		case <-ctx.Done():
			return link, ctx.Err()
		case <-u.ctx.Done():
			return link, u.closed
		}
		select {
		case <-gone: // the keeper has noted that the link is dead
		case <-ctx.Done():
			return link, ctx.Err()
		case <-u.ctx.Done():
			return link, u.closed
		}
	}
}

// Set makes link the current one. It is still being set up.
func (u *Uplink[L]) Set(link L) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.link = link
}

// Up notes that link is the current one, and is up, which is its first proof. It
// calls restored before any Await returns.
func (u *Uplink[L]) Up(link L, restored func()) {
	u.mu.Lock()
	u.link, u.down, u.proved = link, nil, time.Now()
	up := u.up
	u.mu.Unlock()
	restored()
	close(up)
}

// Fail notes why no new link has come up.
func (u *Uplink[L]) Fail(why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.down = why
}

// Down notes that the link, which was up, is down, and returns since when
// packets may have been lost.
func (u *Uplink[L]) Down(why error) (since time.Time) {
	u.mu.Lock()
	gone, since := u.gone, u.proved
	u.up, u.gone = make(chan struct{}), make(chan struct{})
	u.down = why
	u.mu.Unlock()
	close(gone)
	return since
}

// Prove notes that link has been proved healthy by something that was sent or asked
// at the time start. It returns false, and does nothing, if link is not the current
// one or is not up.
func (u *Uplink[L]) Prove(link L, start time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.link != link || u.down != nil {
		return false
	}
	if start.After(u.proved) {
		u.proved = start
	}
	return true
}

// Proved returns when the last proof began.
func (u *Uplink[L]) Proved() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.proved
}

// ProveNew proves a link that is being set up, so that its gap can end. It calls
// loop, which publishes something and waits until it comes back on the link. If
// nothing can be published, the link is not at fault: ProveNew tries again, and the
// link stays, but does not come up. The error is deaf if loop returns that, or the
// reason why the link is dead, or says that the Bus is closed. dead is closed when
// the link dies.
func (u *Uplink[L]) ProveNew(link L, dead <-chan struct{}, deaf error, loop func() error) error {
	var pause backoff.Backoff
	for {
		err := loop()
		if err == nil || err == deaf {
			return err
		}
		u.Fail(err)
		select {
		case <-time.After(pause.Fail()):
		case <-dead:
			return u.reason(link)
		case <-u.ctx.Done():
			return u.closed
		}
	}
}
