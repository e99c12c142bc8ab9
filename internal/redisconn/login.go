package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/resp"
)

// A frankConn is a connection to Redis for go-redis. It meters what the server sends
// before go-redis parses it, because go-redis might overflow the stack or use up the
// memory. If the connection breaks at its beginning, it says why: a Redis with too
// many connections writes so, unasked, and closes, but a client that writes meanwhile
// sees only a broken pipe. A second read shows that Redis has accepted the
// connection.
type frankConn struct {
	net.Conn
	heard bool   // something has been read
	said  string // the error reply that was read first, if nothing has been read since
	meter resp.Meter
}

// frank wraps conn in a frankConn, which has the SyscallConn of conn if there is one:
// go-redis uses it to find out that a connection has died.
func frank(conn net.Conn) net.Conn {
	c := &frankConn{Conn: conn}
	c.meter.Asked() // a server may speak first
	if raw, ok := conn.(syscall.Conn); ok {
		return struct {
			*frankConn
			syscall.Conn
		}{c, raw}
	}
	return c
}

func (c *frankConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.said = ""
		if first := !c.heard; first && b[0] == '-' {
			c.said, _, _ = strings.Cut(string(b[1:n]), "\r\n")
		}
		c.heard = true
		if broken := c.meter.Read(b[:n]); broken != nil {
			c.Close()
			return 0, broken
		}
	}
	return n, c.why(err)
}

func (c *frankConn) Write(b []byte) (int, error) {
	c.meter.Asked()
	n, err := c.Conn.Write(b)
	if err != nil && !c.heard && !errors.Is(err, os.ErrDeadlineExceeded) {
		// What the server wrote before it closed has already arrived.
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.Read(make([]byte, 512))
	}
	return n, c.why(err)
}

// why returns what the server said, instead of an error that only tells that it is
// gone.
func (c *frankConn) why(err error) error {
	if err == nil || c.said == "" || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return Error(c.said)
}

// A hook makes the connections of a client frank.
type hook struct{}

func (hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return frank(conn), nil
	}
}

func (hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ErrGoRedis says that go-redis panicked.
var ErrGoRedis = errors.New("herald: go-redis panicked at what Redis sent")

// Calm runs f, which calls go-redis, and returns a panic as an error. What a server
// sends can make go-redis panic, and must not end the process. go-redis drops the
// connection.
func Calm(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", ErrGoRedis, v)
		}
	}()
	return f()
}
