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

// A frankConn is a connection to Redis for go-redis. It meters what the server
// sends before go-redis parses it, because go-redis may overflow the stack, or ask
// for memory that there is not. If the connection breaks at the beginning, it says
// why: a Redis that takes no more connections writes that, unasked, and closes,
// but a client that writes meanwhile is only told of a broken pipe. A second read
// shows that Redis has taken the connection.
type frankConn struct {
	net.Conn
	heard bool   // something has been read
	said  string // the error that was, if it was one and all so far
	meter resp.Meter
}

// frank makes a connection frank. It still lets go-redis find out that it has
// died.
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
		// What was written before the connection was closed has come already.
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.Read(make([]byte, 512))
	}
	return n, c.why(err)
}

// why returns what the server said, in the place of an error that only tells
// that it has gone.
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

// Calm calls go-redis, and returns an error if that panics. A server can make it
// panic, which is no reason for the process to end. go-redis drops the connection.
func Calm(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", ErrGoRedis, v)
		}
	}()
	return f()
}
