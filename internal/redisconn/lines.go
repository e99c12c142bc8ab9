package redisconn

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/resp"
)

// lines are connections on which scripts run, one call at a time on each. go-redis
// opens their sessions. From then on herald itself writes and reads, because go-redis
// takes more CPU for a command than the rest of the call.
type lines struct {
	options *redis.Options
	turns   chan struct{} // has one for each call under way

	mu   sync.Mutex
	open map[*line]struct{} // nil once closed
	idle []*line            // the last used comes last
}

// A line is one such connection. It belongs to the call that has taken it.
type line struct {
	conn   net.Conn
	raw    syscall.RawConn // of the TCP connection, which may be below TLS; nil if it is not TCP
	client *redis.Client   // opened the session; from then on only close uses it
	reader *resp.Reader
	bytes  []byte // the command being written; the memory is used again
	born   time.Time
	used   time.Time // when it was last given back
	ended  bool      // the context of the last call has closed it

	one    [1]byte
	silent bool // see alive
}

const (
	lineBuffer = 16 << 10
	lineKeeps  = 64 << 10              // the size, in bytes, up to which a buffer is used again
	lineFresh  = 10 * time.Millisecond // how long after its last use a line counts as alive

	// The largest answer: that of a page of large messages.
	lineElems = 1 << 16
	lineBytes = 512 << 20
)

// newLines returns lines to one server, at most as many as the options allow.
func newLines(options *redis.Options) *lines {
	return &lines{options: options, turns: make(chan struct{}, options.PoolSize), open: make(map[*line]struct{})}
}

// run runs a command. It repeats none that may have been carried out. An error reply
// of Redis is returned as an Error that is also a redis.Error.
func (l *lines) run(ctx context.Context, words ...any) (any, error) {
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", redis.ErrPoolTimeout, ctx.Err())
	}
	for {
		c, reused, err := l.take(ctx)
		if err != nil {
			return nil, err
		}
		sent, value, err := c.call(ctx, words)
		if err == nil {
			said, refused := value.(error)
			switch {
			case c.ended, c.reader.Buffered() > 0: // what is buffered would be taken for the next answer
				l.drop(c)
			case refused && strings.HasPrefix(ScriptError(said.Error()), "READONLY"): // the same name may lead to its master now
				l.drop(c)
			default:
				l.put(c)
			}
			if refused {
				return nil, said
			}
			return value, nil
		}
		l.drop(c)
		if sent || !reused || ctx.Err() != nil {
			return nil, err
		} // else the server had closed it
	}
}

// take returns an idle line that does not look dead, or a new one.
func (l *lines) take(ctx context.Context) (c *line, reused bool, err error) {
	for {
		l.mu.Lock()
		closed := l.open == nil
		if n := len(l.idle); n > 0 {
			c, l.idle = l.idle[n-1], l.idle[:n-1]
		}
		l.mu.Unlock()
		switch {
		case closed:
			return nil, false, redis.ErrClosed
		case c == nil:
			c, err = l.dial(ctx)
			return c, false, err
		case !l.expired(c) && c.alive():
			return c, true, nil
		}
		l.drop(c)
		c = nil
	}
}

// dial opens a line.
func (l *lines) dial(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, l.options.DialTimeout)
	defer cancel()
	o := LinkOptions(l.options, l.options.DialTimeout)
	conn, err := Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	client, err := Session(ctx, conn, *o, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &line{conn: conn, raw: rawio.Conn(plainConn(conn)), client: client, reader: resp.NewReader(conn, lineBuffer), born: time.Now()}
	l.mu.Lock()
	closed := l.open == nil
	if !closed {
		l.open[c] = struct{}{}
	}
	l.mu.Unlock()
	if closed {
		c.close()
		return nil, redis.ErrClosed
	}
	return c, nil
}

// put gives back a line that is well.
func (l *lines) put(c *line) {
	c.used = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != nil { // otherwise close has closed it
		l.idle = append(l.idle, c)
	}
}

// drop closes a line.
func (l *lines) drop(c *line) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	c.close()
}

