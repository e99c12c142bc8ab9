package herald

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/heraldgo/herald/internal/resp"
)

// A redisError is an error that Redis replied: the command was not carried out.
type redisError string

// Error is what Redis said.
func (e redisError) Error() string { return string(e) }

// A redisDialer opens links.
type redisDialer struct {
	options redis.Options
	timeout time.Duration // for an answer
	master  *redisMaster  // nil without Sentinels
}

// newRedisDialer derives from the options of the user's client those of our
// links: one connection each, RESP3, no retries, and nothing that would
// write to the connection once it is ours.
func newRedisDialer(user *redis.Options, timeout time.Duration) *redisDialer {
	o := *user
	o.Protocol = 3
	o.MaxRetries = -1
	o.DialerRetries = 1
	o.PoolSize, o.MinIdleConns, o.MaxActiveConns, o.PipelinePoolSize = 1, 0, 0, -1
	o.ReadTimeout, o.WriteTimeout, o.ContextTimeoutEnabled = timeout, timeout, true
	o.DisableIdentity = true
	o.Limiter = nil
	o.PushNotificationProcessor = nil // the user's would be shared
	o.ClientSideCache, o.ClientSideCacheConfig = nil, nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &redisDialer{options: o, timeout: timeout, master: newRedisMaster(user)}
}

