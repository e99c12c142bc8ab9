// Package follow keeps what a node follows on a Bus equal to what it wants to
// follow.
package follow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/wake"
)

// A Bus is the part of a Bus that a Follower needs. Both calls return when the Bus
// has confirmed all topics.
type Bus interface {
	Subscribe(ctx context.Context, topics ...string) error
	Unsubscribe(ctx context.Context, topics ...string) error
}

type state uint8

const (
	off         state = iota
	unknown           // since a Subscribe or Unsubscribe failed
	subscribing       // handed to the Bus
	on
	unsubscribing // handed to the Bus
)

// A Follower knows which topics are wanted, and how often. Only one goroutine, that
// of Run, calls the Bus.
type Follower struct {
	bus     Bus
	linger  time.Duration
	timeout time.Duration // for one Subscribe or Unsubscribe

	mu       sync.Mutex
	topics   map[string]*followed
	wanted   []string   // topics to look at for Subscribe
	unwanted []unwanted // topics to look at for Unsubscribe, by time
	err      error      // the result of the last Subscribe or Unsubscribe

	wake wake.Signal // holds one
}

// followed is the state of one topic.
type followed struct {
	state   state
	wants   int       // how often it is wanted
	until   time.Time // if it is not wanted: how long it lingers
	waiters []*Wait
}

// unwanted is a topic that has become unwanted.
type unwanted struct {
	topic string
	until time.Time
}

// A Wait is one call that waits for several topics. Follower.mu guards it.
type Wait struct {
	pending int
	err     error
	done    chan struct{} // nil if there is nothing to wait for
}

// New returns a Follower. It goes on following a topic for linger after the last
// Unfollow. timeout is for one Subscribe or Unsubscribe.
func New(bus Bus, linger, timeout time.Duration) *Follower {
	return &Follower{
		bus:     bus,
		linger:  linger,
		timeout: timeout,
		topics:  make(map[string]*followed),
		wake:    wake.New(),
	}
}

// Follow wants each topic once more, until an Unfollow takes that back. The Wait that
// it returns waits for the Bus to confirm.
func (f *Follower) Follow(topics ...string) *Wait {
	w := &Wait{}
	f.mu.Lock()
	for _, topic := range topics {
		t := f.topics[topic]
		if t == nil {
			t = &followed{}
			f.topics[topic] = t
		}
		t.wants++
		if t.state == on {
			continue
		}
		if w.done == nil {
			w.done = make(chan struct{})
		}
		w.pending++
		t.waiters = append(t.waiters, w)
		f.wanted = append(f.wanted, topic)
	}
	f.mu.Unlock()
	if w.done != nil {
		f.wake.Set()
	}
	return w
}

// Wait returns when all topics are confirmed, or when one could not be. The Follower
// then goes on trying.
func (w *Wait) Wait(ctx context.Context) error {
	if w.done == nil {
		return nil
	}
	end, otherEnd := batch.Ends(ctx)
	select {
	case <-w.done:
		return w.err
	case <-end:
	case <-otherEnd:
	}
	return fmt.Errorf("follow topics: %w", context.Cause(ctx))
}

// Unfollow takes back one Follow of each topic. It does not block. Nobody waits for a
// topic that nobody wants any more.
func (f *Follower) Unfollow(topics ...string) {
	f.mu.Lock()
	until := time.Now().Add(f.linger)
	poke := false
	var done []*Wait
	for _, topic := range topics {
		t := f.topics[topic]
		if t.wants--; t.wants == 0 {
			t.until = until
			f.unwanted = append(f.unwanted, unwanted{topic, until})
			done = append(done, t.release(nil)...)
			poke = true
		}
	}
	f.mu.Unlock()
	for _, w := range done {
		close(w.done)
	}
	if poke {
		f.wake.Set()
	}
}

// Follows reports whether packets of the topic may come because this node is subscribed.
func (f *Follower) Follows(topic string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	return t != nil && t.state != off
}

