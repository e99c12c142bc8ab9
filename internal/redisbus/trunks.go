package redisbus

import (
	"context"
	"maps"
	"sync"
	"time"
)

// trunks are the connections that the partitions of a Bus share: the last one to each
// server, in each direction.
type trunks struct {
	mu   sync.Mutex
	last map[trunkKey]*opening
}

// A trunkKey is where a trunk leads, and its direction.
type trunkKey struct {
	addr       string
	subscribed bool
}

// An opening is a trunk, or the attempt to connect one.
type opening struct {
	done  chan struct{} // closed when the rest is set
	trunk *trunk
	err   error
}

func newTrunks() *trunks { return &trunks{last: make(map[trunkKey]*opening)} }

// get returns the living trunk, or connects one, once for all who ask at the same
// time. The trunk may die at any moment.
func (ts *trunks) get(ctx context.Context, key trunkKey, connect func() (*trunk, error)) (*trunk, error) {
	ts.mu.Lock()
	o := ts.last[key]
	own := o == nil || o.over()
	if own {
		// Without this the map would grow for ever: servers may come back at ever
		// other addresses.
		maps.DeleteFunc(ts.last, func(_ trunkKey, o *opening) bool { return o.over() })
		o = &opening{done: make(chan struct{})}
		ts.last[key] = o
	}
	ts.mu.Unlock()
	if own {
		o.trunk, o.err = connect()
		close(o.done)
		return o.trunk, o.err // even if ctx is done: otherwise nobody might ever use the trunk, and end it
	}
	select {
	case <-o.done:
		return o.trunk, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// over reports whether the attempt has failed, or the trunk has died.
func (o *opening) over() bool {
	select {
	case <-o.done:
		return o.err != nil || o.trunk.reason() != nil
	default:
		return false
	}
}

// A sharedProof is the last proof of a subscribed trunk together with one that
// publishes to the same server. One partition makes it for all that have links on
// both. The number that comes back was behind everything that the server had taken
// before, for any of them, and the server counts the subscriptions of all.
type sharedProof struct {
	mu   sync.Mutex
	last *proving
}

type proving struct {
	with  *trunk // the one that published
	began time.Time
	done  chan struct{} // closed when found is set
	found finding
}

// A finding is the outcome of a proof.
type finding struct {
	since time.Time // what was published before has arrived; zero if that is not known
	err   error     // what is wrong
}

// share returns what the last proof with the trunk found, if it began within age and
// all was well. Otherwise, or if with is nil, it returns what prove finds.
func (p *sharedProof) share(ctx context.Context, with *trunk, age time.Duration, prove func() finding) finding {
	if with == nil {
		return prove()
	}
	p.mu.Lock()
	now, last := time.Now(), p.last
	own := last == nil || last.with != with || now.Sub(last.began) >= age
	if own {
		last = &proving{with: with, began: now, done: make(chan struct{})}
		p.last = last
	}
	p.mu.Unlock()
	if own {
		last.found = prove()
		close(last.done)
		return last.found
	}
	select {
	case <-last.done:
	case <-ctx.Done():
		return finding{err: ctx.Err()}
	}
	if last.found.err != nil {
		return prove() // the fault may be the other partition's
	}
	return last.found
}
