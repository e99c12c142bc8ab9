package natsbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
)

// How much of a large call of Publish goes out together.
const (
	maxPublishItems = 1024
	maxPublishBytes = 1 << 20
)

// A publication is what one call publishes, encoded by the caller, so that
// nothing of the caller's is used once a call has been given up.
type publication struct {
	bytes   []byte
	packets int
	largest int // bytes of the largest packet's Data
}

var publications = sync.Pool{New: func() any { return new(publication) }}

// keepPublication is the most bytes whose memory is used again.
const keepPublication = 64 << 10

func newPublication() *publication {
	p := publications.Get().(*publication)
	*p = publication{bytes: p.bytes[:0]}
	return p
}

func (p *publication) add(prefix string, packet herald.Packet) {
	p.bytes = appendPub(p.bytes, prefix, packet.Topic, packet.Data)
	p.packets++
	p.largest = max(p.largest, len(packet.Data))
}

// addProbe adds a message to a subject that is no topic's.
func (p *publication) addProbe(subject string, data []byte) {
	p.bytes = fmt.Appendf(p.bytes, "PUB %s %d\r\n%s\r\n", subject, len(data), data)
	p.packets++
}

// A publisher owns the link that publishes. Commits connect it anew if it
// is dead; no other goroutine does.
type publisher struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	near   func() *server // the server that the subscribed link leads to, or nil
	batch  *batch.Batcher[*publication]

	// The committing goroutine's.

	bytes   []byte
	backoff backoff.Backoff
	born    time.Time // when the link was made
	retry   time.Time // not before it is dialed again

	hurried atomic.Bool // it is dialed again at once

	mu   sync.Mutex
	link *link
	down error // why there is no link
}

func newPublisher(ctx context.Context, dialer *dialer, near func() *server) *publisher {
	p := &publisher{ctx: ctx, dialer: dialer, near: near}
	p.batch = batch.New(batch.Config[*publication]{
		Ready:    p.ready,
		Commit:   p.commit,
		Size:     func(p *publication) int { return len(p.bytes) },
		MaxItems: maxPublishItems,
		MaxBytes: maxPublishBytes,
	})
	return p
}

// publish waits until p is published, and owns it.
func (p *publisher) publish(ctx context.Context, what *publication) error {
	err := p.batch.Do(ctx, what)
	if cap(what.bytes) <= keepPublication && !errors.Is(err, batch.ErrTaken) {
		publications.Put(what)
	}
	return errs.OfPublish(ctx, err, p.health)
}

// ready makes sure that there is a link. It tries once; after a failure it
// does not try again before the backoff is over.
func (p *publisher) ready() error {
	link, down := p.state()
	if link != nil {
		if down = link.reason(); down == nil {
			return nil
		}
		link.close(nil)
		p.retry = time.Now().Add(p.backoff.Lost(time.Since(p.born)))
		p.set(nil, down)
	}
	if p.ctx.Err() != nil {
		return herald.ErrClosed
	}
	if !p.hurried.Swap(false) && time.Now().Before(p.retry) {
		return fmt.Errorf("%w: %w", herald.ErrBusDown, down)
	}
	link, err := p.dialer.dial(p.ctx, p.near(), nil)
	if err != nil {
		p.retry = time.Now().Add(p.backoff.Fail())
		p.set(nil, err)
		return fmt.Errorf("%w: %w", herald.ErrBusDown, err)
	}
	p.born = time.Now()
	p.set(link, nil)
	if p.ctx.Err() != nil { // Close may have seen no link to drop
		return herald.ErrClosed
	}
	return nil
}

// commit publishes all in one write, and never again.
func (p *publisher) commit(items []*publication) []error {
	link, _ := p.state()
	limit := int(link.maxPayload.Load())
	errs := make([]error, len(items))
	p.bytes = p.bytes[:0]
	for i, item := range items {
		if limit > 0 && item.largest > limit {
			// The server would close the connection.
			errs[i] = fmt.Errorf("%w: a packet of %d bytes: the server's max_payload is %d bytes", herald.ErrInvalid, item.largest, limit)
			continue
		}
		p.bytes = append(p.bytes, item.bytes...)
	}
	if len(p.bytes) == 0 {
		return errs
	}
	p.bytes = append(p.bytes, ping...)
	out := link.do(p.bytes)
	if cap(p.bytes) > 2*maxPublishBytes {
		p.bytes = nil
	}

	at := 0
	for i, item := range items {
		if errs[i] == nil {
			errs[i] = out.result(item, at)
			at += len(item.bytes)
		}
	}
	return errs
}

// result is the outcome of an item whose bytes began at the offset at.
func (o *outcome) result(item *publication, at int) error {
	if o.err != nil {
		_, rest := cutPub(item.bytes)
		if o.written < at+len(item.bytes)-len(rest) { // not one packet went out as a whole
			return fmt.Errorf("%w: %w", herald.ErrBusDown, o.err)
		}
		return fmt.Errorf("%w: %w", herald.ErrUnknown, o.err)
	}
	if len(o.refused) == 0 {
		return nil
	}
	refused := 0
	var why error
	for rest := item.bytes; len(rest) > 0; {
		var subject []byte
		subject, rest = cutPub(rest)
		for _, r := range o.refused {
			if denied := r.denied(); denied == string(subject) {
				refused++
				why = fmt.Errorf("refused: %w", r)
				break
			} else if denied == "" && why == nil { // whatever it is about
				why = fmt.Errorf("%w: %w", herald.ErrUnknown, r)
			}
		}
	}
	if refused > 0 && refused < item.packets {
		return fmt.Errorf("%w: %d of %d packets were not taken: %w", herald.ErrUnknown, refused, item.packets, why)
	}
	return why
}

func (p *publisher) state() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.down
}

func (p *publisher) set(link *link, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.down = link, down
}

// health returns why nothing can be published, or nil.
func (p *publisher) health() error {
	link, down := p.state()
	if link != nil {
		return link.reason()
	}
	return down
}

// hurry has the next publish dial at once if there is no link, because the broker has
// just given a sign of life.
func (p *publisher) hurry() { p.hurried.Store(true) }

// drop makes the link dead, if there is one.
func (p *publisher) drop(why error) {
	if link, _ := p.state(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link.
func (p *publisher) close() {
	p.batch.Close(herald.ErrClosed)
	if link, _ := p.state(); link != nil {
		link.close(herald.ErrClosed)
	}
}
