// Package batch is a group commit: calls of many goroutines share one round
// trip. A call that comes during a commit waits for the next one, so that a busy
// link carries large batches and an idle one adds no latency.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/heraldgo/herald/internal/wake"
)

// ErrTaken says that ctx ended when the item was already part of a commit:
// whether it has been, or will be, committed is unknown.
var ErrTaken = errors.New("taken, outcome unknown")

// A Config says how items are committed.
type Config[T any] struct {
	// Ready, if set, is called before a batch is taken and may block until
	// Commit has a chance. Items that wait meanwhile can still be withdrawn.
	// Its error is the result of every item that is waiting by then.
	Ready func() error

	// Commit carries out the items, in their order, and returns one error for
	// each, or nil if all went well. It keeps neither slice. One call
	// runs at a time.
	Commit func(items []T) []error

	Size     func(T) int // bytes of an item; nil if only MaxItems counts
	MaxItems int         // items of one batch
	MaxBytes int         // bytes of one batch; a larger item goes alone
}

// A Batcher runs the commits in a goroutine of its own. Its methods may be
// called at the same time.
type Batcher[T any] struct {
	config Config[T]
	calls  sync.Pool   // each a *call[T] that has had its result
	wake   wake.Signal // holds one token while calls may be waiting
	quit   chan struct{}
	ended  chan struct{}

	mu     sync.Mutex
	queue  []*call[T]
	gone   int   // calls in queue that have been withdrawn
	closed error // what calls after Close get
}

// A call is one Do. Its fields but result are guarded by Batcher.mu.
type call[T any] struct {
	item   T
	state  state
	result chan error // holds one
}

type state uint8

const (
	waiting state = iota
	taken
	withdrawn
)

// New starts a Batcher, which Close ends.
func New[T any](config Config[T]) *Batcher[T] {
	b := &Batcher[T]{
		config: config,
		wake:   wake.New(),
		quit:   make(chan struct{}),
		ended:  make(chan struct{}),
	}
	go b.run()
	return b
}

// Do hands item to a commit and waits for its result. Items are committed in
// the order of the calls. If ctx ends first the error is that of ctx: with
// ErrTaken in its chain if the item had been taken by a commit, which may still
// use it; without if it never was and never will be.
func (b *Batcher[T]) Do(ctx context.Context, item T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, ok := b.calls.Get().(*call[T])
	if !ok {
		c = &call[T]{result: make(chan error, 1)}
	}
	c.item, c.state = item, waiting
	b.mu.Lock()
	if b.closed != nil {
		b.mu.Unlock()
		return b.closed
	}
	b.queue = append(b.queue, c)
	b.mu.Unlock()
	b.wake.Set()

	end, otherEnd := Ends(ctx)
	select {
	case err := <-c.result:
		var none T
		c.item = none
		b.calls.Put(c)
		return err
	case <-end:
	case <-otherEnd:
	}
	if b.withdraw(c) {
		return ctx.Err()
	}
	select {
	case err := <-c.result:
		return err
	default:
		return fmt.Errorf("%w: %w", ErrTaken, ctx.Err())
	}
}

// A context with two ends would have to make one channel of them for Done.
type twoEnds interface {
	Ends() (a, b <-chan struct{})
}

// Ends returns two channels, one of which is closed when ctx ends. One may be
// nil.
func Ends(ctx context.Context) (a, b <-chan struct{}) {
	if two, ok := ctx.(twoEnds); ok {
		return two.Ends()
	}
	return ctx.Done(), nil
}

// Close ends the Batcher after the commit under way, which the caller has to
// bring to its end. Calls that wait, and later ones, return err. It may be
// called twice.
func (b *Batcher[T]) Close(err error) {
	b.mu.Lock()
	first := b.closed == nil
	if first {
		b.closed = err
	}
	b.mu.Unlock()
	if first {
		close(b.quit)
	}
	<-b.ended
}

// withdraw takes c out of the queue and says whether it was still there.
// Withdrawn calls stay as empty shells until they are half of the queue, so
// that a thousand contexts that end together cost no thousand searches.
func (b *Batcher[T]) withdraw(c *call[T]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.state != waiting {
		return false
	}
	var none T
	c.item, c.state = none, withdrawn
	b.gone++
	if b.gone*2 > len(b.queue) {
		kept := b.queue[:0]
		for _, q := range b.queue {
			if q.state == waiting {
				kept = append(kept, q)
			}
		}
		clear(b.queue[len(kept):])
		b.queue, b.gone = kept, 0
	}
	return true
}

func (b *Batcher[T]) run() {
	defer close(b.ended)
	var calls []*call[T]
	var items []T
	for {
		select {
		case <-b.wake:
		case <-b.quit:
			b.refuse(b.closed)
			return
		}
		for b.waiting() {
			if b.config.Ready != nil {
				if err := b.config.Ready(); err != nil {
					b.refuse(err)
					break
				}
			}
			select {
			case <-b.quit:
				b.refuse(b.closed)
				return
			default:
			}
			calls, items = b.take(calls[:0], items[:0])
			if len(calls) > 0 {
				b.commit(calls, items)
				// Callers that got a result may well call again at once. If we
				// did not wait, they and those who came meanwhile would take
				// turns, with half as many for each commit. One caller alone has
				// nobody to share with, and need not wait for a busy processor.
				if len(calls) > 1 || b.waiting() {
					runtime.Gosched()
				}
			}
			clear(calls)
			clear(items)
		}
	}
}

func (b *Batcher[T]) commit(calls []*call[T], items []T) {
	errs := b.config.Commit(items)
	for i, c := range calls {
		if errs == nil {
			c.result <- nil
		} else {
			c.result <- errs[i]
		}
	}
}

func (b *Batcher[T]) waiting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) > b.gone
}

// take moves the next batch from the queue to calls and items.
func (b *Batcher[T]) take(calls []*call[T], items []T) ([]*call[T], []T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, size := 0, 0
	for _, c := range b.queue {
		if c.state == waiting {
			if b.config.Size != nil {
				size += b.config.Size(c.item)
			}
			if len(items) > 0 && (len(items) == b.config.MaxItems || size > b.config.MaxBytes && b.config.Size != nil) {
				break
			}
			c.state = taken
			calls = append(calls, c)
			items = append(items, c.item)
		} else {
			b.gone--
		}
		n++
	}
	rest := copy(b.queue, b.queue[n:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	return calls, items
}

// refuse ends every call that waits with err.
func (b *Batcher[T]) refuse(err error) {
	b.mu.Lock()
	queue := b.queue
	b.queue, b.gone = nil, 0
	for _, c := range queue {
		if c.state == waiting {
			c.state = taken
		} else {
			c.result = nil
		}
	}
	b.mu.Unlock()
	for _, c := range queue {
		if c.result != nil {
			c.result <- err
		}
	}
}