// close closes all lines for good. Calls under way fail.
func (l *lines) close() {
	l.mu.Lock()
	open := l.open
	l.open, l.idle = nil, nil
	l.mu.Unlock()
	for c := range open {
		c.close()
	}
}

// close may be called at any time, and twice.
func (c *line) close() {
	plainConn(c.conn).Close() // tls.Conn.Close writes, and may block
	c.client.Close()
}

// plainConn returns what is below TLS.
func plainConn(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// expired reports whether a line is older, or was idle for longer, than the options allow.
func (l *lines) expired(c *line) bool {
	idle, life := l.options.ConnMaxIdleTime, l.options.ConnMaxLifetime
	return idle > 0 && time.Since(c.used) >= idle || life > 0 && time.Since(c.born) >= life
}

// alive reports whether the line looks alive. A write to a line that the server has
// closed still succeeds, and then nobody would know whether the command was carried
// out.
func (c *line) alive() bool {
	if c.raw == nil || time.Since(c.used) < lineFresh {
		return true
	}
	c.silent = false
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		return false
	}
	err := c.raw.Read(func(fd uintptr) bool {
		_, _, came := rawio.Read(fd, c.one[:])
		c.silent = !came // nothing comes unasked on a line that is well
		return true
	})
	return err == nil && c.silent
}

// call writes a command and reads the reply. sent reports whether the whole command was
// written: Redis does not carry out a part of one.
func (c *line) call(ctx context.Context, words []any) (sent bool, value any, err error) {
	if c.bytes, err = appendCommand(c.bytes[:0], words); err != nil {
		return false, nil, err
	}
	deadline, bounded := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return false, nil, err
	}
	if !bounded {
		stop := context.AfterFunc(ctx, c.close)
		defer func() { c.ended = !stop() }()
	}
	_, err = c.conn.Write(c.bytes)
	if cap(c.bytes) > lineKeeps {
		c.bytes = nil
	}
	if err != nil {
		return false, nil, err
	}
	v, err := c.reader.Reply(lineElems, lineBytes)
	if err == nil {
		value, err = plain(v)
	}
	return true, value, err
}

// appendCommand encodes a command.
func appendCommand(b []byte, words []any) ([]byte, error) {
	b = resp.AppendCommand(b, len(words))
	var digits [20]byte
	for _, word := range words {
		switch w := word.(type) {
		case string:
			b = resp.AppendWord(b, w)
		case []byte:
			b = resp.AppendWord(b, w)
		case int:
			b = resp.AppendWord(b, strconv.AppendInt(digits[:0], int64(w), 10))
		case int64:
			b = resp.AppendWord(b, strconv.AppendInt(digits[:0], w, 10))
		case uint64:
			b = resp.AppendWord(b, strconv.AppendUint(digits[:0], w, 10))
		default:
			return b, fmt.Errorf("herald: a word of a command is a %T", word)
		}
	}
	return b, nil
}

// A reply is an Error that is also a redis.Error.
type reply struct{ said Error }

func (r reply) Error() string { return string(r.said) }
func (r reply) Unwrap() error { return r.said }
func (reply) RedisError()     {}

var _ redis.Error = reply{}

// plain converts a reply as go-redis would, but returns an error reply, or redis.Nil,
// as a value. Its error says that no script returns such a reply: more may follow
// that nobody has asked for.
func plain(v resp.Value) (any, error) {
	switch v.Kind {
	case ':':
		return v.Int, nil
	case '$', '+':
		return v.Str, nil
	case '-':
		return reply{Error(v.Str)}, nil
	case '_':
		return redis.Nil, nil
	case '*':
		parts := make([]any, len(v.Elems))
		for i, e := range v.Elems {
			part, err := plain(e)
			if err != nil {
				return nil, err
			}
			if part != redis.Nil {
				parts[i] = part
			}
		}
		return parts, nil
	}
	return nil, fmt.Errorf("%w: a script answered %q", resp.ErrProtocol, v.Kind)
}
