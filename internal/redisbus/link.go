package redisbus

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/resp"
)

// astray says whether another node, or this one at another time, may carry
// the command out.
func astray(said redisconn.Error) bool {
	word, _, _ := strings.Cut(string(said), " ")
	switch word {
	case "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN":
		return true
	}
	return false
}

// asks says whether the slot is moving out, and a key is not there any more.
func asks(said redisconn.Error) bool { return strings.HasPrefix(string(said), "ASK ") }

// closing says whether Redis closes the connection after this error. Commands
// behind the refused one are not carried out, either.
func closing(said redisconn.Error) bool {
	return strings.HasPrefix(string(said), "ERR Protocol error")
}

// refusal is the error of what Redis said for the caller of a Bus.
func refusal(said redisconn.Error) error {
	if redisconn.IsRefusal(string(said)) {
		return fmt.Errorf("%w: refused by Redis: %w", errs.BusDown, said)
	}
	return fmt.Errorf("refused by Redis: %w", said)
}

// A link is one connection to Redis: never another after it. One
// goroutine at a time calls do, another reads.
type link struct {
	conn    net.Conn
	server  string        // the address of the other end
	client  *redis.Client // that opened the session; nothing but close uses it
	timeout time.Duration // for an answer
	in      *inbound      // nil if nothing is subscribed

	life  atomic.Uint64 // replies and messages read that were awaited
	dead  chan struct{} // closed when err is set
	ended chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	current *exchange // that waits for replies
	err     error     // why the link is dead
}

type commandKind uint8

const (
	commandHello commandKind = iota + 1
	commandInfo              // CLUSTER INFO
	commandOwner             // any that a node refuses whose slot it is not
	commandStill             // the same, behind packets
	commandPublish
	commandSubscribe
	commandUnsubscribe
)

// A command is one command of an exchange, and its answer.
type command struct {
	kind      commandKind
	channels  []string // subscribe and unsubscribe only: each is confirmed
	confirmed int
	err       error // a redisconn.Error
}

// An exchange is a number of commands that are written together. The
// reader owns it from the write on until done is closed.
type exchange struct {
	commands []command
	answered int // commands
	done     chan struct{}
}

// An outcome is how an exchange ended.
type outcome struct {
	written  bool  // at least in part
	answered int   // commands; all if err is nil
	err      error // why the link died
}

// maxPatience is for how many timeouts an answer may be awaited while other
// answers or messages are read: a server that sends those without end would keep
// the link for ever.
const maxPatience = 10

// do writes commands and waits until all are answered, or the link is dead.
// A link that reads nothing for its timeout is dead.
func (l *link) do(q *query) outcome {
	e := &exchange{commands: q.commands, done: make(chan struct{})}
	l.mu.Lock()
	err := l.err
	l.current = e
	l.mu.Unlock()
	if err != nil {
		return outcome{err: err}
	}
	life := l.life.Load()
	l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
	// Redis may have said why before it closed: the reader has the last word.
	n, broken := l.conn.Write(q.bytes)
	if isTimeout(broken) {
		l.fail(fmt.Errorf("write to Redis: %w", broken))
	}
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	waited := 0
	for alive := true; alive; {
		select {
		case <-e.done:
			if broken != nil {
				l.fail(fmt.Errorf("write to Redis: %w", broken))
			}
			return outcome{written: true, answered: len(q.commands)}
		case <-l.dead:
			alive = false
		case <-timer.C:
			waited++
			if now := l.life.Load(); now != life && waited < maxPatience {
				life = now
				timer.Reset(l.timeout)
				continue
			}
			l.fail(fmt.Errorf("herald: Redis has not answered for %v", time.Duration(waited)*l.timeout))
		}
	}
	<-l.ended // from here on the exchange is ours again
	if e.answered == len(q.commands) {
		return outcome{written: true, answered: e.answered}
	}
	return outcome{written: n > 0, answered: e.answered, err: l.reason()}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// fail makes the link dead, for the reason err. It does not block.
func (l *link) fail(err error) {
	l.mu.Lock()
	first, waiting := l.err == nil, l.current != nil
	if first {
		l.err = err
	}
	l.mu.Unlock()
	if !first {
		return
	}
	close(l.dead)
	conn := l.conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn() // tls.Conn.Close writes, and may block
	}
	// A reset drops what the kernel has not sent yet of a publish. It would come
	// late, behind publishes on the next link.
	if t, ok := conn.(*net.TCPConn); ok && waiting {
		t.SetLinger(0)
	}
	conn.Close()
}

// close makes the link dead and waits for its reader.
func (l *link) close(err error) {
	l.fail(err)
	<-l.ended
	l.client.Close()
}

// reason returns why the link is dead, or nil.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Buffers hold any channel name, and some hundred small messages, which then
// cost one read together. A partition's share of the messages is smaller, and
// a link that only publishes gets short answers.
const (
	readBuffer      = 64 << 10
	partitionBuffer = 16 << 10
	replyBuffer     = 4 << 10
)

