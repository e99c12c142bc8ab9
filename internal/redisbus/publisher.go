package redisbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/backoff"
	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/resp"
)

// A publication is what one call publishes. The caller encodes it, so nothing of the
// caller's is used once it has given the call up.
type publication struct {
	bytes   []byte
	lead    []command // before the packets
	packets int
	probe   bool       // published by no caller
	pub     *publisher // of the topics' partition, for a lane
}

var publications = sync.Pool{New: func() any { return new(publication) }}

// keepPublication is the size, in bytes, up to which a buffer is used again.
const keepPublication = 64 << 10

func newPublication() *publication {
	p := publications.Get().(*publication)
	*p = publication{bytes: p.bytes[:0]}
	return p
}

func (p *publication) add(command, prefix string, packet Packet) {
	p.bytes = resp.AppendCommand(p.bytes, 3)
	p.bytes = resp.AppendWord(p.bytes, command)
	p.bytes = resp.AppendJoined(p.bytes, prefix, packet.Topic)
	p.bytes = resp.AppendWord(p.bytes, packet.Data)
	p.packets++
}

// ask adds commands that show whether the link is well. It is called before add.
func (p *publication) ask(w *way) {
	q := query{bytes: p.bytes}
	q.add(commandHello, "HELLO")
	if !w.sharded { // SPUBLISH itself shows whose the slot is
		w.addOwner(&q)
	}
	p.bytes, p.lead = q.bytes, q.commands
}

// A publisher owns the link that publishes. Only its commits replace a dead link.
type publisher struct {
	ctx    context.Context // ends at Close
	dialer *dialer
	alive  <-chan struct{} // tells that the subscriber has just connected
	batch  *batch.Batcher[*publication]

	// Used by the committing goroutine alone.

	bytes    []byte
	commands []command
	backoff  backoff.Backoff
	born     time.Time // when the link was made
	retry    time.Time // the link is not dialed again before
	last     lastTaken // does not count probes

	mu   sync.Mutex
	link *link
	down error // why there is no link
}

func newPublisher(ctx context.Context, dialer *dialer, alive <-chan struct{}) *publisher {
	p := &publisher{ctx: ctx, dialer: dialer, alive: alive, backoff: dialer.backoff()}
	p.batch = batch.New(batch.Config[*publication]{
		Ready:    p.ready,
		Commit:   p.commit,
		Size:     func(p *publication) int { return len(p.bytes) },
		MaxItems: maxPublishItems,
		MaxBytes: maxPublishBytes,
	})
	return p
}

// publish publishes what, takes it over, and waits for the outcome. If the link
// shares its trunk, this is written together with what other partitions publish
// there.
func (p *publisher) publish(ctx context.Context, what *publication) error {
	err := errAside
	if l, _ := p.state(); l != nil && l.trunk.lane != nil && l.reason() == nil && !what.probe {
		what.pub = p
		err = l.trunk.lane.batch.Do(ctx, what)
	}
	if err == errAside {
		err = p.batch.Do(ctx, what)
	}
	if cap(what.bytes) <= keepPublication && !errors.Is(err, batch.ErrTaken) {
		publications.Put(what)
	}
	return errs.OfPublish(ctx, err, p.health)
}

// ready makes sure that there is a link. It dials once. After a failure it first
// waits until the backoff is over or the subscriber has connected.
func (p *publisher) ready() error {
	if link, _ := p.state(); link != nil {
		why := link.reason()
		if why == nil {
			return nil
		}
		link.close(nil)
		if !p.dialer.follow(why) {
			p.lost(why)
		}
		p.set(nil, why)
	}
	if wait := time.Until(p.retry); wait > 0 {
		select {
		case <-time.After(wait):
		case <-p.alive:
		case <-p.ctx.Done():
		}
	}
	if p.ctx.Err() != nil {
		return errs.Closed
	}
	return p.connect()
}

// lost notes when the link may be replaced. Redis is well if it has closed the link
// because one message was too large: then nothing has to wait.
func (p *publisher) lost(why error) {
	if said, ok := why.(redisconn.Error); ok && closing(said) {
		return
	}
	p.retry = time.Now().Add(p.backoff.Lost(time.Since(p.born)))
}

// connect dials a new link.
func (p *publisher) connect() error {
	link, err := p.dialer.dial(p.ctx, nil)
	if err == nil {
		if err = p.tellMoved(link); err != nil {
			link.close(err)
		}
	}
	if err != nil {
		p.retry = time.Now().Add(p.backoff.Fail())
		p.set(nil, err)
		return fmt.Errorf("%w: %w", errs.BusDown, err)
	}
	p.born = time.Now()
	p.set(link, nil)
	if p.ctx.Err() != nil { // Close may have seen no link to drop
		return errs.Closed
	}
	return nil
}

