package herald

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// The sizes of the buffers between the WebSocket library and the socket. The
// library writes control frames only, of at most 127 bytes, each in one Write;
// longer reads go past the read buffer.
const (
	socketReadBuffer  = 256
	socketWriteBuffer = 128
)

// A socket stands between the WebSocket library and the connection. The
// library reads through it. What the library writes joins the Conn's queue,
// so that one owner writes at any time.
type socket struct {
	c    *Conn
	conn net.Conn
	raw  syscall.RawConn // nil where conn is not plain TCP
	pre  []byte          // what net/http had read already

	lastRead atomic.Int64 // when bytes last came, in nanoseconds of clock
	readErr  error        // of the reader's goroutine
}

// Read is called by the Conn's reader alone.
func (s *socket) Read(p []byte) (int, error) {
	if len(s.pre) > 0 {
		n := copy(p, s.pre)
		if s.pre = s.pre[n:]; len(s.pre) == 0 {
			s.pre = nil
		}
		return n, nil
	}
	n, err := s.conn.Read(p)
	if n > 0 {
		s.lastRead.Store(clock())
	}
	if err != nil {
		s.readErr = err
	}
	return n, err
}

// Write takes a control frame of the library's.
func (s *socket) Write(p []byte) (int, error) {
	switch {
	case len(p) < 2:
		return 0, errors.New("not a control frame")
	case p[0] == finalPong:
		s.c.pong(p)
	case p[0] == finalClose:
		s.c.libraryClose(p[2:])
	default:
		return 0, errors.New("not a frame that the library should write")
	}
	return len(p), nil
}

// Close is the library's wish; the Conn closes the connection when its queue
// has gone, or at the deadline.
func (s *socket) Close() error {
	s.c.hangup()
	return nil
}

func (s *socket) LocalAddr() net.Addr                { return s.conn.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr               { return s.conn.RemoteAddr() }
func (s *socket) SetDeadline(t time.Time) error      { return s.conn.SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.conn.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

var started = time.Now()

// clock returns nanoseconds on a clock that never jumps.
func clock() int64 { return int64(time.Since(started)) }

// An upgradeWriter is the ResponseWriter that the library upgrades. Its Hijack
// gives the library the Conn's socket, with small buffers.
type upgradeWriter struct {
	http.ResponseWriter
	socket *socket
}

// Unwrap is for http.ResponseController.
func (w upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeaderNow is what gin needs for the status line to be sent at all.
func (w upgradeWriter) WriteHeaderNow() {
	if g, ok := w.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		g.WriteHeaderNow()
	}
}

// Hijack takes over the connection.
func (w upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	s := w.socket
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		s.pre = append([]byte(nil), b...)
	}
	s.conn = conn
	s.raw = rawConn(conn)
	return s, bufio.NewReadWriter(bufio.NewReaderSize(s, socketReadBuffer), bufio.NewWriterSize(s, socketWriteBuffer)), nil
}

// canHijack says whether Hijack will find a connection, without trying.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

func connID(node string, counter uint64) string {
	return node + "." + strconv.FormatUint(counter, 10)
}
