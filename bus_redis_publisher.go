package herald

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/resp"
)

// A publication is what one call publishes, encoded by the caller, so that
// nothing of the caller's is used once a call has been given up.
type publication struct {
	bytes    []byte
	hello    bool // the first command is HELLO
	commands int
}

var publications = sync.Pool{New: func() any { return new(publication) }}

// keepPublication is the most bytes whose memory is used again.
const keepPublication = 64 << 10

func newPublication() *publication {
	p := publications.Get().(*publication)
	*p = publication{bytes: p.bytes[:0]}
	return p
}

func (p *publication) add(prefix string, packet Packet) {
	p.bytes = resp.AppendCommand(p.bytes, 3)
	p.bytes = resp.AppendWord(p.bytes, "PUBLISH")
	p.bytes = resp.AppendJoined(p.bytes, prefix, packet.Topic)
	p.bytes = resp.AppendWord(p.bytes, packet.Data)
	p.commands++
}

// A redisPublisher owns the link that publishes. Commits connect it anew
// where it is dead; no other goroutine does.
type redisPublisher struct {
	ctx    context.Context // ends at Close
	dialer *redisDialer
	moved  string // the channel of notices
	batch  *batch.Batcher[*publication]

	// Of the committing goroutine.

	bytes    []byte
	commands []redisCommand
	backoff  redisBackoff
	born     time.Time // of the link
	retry    time.Time // not before it is dialed again
	last     lastTaken // publication, but for probes

	mu   sync.Mutex
	link *redisLink
	down error // why there is no link
}

func newRedisPublisher(ctx context.Context, dialer *redisDialer, moved string) *redisPublisher {
	p := &redisPublisher{ctx: ctx, dialer: dialer, moved: moved}
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
func (p *redisPublisher) publish(ctx context.Context, what *publication) error {
	err := p.batch.Do(ctx, what)
	if errors.Is(err, batch.ErrTaken) {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if cap(what.bytes) <= keepPublication {
		publications.Put(what)
	}
	if err != nil && err == ctx.Err() {
		if down := p.health(); down != nil {
			return fmt.Errorf("%w: %w: %w", ErrBusDown, err, down)
		}
	}
	return err
}

// ready makes sure that there is a link. It tries once; after a failure it
// does not try again before the backoff is over.
func (p *redisPublisher) ready() error {
	link, down := p.state()
	if link != nil {
		if down = link.reason(); down == nil {
			return nil
		}
		link.close(nil)
		p.retry = time.Now().Add(p.backoff.lost(time.Since(p.born)))
		p.set(nil, down)
	}
	if p.ctx.Err() != nil {
		return ErrClosed
	}
	if time.Now().Before(p.retry) {
		return fmt.Errorf("%w: %w", ErrBusDown, down)
	}
	link, err := p.dialer.dial(p.ctx, nil)
	if err == nil {
		if err = p.tellMoved(link); err != nil {
			link.close(err)
		}
	}
	if err != nil {
		p.retry = time.Now().Add(p.backoff.fail())
		p.set(nil, err)
		return fmt.Errorf("%w: %w", ErrBusDown, err)
	}
	p.born = time.Now()
	p.set(link, nil)
	if p.ctx.Err() != nil { // Close may have seen no link to drop
		return ErrClosed
	}
	return nil
}

// commit publishes all in one write, and never again.
func (p *redisPublisher) commit(items []*publication) []error {
	p.commands = p.commands[:0]
	for _, item := range items {
		for i := range item.commands {
			kind := commandPublish
			if item.hello && i == 0 {
				kind = commandHello
			}
			p.commands = append(p.commands, redisCommand{kind: kind})
		}
	}
	bytes := items[0].bytes
	if len(items) > 1 {
		p.bytes = p.bytes[:0]
		for _, item := range items {
			p.bytes = append(p.bytes, item.bytes...)
		}
		bytes = p.bytes
	}
	link, _ := p.state()
	out := link.do(bytes, p.commands)
	if cap(p.bytes) > 2*maxPublishBytes {
		p.bytes = nil
	}

	if out.answered > 0 && (len(items) > 1 || !items[0].hello) {
		now := time.Now()
		p.last = lastTaken{link.addr(), p.dialer.master.proved(now), now}
	}
	errs := make([]error, len(items))
	at := 0
	for i, item := range items {
		errs[i] = out.result(p.commands[at:at+item.commands], out.answered-at)
		at += item.commands
	}
	return errs
}

// result is the outcome of some commands of an exchange, of which the first
// answered have been answered.
func (o outcome) result(commands []redisCommand, answered int) error {
	switch {
	case !o.written:
		return fmt.Errorf("%w: %w", ErrBusDown, o.err)
	case answered < len(commands):
		return fmt.Errorf("%w: %w", ErrUnknown, o.err)
	}
	var refused error
	n := 0
	for _, c := range commands {
		if c.err != nil {
			refused = fmt.Errorf("refused by Redis: %w", c.err)
			n++
		}
	}
	if n > 0 && n < len(commands) {
		return fmt.Errorf("%w: %d of %d packets were not taken: %w", ErrUnknown, n, len(commands), refused)
	}
	return refused
}

func (p *redisPublisher) state() (*redisLink, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.down
}

func (p *redisPublisher) set(link *redisLink, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.down = link, down
}

// health returns why nothing can be published, or nil.
func (p *redisPublisher) health() error {
	link, down := p.state()
	if link != nil {
		return link.reason()
	}
	return down
}

// drop makes the link dead, where there is one.
func (p *redisPublisher) drop(why error) {
	if link, _ := p.state(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link.
func (p *redisPublisher) close() {
	p.batch.Close(ErrClosed)
	if link, _ := p.state(); link != nil {
		link.close(ErrClosed)
	}
}
