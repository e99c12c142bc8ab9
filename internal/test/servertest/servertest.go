// Package servertest starts real servers for tests. They are child processes on
// free loopback ports, and are stopped by their pids.
package servertest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Command says how a server is started.
type Command struct {
	Program string // searched for in $PATH and where Debian has servers
	Package string // the Debian package that has it
	Args    []string
	Env     []string // in addition to the test's own
	Addr    string   // where it listens

	// Ready returns nil once the server answers.
	Ready func() error

	// Patience is how long it may take to be ready.
	Patience time.Duration
}

// A Server is a child process that belongs to the test.
type Server struct {
	Addr string

	t       testing.TB
	command Command
	path    string
	log     Buffer
	cmd     *exec.Cmd
}

// Start starts a server, waits until it is ready, and stops it when the test ends.
// If the program is not installed, it skips the test, or fails it under CI=true.
func Start(t testing.TB, c Command) *Server {
	t.Helper()
	path := Find(c.Program)
	if path == "" {
		Missing(t, c.Program, c.Package)
	}
	s := &Server{Addr: c.Addr, t: t, command: c, path: path}
	s.Restart()
	t.Cleanup(s.Kill)
	return s
}

// Find returns the path of a program, or "". It also looks in directories of
// servers, which are in the $PATH of root only.
func Find(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/lib/rabbitmq/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	return ""
}

// Missing skips the test because a program is not installed, or fails it under
// CI=true.
func Missing(t testing.TB, program, debian string) {
	t.Helper()
	message := fmt.Sprintf("MISSING: %s is not installed, so %s did not run (Debian: apt-get install %s)", program, t.Name(), debian)
	if os.Getenv("CI") == "true" {
		t.Fatal(message)
	}
	skip(t, message)
}

// Dial returns nil if something listens on addr.
func Dial(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		c.Close()
	}
	return err
}

// Restart starts the server again on its address after a Kill.
func (s *Server) Restart() {
	s.t.Helper()
	s.cmd = exec.Command(s.path, s.command.Args...)
	s.cmd.Env = append(os.Environ(), s.command.Env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	deadline := time.Now().Add(s.command.Patience)
	for err := s.command.Ready(); err != nil; err = s.command.Ready() {
		if time.Now().After(deadline) {
			s.Kill()
			s.t.Fatalf("%s on %s is not ready: %v\n%s", s.command.Program, s.Addr, err, s.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Kill ends the server with SIGKILL and waits for it. It may be called twice.
func (s *Server) Kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// Stop ends the server with SIGTERM and waits for it.
func (s *Server) Stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait()
}

// Pause stops the server with SIGSTOP. It then behaves like a machine that hangs.
func (s *Server) Pause() { s.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (s *Server) Continue() { s.cmd.Process.Signal(syscall.SIGCONT) }

// PID returns the id of the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Log returns everything that the server has printed.
func (s *Server) Log() string { return s.log.String() }

// A Buffer is a bytes.Buffer that may be read while others write to it.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
