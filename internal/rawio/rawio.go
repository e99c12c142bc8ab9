//go:build unix

// Package rawio reads from and writes to plain TCP connections without waiting.
package rawio

import (
	"io"
	"net"
	"syscall"
)

// Conn returns the raw connection of a plain TCP connection, to read and write
// without waiting. It returns nil for any other.
func Conn(conn net.Conn) syscall.RawConn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// A Writer makes non-blocking writes. Its state is kept between calls so
// that they allocate nothing.
type Writer struct {
	p   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

// Write writes as much of p as the socket takes at once.
func (w *Writer) Write(raw syscall.RawConn, p []byte) (int, error) {
	if w.try == nil {
		w.try = w.once
	}
	w.p, w.n, w.err = p, 0, nil
	// If the connection is closed, or its deadline has passed, raw.Write
	// fails without calling w.try.
	err := raw.Write(w.try)
	w.p = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}

// once always returns true: it never waits for the socket.
func (w *Writer) once(fd uintptr) bool {
	for {
		n, err := write(fd, w.p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
		case err != nil:
			w.err = err
		default:
			w.n = n
		}
		return true
	}
}

// Read makes one non-blocking read. ok is false if nothing has come.
func Read(fd uintptr, p []byte) (n int, err error, ok bool) {
	for {
		n, err = read(fd, p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, nil, false
		case err != nil:
			return 0, err, true
		case n == 0:
			return 0, io.EOF, true
		}
		return n, nil, true
	}
}