// read reads replies and messages until the link is dead.
func (l *link) read() {
	defer close(l.ended)
	size, before := replyBuffer, func() {}
	if l.in != nil {
		size, before = l.in.buffer, l.in.flush
	}
	from := newLinkReader(l.conn, before)
	r := resp.NewReader(from, size)
	var pace pace
	for {
		if err := l.readOne(r); err != nil {
			if l.in != nil {
				l.in.flush()
			}
			l.fail(fmt.Errorf("read from Redis: %w", err))
			return
		}
		if l.in == nil {
			continue
		}
		pace.messages++
		if r.Buffered() == 0 && from.drained && pace.next() {
			l.in.flush()
			from.rest(&pace)
		}
	}
}

func (l *link) readOne(r *resp.Reader) error {
	h, err := r.Header()
	if err != nil {
		return err
	}
	// Servers that know RESP3 only in part push with arrays.
	if l.in != nil && h.Len == 3 && (h.Kind == '>' || h.Kind == '*') {
		l.life.Add(1)
		return l.readPush(r)
	}
	v, err := r.Rest(h)
	if err != nil || h.Kind == '>' || h.Kind == '|' {
		return err // a push we did not ask for, an attribute of the next reply
	}
	l.life.Add(1)
	return l.reply(v)
}

// readPush reads a message, or a confirmation of a subscription.
func (l *link) readPush(r *resp.Reader) error {
	word, err := r.Peek()
	if err != nil {
		return err
	}
	kind := commandSubscribe
	switch string(word) {
	case "message", "smessage":
		return l.in.message(r)
	case "subscribe", "ssubscribe":
	case "unsubscribe", "sunsubscribe":
		kind = commandUnsubscribe
	default:
		return fmt.Errorf("%w: push %q", resp.ErrProtocol, word)
	}
	word, err = r.Peek()
	if err != nil {
		return err
	}
	channel := string(word)
	count, err := r.Header()
	if err != nil {
		return err
	}
	c, err := l.expect(kind, channel)
	if err != nil {
		return err
	}
	if err := l.in.confirmed(kind, c.channels[c.confirmed], count.Len); err != nil {
		return err
	}
	c.confirmed++
	if c.confirmed == len(c.channels) {
		l.answered()
	}
	return nil
}

// expect returns the command that the confirmation is for. One that nobody
// waits for says that someone else cut the subscription off.
func (l *link) expect(kind commandKind, channel string) (*command, error) {
	e := l.exchange()
	if e != nil {
		c := &e.commands[e.answered]
		if c.kind == kind && c.channels[c.confirmed] == channel {
			return c, nil
		}
	}
	if kind == commandUnsubscribe && l.in.sub.way.sharded {
		return nil, fmt.Errorf("herald: Redis ended the subscription of %q: another master has its slot", channel)
	}
	return nil, fmt.Errorf("herald: Redis changed the subscription of %q unasked", channel)
}

// exchange returns the exchange that waits for replies, or nil.
func (l *link) exchange() *exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// answered counts a command of the exchange as answered.
func (l *link) answered() {
	e := l.exchange()
	e.answered++
	if e.answered < len(e.commands) {
		return
	}
	l.mu.Lock()
	l.current = nil
	l.mu.Unlock()
	if l.in != nil {
		l.in.flush()
	}
	close(e.done)
}

// reply takes a reply that is no push.
func (l *link) reply(v resp.Value) error {
	e := l.exchange()
	if e == nil {
		return fmt.Errorf("%w: reply to nothing", resp.ErrProtocol)
	}
	c := &e.commands[e.answered]
	refused := v.Kind == '-'
	switch {
	case c.kind == commandHello:
		// If a server does not tell its role, or knows no bare HELLO, the
		// role is not known.
		if role := v.Field("role"); role != "" && role != "master" {
			return fmt.Errorf("herald: Redis is a %s, not a master", role)
		}
	case c.kind == commandInfo && !refused:
		if isolated(v.Str) {
			return errIsolated
		}
	case c.kind == commandInfo, c.kind == commandOwner:
		if refused && !asks(redisconn.Error(v.Str)) {
			return redisconn.Error(v.Str)
		}
	case refused:
		c.err = redisconn.Error(v.Str)
		if c.kind != commandPublish && c.kind != commandStill && astray(c.err.(redisconn.Error)) {
			return c.err // the link leads to the wrong node
		}
		if closing(redisconn.Error(v.Str)) {
			l.fail(c.err) // before anyone uses it again
		}
	case c.kind != commandPublish && c.kind != commandStill:
		return fmt.Errorf("%w: reply %q to a subscription", resp.ErrProtocol, v.Kind)
	}
	l.answered()
	return nil
}
