package heraldclient

import (
	"context"
	"sync"

	"github.com/heraldgo/herald/internal/history/protocol"
	"github.com/heraldgo/herald/internal/ring"
	"github.com/heraldgo/herald/internal/wake"
)

// An item waits in the queue: an Event, or nothing but a position.
type item struct {
	event   Event
	size    int
	kept    bool            // to be acknowledged
	skipped bool            // not to be acknowledged
	after   protocol.Resume // where the Client is when it is processed
}

// A queue has what was read and not yet received.
type queue struct {
	some wake.Signal // for pop
	room wake.Signal // for awaitRoom

	mu    sync.Mutex
	items ring.Ring[item]
	size  int
	end   error // nothing more comes: why
}

// The queue is full with that many events, or bytes of messages.
const (
	maxItems = 1024
	maxSize  = 1 << 20
)

func newQueue() *queue { return &queue{some: wake.New(), room: wake.New()} }

// push appends an item. It never waits: its caller waits for room before it has
// another one.
func (q *queue) push(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil {
		return
	}
	if n := q.items.Len(); n > 0 && supersedes(i.event, q.items.At(n-1).event) {
		*q.items.At(n - 1) = i
	} else {
		q.items.Push(i)
	}
	q.size += i.size
	q.some.Set()
}

// supersedes reports whether an item's event makes the one before it unnecessary.
func supersedes(event, before Event) bool {
	_, ended := event.(Disconnected)
	_, endedBefore := before.(Disconnected)
	return before == nil || ended && endedBefore
}

// pop waits for the first item and takes it. One goroutine at a time calls it.
func (q *queue) pop(ctx context.Context) (item, error) {
	for {
		q.mu.Lock()
		if q.items.Len() > 0 {
			i := q.items.Pop()
			q.size -= i.size
			q.room.Set()
			q.mu.Unlock()
			return i, nil
		}
		err := q.end
		q.mu.Unlock()
		if err != nil {
			return item{}, err
		}
		select {
		case <-q.some:
		case <-ctx.Done():
			return item{}, ctx.Err()
		}
	}
}

// full reports whether pop has to come before anything more is read.
func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.end == nil && (q.items.Len() >= maxItems || q.size >= maxSize)
}

// awaitRoom waits until the queue is not full, or has ended.
func (q *queue) awaitRoom(ctx context.Context) {
	for q.full() {
		select {
		case <-q.room:
		case <-ctx.Done():
			return
		}
	}
}

// close ends the queue. What waits may still be taken, unless it is dropped.
func (q *queue) close(err error, drop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = err
	}
	if drop {
		q.items, q.size, q.end = ring.Ring[item]{}, 0, err
	}
	q.some.Set()
	q.room.Set()
}