// commit publishes all items in one write. It never publishes again what may have
// been taken.
func (p *publisher) commit(items []*publication) []error {
	p.commands = p.commands[:0]
	for _, item := range items {
		p.commands = append(p.commands, item.lead...)
		for range item.packets {
			p.commands = append(p.commands, command{kind: commandPublish})
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
	probes := !slices.ContainsFunc(items, func(p *publication) bool { return !p.probe })
	out := p.exchange(link, bytes, p.commands, !probes)
	if out.err == nil {
		p.follow(bytes, p.commands)
	}
	if cap(p.bytes) > 2*maxPublishBytes {
		p.bytes = nil
	}

	if out.answered > 0 && !probes {
		p.noteTaken(link)
	}
	replaced := p.dialer.master.Health(link.trunk.server)
	if replaced == nil && out.err == nil && !slices.ContainsFunc(p.commands, func(c command) bool { return c.err != nil }) {
		return nil
	}
	results := make([]error, len(items))
	at := 0
	for i, item := range items {
		n := len(item.lead) + item.packets
		results[i] = out.result(p.commands[at:at+n], out.answered-at)
		if results[i] == nil && replaced != nil && !item.probe {
			results[i] = fmt.Errorf("%w: %w", errs.Unknown, replaced)
		}
		at += n
	}
	return results
}

// exchange sends commands and waits for their answers. What a node has taken is in
// doubt unless the node says afterwards that it still has the slot: a replica hands
// an SPUBLISH on to its master, where it arrives late, behind newer packets.
func (p *publisher) exchange(l *link, bytes []byte, commands []command, packets bool) outcome {
	q := query{bytes, commands}
	if packets { // a late probe is only heard late
		p.dialer.way.addStill(&q)
	}
	out := l.do(&q)
	copy(commands, q.commands) // addStill may have moved them
	if len(q.commands) == len(commands) {
		return out
	}
	why := out.err
	if said, ok := q.commands[len(commands)].err.(redisconn.Error); ok && astray(said) && !asks(said) {
		p.dialer.follow(said)
		l.leave(said)
		why = said
	}
	if why != nil {
		for i := range commands[:min(out.answered, len(commands))] {
			if c := &commands[i]; c.err == nil {
				c.err = fmt.Errorf("%w: %w", errs.Unknown, why)
			}
		}
	}
	return out
}

// follow publishes what a node has refused because it no longer has the slot at the
// node that has it now. Nothing is published twice, because the refused packets were
// not taken. If a node has refused for another of the reasons in astray, its link is
// left.
func (p *publisher) follow(bytes []byte, commands []command) {
	for hops := 0; ; hops++ {
		var refused []int
		for i, c := range commands {
			if said, ok := c.err.(redisconn.Error); ok && astray(said) {
				refused = append(refused, i)
			}
		}
		if len(refused) == 0 {
			return
		}
		link, _ := p.state()
		why := commands[refused[0]].err
		link.leave(why)
		if hops == maxHops || !p.dialer.follow(why) {
			return
		}
		link.close(nil)
		if err := p.connect(); err != nil {
			for _, i := range refused {
				commands[i].err = err
			}
			return
		}
		p.repeat(bytes, commands, refused)
	}
}

// repeat publishes, on a new link, the commands whose indexes are in which.
func (p *publisher) repeat(bytes []byte, commands []command, which []int) {
	var b []byte
	again := make([]command, 0, len(which))
	i := 0
	for encoded := range resp.Commands(bytes) {
		if len(again) < len(which) && which[len(again)] == i {
			b = append(b, encoded...)
			again = append(again, command{kind: commandPublish})
		}
		i++
	}
	link, _ := p.state()
	out := p.exchange(link, b, again, true)
	for k, i := range which {
		if k < out.answered {
			commands[i].err = again[k].err
		} else {
			commands[i].err = out.result(again[k:k+1], 0)
		}
	}
}

// result returns the outcome of some commands of an exchange. answered says how many
// of them, from the first on, have an answer.
func (o outcome) result(commands []command, answered int) error {
	switch {
	case !o.written:
		return fmt.Errorf("%w: %w", errs.BusDown, o.err)
	case answered < len(commands):
		return fmt.Errorf("%w: %w", errs.Unknown, o.err)
	}
	var refused error
	n, packets := 0, 0
	for _, c := range commands {
		if c.kind != commandPublish {
			continue
		}
		packets++
		if c.err != nil {
			n++
			if refused == nil || errors.Is(c.err, errs.Unknown) {
				refused = c.err
			}
		}
	}
	if said, ok := refused.(redisconn.Error); ok {
		refused = refusal(said)
	}
	if 0 < n && n < packets && !errors.Is(refused, errs.Unknown) {
		return fmt.Errorf("%w: %d of %d packets were not taken: %w", errs.Unknown, n, packets, refused)
	}
	return refused
}

func (p *publisher) state() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.down
}

func (p *publisher) set(l *link, down error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.down = l, down
}

// health returns why nothing can be published, or nil.
func (p *publisher) health() error {
	link, down := p.state()
	if link != nil {
		return link.reason()
	}
	return down
}

// drop makes the link dead, if there is one.
func (p *publisher) drop(why error) {
	if link, _ := p.state(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link.
func (p *publisher) close() {
	p.batch.Close(errs.Closed)
	if link, _ := p.state(); link != nil {
		link.close(errs.Closed)
	}
}
