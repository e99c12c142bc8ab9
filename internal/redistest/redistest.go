// Package redistest starts a real redis-server for a test.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Server is a redis-server that the test owns, on a free loopback port,
// with an empty data set and no persistence.
type Server struct {
	Addr string

	t    testing.TB
	args []string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// Start starts a server that is stopped when the test ends. Where there is no
// redis-server it skips the test, or fails it under CI=true.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		Missing(t, "redis-server")
	}
	s := &Server{t: t, Addr: FreeAddr(t), args: args}
	s.Restart()
	t.Cleanup(s.Kill)
	return s
}

// Missing says that a program is not installed: a skip, or a failure under
// CI=true.
func Missing(t testing.TB, program string) {
	t.Helper()
	message := fmt.Sprintf("MISSING: %s is not installed, so %s did not run (Debian: apt-get install %s)", program, t.Name(), program)
	if os.Getenv("CI") == "true" {
		t.Fatal(message)
	}
	fmt.Fprintln(os.Stderr, message)
	t.Skip(message)
}

// FreeAddr returns a loopback address that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Client returns a client of the server, closed when the test ends.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// Restart starts the server anew, empty, on its address, after a Kill.
func (s *Server) Restart() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.t.TempDir()}, s.args...)
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	probe := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	defer probe.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Addr)
		if err == nil {
			c.Close()
			if probe.Ping(context.Background()).Err() == nil {
				return
			}
		}
		if time.Now().After(deadline) {
			s.Kill()
			s.t.Fatalf("redis-server on port %s does not answer: %s", strconv.Quote(port), s.log.String())
		}
	}
}

// Kill ends the server with SIGKILL and waits for it. It may be called twice.
func (s *Server) Kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// Pause stops the server with SIGSTOP, as a machine that hangs.
func (s *Server) Pause() { s.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (s *Server) Continue() { s.cmd.Process.Signal(syscall.SIGCONT) }