// dial opens a link to a master. in is nil for a link that only publishes.
func (d *redisDialer) dial(ctx context.Context, in *redisInbound) (*redisLink, error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.DialTimeout+d.timeout)
	defer cancel()
	conn, err := d.options.Dialer(ctx, d.options.Network, d.options.Addr)
	if err != nil {
		return nil, err
	}
	client, err := d.session(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	l := &redisLink{
		conn:    conn,
		client:  client,
		timeout: d.timeout,
		in:      in,
		dead:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	go l.read()
	if err := l.do(appendHello(nil), []redisCommand{{kind: commandHello}}).err; err != nil {
		l.close(err)
		return nil, err
	}
	return l, nil
}

// session lets go-redis authenticate, select the database and run the user's
// OnConnect on conn. It dials nothing: a failed dial inside go-redis would be
// logged by it, at each attempt.
func (d *redisDialer) session(ctx context.Context, conn net.Conn) (*redis.Client, error) {
	o := d.options
	var dialed atomic.Bool
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		if dialed.Swap(true) {
			return nil, errors.New("herald: a link has one connection")
		}
		return conn, nil
	}
	client := redis.NewClient(&o)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := client.Conn().Do(ctx, "HELLO", "3").Err()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// A redisLink is one connection to Redis: never another after it. One
// goroutine at a time calls do, another reads.
type redisLink struct {
	conn    net.Conn
	client  *redis.Client // that opened the session; nothing but close uses it
	timeout time.Duration // for an answer
	in      *redisInbound // nil where nothing is subscribed

	life  atomic.Uint64 // replies and messages read
	dead  chan struct{} // closed when err is set
	ended chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	current *redisExchange // that waits for replies
	err     error          // why the link is dead
}

type commandKind uint8

const (
	commandHello commandKind = iota + 1
	commandPublish
	commandSubscribe
	commandUnsubscribe
)

// A redisCommand is one command of an exchange, and its answer.
type redisCommand struct {
	kind      commandKind
	channels  []string // of subscribe and unsubscribe: each is confirmed
	confirmed int
	err       error // a redisError
}

// A redisExchange is a number of commands that are written together. The
// reader owns it from the write on until done is closed.
type redisExchange struct {
	commands []redisCommand
	answered int // commands
	done     chan struct{}
}

// An outcome is how an exchange ended.
type outcome struct {
	written  bool  // at least in part
	answered int   // commands; all where err is nil
	err      error // why the link died
}

// do writes bytes, which are commands encoded, and waits until all are
// answered, or the link is dead. A link that reads nothing for its
// timeout is dead.
func (l *redisLink) do(bytes []byte, commands []redisCommand) outcome {
	e := &redisExchange{commands: commands, done: make(chan struct{})}
	l.mu.Lock()
	err := l.err
	l.current = e
	l.mu.Unlock()
	if err != nil {
		return outcome{err: err}
	}
	life := l.life.Load()
	l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
	n, err := l.conn.Write(bytes)
	if err != nil {
		l.fail(fmt.Errorf("write to Redis: %w", err))
	}
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	for err == nil {
		select {
		case <-e.done:
			return outcome{written: true, answered: len(commands)}
		case <-l.dead:
			err = l.reason()
		case <-timer.C:
			if now := l.life.Load(); now != life {
				life = now
				timer.Reset(l.timeout)
				continue
			}
			l.fail(fmt.Errorf("herald: Redis has not answered for %v", l.timeout))
		}
	}
	<-l.ended // from here on the exchange is ours again
	if e.answered == len(commands) {
		return outcome{written: true, answered: e.answered}
	}
	return outcome{written: n > 0, answered: e.answered, err: l.reason()}
}

// fail makes the link dead, for the reason err. It does not block.
func (l *redisLink) fail(err error) {
	l.mu.Lock()
	first := l.err == nil
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
	conn.Close()
}

// close makes the link dead and waits for its reader.
func (l *redisLink) close(err error) {
	l.fail(err)
	<-l.ended
	l.client.Close()
}

// reason returns why the link is dead, or nil.
func (l *redisLink) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// readBuffer holds any channel name, and some hundred small messages, which
// then cost one read together.
const readBuffer = 64 << 10

// read reads replies and messages until the link is dead.
func (l *redisLink) read() {
	defer close(l.ended)
	r := resp.NewReader(l.conn, readBuffer)
	for {
		if err := l.readOne(r); err != nil {
			if l.in != nil {
				l.in.flush()
			}
			l.fail(fmt.Errorf("read from Redis: %w", err))
			return
		}
		l.life.Add(1)
		if l.in != nil && r.Buffered() == 0 {
			l.in.flush()
		}
	}
}

func (l *redisLink) readOne(r *resp.Reader) error {
	h, err := r.Header()
	if err != nil {
		return err
	}
	// Servers that know RESP3 only in part push with arrays.
	if l.in != nil && h.Len == 3 && (h.Kind == '>' || h.Kind == '*') {
		return l.readPush(r)
	}
	v, err := r.Rest(h)
	if err != nil || h.Kind == '>' || h.Kind == '|' {
		return err // a push we did not ask for, an attribute of the next reply
	}
	return l.reply(v)
}

// readPush reads a message, or a confirmation of a subscription.
func (l *redisLink) readPush(r *resp.Reader) error {
	word, err := r.Peek()
	if err != nil {
		return err
	}
	kind := commandSubscribe
	switch string(word) {
	case "message":
		return l.in.message(r)
	case "subscribe":
	case "unsubscribe":
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
func (l *redisLink) expect(kind commandKind, channel string) (*redisCommand, error) {
	e := l.exchange()
	if e != nil {
		c := &e.commands[e.answered]
		if c.kind == kind && c.channels[c.confirmed] == channel {
			return c, nil
		}
	}
	return nil, fmt.Errorf("herald: Redis changed the subscription of %q unasked", channel)
}

// exchange returns the exchange that waits for replies, or nil.
func (l *redisLink) exchange() *redisExchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// answered counts a command of the exchange as answered.
func (l *redisLink) answered() {
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
func (l *redisLink) reply(v resp.Value) error {
	e := l.exchange()
	if e == nil {
		return fmt.Errorf("%w: reply to nothing", resp.ErrProtocol)
	}
	c := &e.commands[e.answered]
	switch {
	case c.kind == commandHello:
		// Where a server does not tell its role, or knows no bare HELLO, the
		// role is not known.
		if role := v.Field("role"); role != "" && role != "master" {
			return fmt.Errorf("herald: Redis is a %s, not a master", role)
		}
	case v.Kind == '-':
		c.err = redisError(v.Str)
	case c.kind != commandPublish:
		return fmt.Errorf("%w: reply %q to a subscription", resp.ErrProtocol, v.Kind)
	}
	l.answered()
	return nil
}

// appendHello appends HELLO, which every user may call, and whose reply
// tells the server's role (https://redis.io/docs/latest/commands/hello). It
// names no version: the session has spoken RESP3 from its start.
func appendHello(b []byte) []byte { return resp.AppendWord(resp.AppendCommand(b, 1), "HELLO") }

// A redisBackoff spaces out attempts to connect: the first is free, the
// others wait 50 ms and up to 5 s, with jitter.
type redisBackoff struct{ failures int }

const (
	backoffStart = 50 * time.Millisecond
	backoffMax   = 5 * time.Second
)

// fail counts a failed attempt and returns how long to wait.
func (b *redisBackoff) fail() time.Duration {
	d := min(backoffStart<<min(b.failures, 10), backoffMax)
	b.failures++
	return d/2 + rand.N(d/2)
}

// lost counts a link that lived for d and returns how long to wait: not at
// all, unless links die as soon as they are born.
func (b *redisBackoff) lost(d time.Duration) time.Duration {
	if d < backoffMax && b.failures > 0 {
		return b.fail()
	}
	b.failures = 1
	return 0
}
