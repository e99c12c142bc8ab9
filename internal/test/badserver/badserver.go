// Package badserver is a server for tests that sends whatever a test wants.
package badserver

import (
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// An Answer returns what the server sends in answer to the bytes that it has just
// read from a connection, and whether it goes on reading. If the text ends in
// Endless, the server sends it over and over until the client hangs up.
type Answer func(asked []byte) (said string, more bool)

// Endless marks the end of a text that the server sends over and over.
const Endless = "…"

// Always returns an Answer that is the same each time.
func Always(said string) Answer { return func([]byte) (string, bool) { return said, true } }

// InTurn returns an Answer that gives these texts in turn, and then the last one
// for ever.
func InTurn(said ...string) Answer {
	return func([]byte) (string, bool) {
		now := said[0]
		if len(said) > 1 {
			said = said[1:]
		}
		return now, true
	}
}

// A Server is a server on loopback.
type Server struct {
	listener net.Listener
	connect  func() (greeting string, answer Answer)
	serving  sync.WaitGroup

	mu    sync.Mutex
	ended bool
	conns []net.Conn
}

// Start starts a server, which ends with the test. It calls connect for each
// connection.
func Start(t testing.TB, connect func() (greeting string, answer Answer)) *Server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{listener: l, connect: connect}
	s.serving.Go(s.accept)
	t.Cleanup(s.Stop)
	return s
}

// Addr returns the server's address.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Stop ends the server. It may be called twice.
func (s *Server) Stop() {
	s.listener.Close()
	s.mu.Lock()
	s.ended = true
	for _, conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.ended {
			conn.Close()
		}
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.serving.Go(func() {
			defer conn.Close()
			s.serve(conn)
		})
	}
}

func (s *Server) serve(conn net.Conn) {
	said, answer := s.connect()
	asked := make([]byte, 64<<10)
	for more := true; ; {
		once, again := strings.CutSuffix(said, Endless)
		for first := true; first || again; first = false {
			if _, err := conn.Write([]byte(once)); err != nil {
				return
			}
		}
		if !more {
			return
		}
		n, err := conn.Read(asked)
		if err != nil {
			return
		}
		said, more = answer(asked[:n])
	}
}

// Grown returns how many bytes of memory the process takes from the system while f
// runs.
func Grown(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Sys - before.Sys
}
