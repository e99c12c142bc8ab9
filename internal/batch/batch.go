// Package batch is a group commit: calls of many goroutines share one round trip. A
// call that comes during a commit waits for the next one, so a busy link carries
// large batches and an idle one adds no latency.
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
	// Ready, if set, is called before a batch is taken. It may block until Commit can
	// succeed. Items that wait meanwhile can still be withdrawn. If it fails, all
	// items that are waiting by then get its error.
	Ready func() error

	// Commit carries out the items, in order, and returns an error for each, or nil
	// if all succeeded. It keeps neither slice. One call runs at a time.
	Commit func(items []T) []error

	Size     func(T) int // size of an item, in bytes; nil if only MaxItems counts
	MaxItems int         // items of one batch
	MaxBytes int         // bytes of one batch; a larger item goes alone
}

// A Batcher runs the commits in a goroutine of its own. Its methods may be called
// concurrently.
type Batcher[T any] struct {
	config Config[T]
	calls  sync.Pool   // of *call[T] whose result has been received
	wake   wake.Signal // set while calls may be waiting
	quit   chan struct{}
	ended  chan struct{}

	mu     sync.Mutex
	queue  []*call[T]
	gone   int   // calls in queue that have been withdrawn
	closed error // what calls after Close get
}

// A call is one Do. Batcher.mu guards all its fields except result.
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

// Do hands item to a commit and waits for its result. Items are committed in the
// order of the calls. If ctx ends first, the error is that of ctx. It also wraps
// ErrTaken if a commit had taken the item, which it may still use. Otherwise the item
// was not committed and never will be.
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

// twoEnds is a context that ends when either of two channels is closed. For Done it
// would have to merge them into one.
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

// Close ends the Batcher after the commit under way, which the caller must see to
// ending. Calls that wait, and later ones, return err. It may be called twice.
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

// withdraw takes c out of the queue and reports whether it was still there. Withdrawn
// calls stay in the queue until they are more than half of it, so that a thousand
// contexts that end together do not cost a thousand searches.
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
				// Callers that got a result often call again at once. Without a pause
				// these, and those that came during the commit, would take turns,
				// half as many for each commit. One caller alone shares with nobody,
				// and need not wait for a busy processor.
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

// refuse ends every waiting call with err.
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