// Len returns how many topics are followed, or may be.
func (f *Follower) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.topics)
}

// Failing returns why the Bus' subscriptions are not as wanted, or nil.
func (f *Follower) Failing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Run works until ctx is done.
func (f *Follower) Run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	backoff := time.Duration(0)
	for {
		subscribe, unsubscribe, next := f.plan(time.Now())
		switch {
		case len(subscribe) > 0:
			backoff = f.do(ctx, f.bus.Subscribe, subscribe, on, backoff)
		case len(unsubscribe) > 0:
			backoff = f.do(ctx, f.bus.Unsubscribe, unsubscribe, off, backoff)
		default:
			timer.Reset(next)
			select {
			case <-f.wake:
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if backoff > 0 {
			timer.Reset(backoff/2 + rand.N(backoff))
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// maxBatch is the most topics of one Subscribe or Unsubscribe.
const maxBatch = 5_000

// plan takes the topics to subscribe or unsubscribe next. If there are none, next is
// how long to wait.
func (f *Follower) plan(now time.Time) (subscribe, unsubscribe []string, next time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.wanted) > 0 && len(subscribe) < maxBatch {
		topic := f.wanted[0]
		f.wanted = f.wanted[1:]
		if t := f.topics[topic]; t != nil && t.wants > 0 && t.state < subscribing {
			t.state = subscribing
			subscribe = append(subscribe, topic)
		}
	}
	if len(subscribe) > 0 {
		return subscribe, nil, 0
	}
	f.wanted = nil
	next = time.Hour
	for len(f.unwanted) > 0 && len(unsubscribe) < maxBatch {
		u := f.unwanted[0]
		if wait := u.until.Sub(now); wait > 0 {
			next = wait
			break
		}
		f.unwanted = f.unwanted[1:]
		t := f.topics[u.topic]
		switch {
		case t == nil || t.wants > 0 || t.until.After(u.until) || t.state == unsubscribing:
		case t.state == off:
			delete(f.topics, u.topic)
		default:
			t.state = unsubscribing
			unsubscribe = append(unsubscribe, u.topic)
		}
	}
	return nil, unsubscribe, next
}

// do hands topics to the Bus, notes the result, and returns how long to wait before
// the next try.
func (f *Follower) do(ctx context.Context, change func(context.Context, ...string) error, topics []string, to state, backoff time.Duration) time.Duration {
	callCtx, cancel := context.WithTimeout(ctx, f.timeout)
	err := change(callCtx, topics...)
	cancel()
	if err != nil {
		to = unknown
		backoff = min(max(2*backoff, 50*time.Millisecond), 2*time.Second)
	} else {
		backoff = 0
	}
	for _, w := range f.settle(topics, to, err) {
		close(w.done)
	}
	return backoff
}

// settle sets the topics' state and returns the Waits that are over.
func (f *Follower) settle(topics []string, to state, err error) (done []*Wait) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	for _, topic := range topics {
		t := f.topics[topic]
		t.state = to
		if to != off {
			done = append(done, t.release(err)...)
		}
		switch {
		case t.wants > 0 && to != on:
			f.wanted = append(f.wanted, topic)
		case t.wants == 0 && to == off:
			delete(f.topics, topic)
		case t.wants == 0:
			t.until = time.Now().Add(f.linger)
			f.unwanted = append(f.unwanted, unwanted{topic, t.until})
		}
	}
	return done
}

// release notes that nobody need wait for the topic any more, or why it could not be
// followed, and returns the Waits that are over.
func (t *followed) release(err error) (done []*Wait) {
	for _, w := range t.waiters {
		if w.pending == 0 { // it was woken already
			continue
		}
		if w.pending--; err != nil {
			w.err, w.pending = fmt.Errorf("follow topics: %w", err), 0
		}
		if w.pending == 0 {
			done = append(done, w)
		}
	}
	t.waiters = nil
	return done
}
