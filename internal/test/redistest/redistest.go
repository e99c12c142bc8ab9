// Package redistest starts a real redis-server for a test.
package redistest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/servertest"
)

// A Server is a redis-server that belongs to the test, on a free loopback port,
// with no data and no persistence.
type Server struct {
	*servertest.Server

	t testing.TB
}

// Start starts a server that is stopped when the test ends. If redis-server is not
// installed, it skips the test, or fails it under CI=true.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, nil, args)
}

func start(t testing.TB, env, args []string) *Server {
	t.Helper()
	addr := servertest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	args = append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)
	return &Server{t: t, Server: servertest.Start(t, servertest.Command{
		Program:  "redis-server",
		Package:  "redis-server",
		Args:     args,
		Env:      env,
		Addr:     addr,
		Ready:    func() error { return ping(addr) },
		Patience: 20 * time.Second,
	})}
}

// ping returns nil if the server at addr answers. It uses go-redis only if
// something listens there, because go-redis would log a failure.
func ping(addr string) error {
	if err := servertest.Dial(addr); err != nil {
		return err
	}
	probe := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	defer probe.Close()
	return probe.Ping(context.Background()).Err()
}

// Client returns a client of the server, which is closed when the test ends.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.t.Cleanup(func() { c.Close() })
	return c
}
