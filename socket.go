package herald

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/rawio"
)

// The sizes of the buffers between the WebSocket library and the socket. The
// library writes control frames only, of at most 127 bytes, each in one Write;
// longer reads go past the read buffer, which is small if what is read
// comes out of a buffer of readBuffers.
const (
	socketReadBuffer  = 256
	aheadReadBuffer   = 16
	socketWriteBuffer = 128
)

// readBuffers are for what comes from plain TCP connections. Only those of
// which something is being read have one.
var readBuffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// A socket stands between the WebSocket library and the connection. The
// library reads through it. The library's writes join the Conn's queue, so that
// there is one writer at any time.
type socket struct {
	c    *Conn
	conn net.Conn
	raw  syscall.RawConn // nil if conn is not plain TCP

	lastRead atomic.Int64 // when bytes last came, on clock
	left     atomic.Int64 // bytes that are still read of a Conn that is closing; 0 while it is not

	// Of the reader's goroutine.

	library *bufio.Reader  // that the library reads with
	ahead   []byte         // what has been read, and the library has not
	buffer  *[4 << 10]byte // from readBuffers; ahead lies in it, or it is nil
	readErr error          // after it there is nothing more to read
}

// Read is called by the library, in the Conn's reader.
func (s *socket) Read(p []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(p, s.ahead)
		s.skip(n)
		return n, nil
	}
	if s.readErr != nil {
		return 0, s.readErr
	}
	n, err := s.conn.Read(p)
	s.came(n, err)
	s.c.spend(n)
	return n, err
}

func (s *socket) came(n int, err error) {
	if n > 0 {
		s.lastRead.Store(clock.Now())
		if s.left.Load() != 0 && s.left.Add(-int64(n)) <= 0 {
			s.readErr = errOverran
		}
	}
	if err != nil {
		s.readErr = err
	}
}

// closingReads is how many bytes are read of a Conn that is closing, beside a
// message of MaxMessageSize: what the client was sending when it was told, before
// the close frame with which it answers. Many clients read nothing until their
// message is out. A client that sends more is closed at CloseTimeout, without
// having been heard. It must not be cut at once, because a reset takes from some
// clients what they have not read, the close frame too.
const closingReads = 256 << 10

// mayStillSend is how many bytes are read from c once it is closing. A client that
// has not been let in has not been asked for messages. The caller holds c.mu.
func (c *Conn) mayStillSend() int64 {
	if size := c.hub.config.MaxMessageSize; c.state == connOpen && size > 0 {
		return closingReads + min(size, math.MaxInt64-closingReads)
	}
	return closingReads
}

var errOverran = errors.New("more than a closing connection may send")

// skip takes n bytes off what was read ahead.
func (s *socket) skip(n int) {
	if s.ahead = s.ahead[n:]; len(s.ahead) > 0 {
		return
	}
	s.ahead = nil
	if s.buffer != nil {
		readBuffers.Put(s.buffer)
		s.buffer = nil
	}
}

// fill reads ahead, once all that came before has gone to the library. The
// goroutine of an idle Conn waits in here, and not in the library, because here
// 2 KB of stack are enough. It answers false if there is nothing to be had
// this way.
func (s *socket) fill(try func(fd uintptr) bool) bool {
	if s.raw == nil || len(s.ahead) > 0 || s.readErr != nil || s.library.Buffered() > 0 {
		return false
	}
	if err := s.raw.Read(try); err != nil && s.readErr == nil {
		s.readErr = err
	}
	s.c.spend(len(s.ahead))
	return s.readErr == nil
}

// try makes one read of what has come; a buffer is had only for that.
func (s *socket) try(fd uintptr) bool {
	b := readBuffers.Get().(*[4 << 10]byte)
	n, err, ok := rawio.Read(fd, b[:])
	if n == 0 {
		readBuffers.Put(b)
	} else {
		s.buffer, s.ahead = b, b[:n]
	}
	s.came(n, err)
	return ok
}

// Write takes a control frame of the library's.
func (s *socket) Write(p []byte) (int, error) {
	switch {
	case len(p) < 2:
		return 0, errors.New("not a control frame")
	case p[0] == frame.Pong:
		s.c.pong(p)
	case p[0] == frame.Close:
		s.c.shut(s.c.libraryClose(p[2:]))
	default:
		return 0, errors.New("not a frame that the library should write")
	}
	return len(p), nil
}

// libraryClose is the cause of a close that the library begins: the client has
// closed, or broken the protocol.
func (c *Conn) libraryClose(payload []byte) *CloseError {
	cause := parseClose(payload)
	switch { // the library's reasons tell more than a client need know
	case !utf8.ValidString(cause.Reason): // RFC 6455 section 8.1; the library does not look
		return &CloseError{Code: StatusInvalidPayload, Reason: "close reason is not UTF-8"}
	case cause.Code == StatusProtocolError:
		cause.Reason = "protocol error"
	case cause.Code == StatusMessageTooBig:
		cause.Reason = fmt.Sprintf("message of more than %d bytes", c.hub.config.MaxMessageSize)
	}
	return cause
}

// Close is the library's wish; the Conn closes the connection when its queue
// has gone, or at the deadline. If no close has begun, the library hangs up
// because a control frame has not come in whole within the five seconds that it
// gives it: then the client is told.
func (s *socket) Close() error {
	if !s.c.advance(connHangup) {
		s.c.shut(&CloseError{Code: StatusPolicyViolation, Reason: "message took too long"})
	}
	return nil
}

// LocalAddr and the rest are those of the connection.

func (s *socket) LocalAddr() net.Addr                { return s.conn.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr               { return s.conn.RemoteAddr() }
func (s *socket) SetDeadline(t time.Time) error      { return s.conn.SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.conn.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// An upgradeWriter is the ResponseWriter that the library upgrades. Its Hijack
// gives the library the Conn's socket, with small buffers.
//
// It holds back the 101 until ready, which runs when the library has found
// nothing wrong with the request, has returned nil: so a client whose
// handshake is over is known to the cluster. And it writes the 101 itself, past
// the host's middleware: gin, and what compresses in echo, keep a status until
// a body comes, which is never.
type upgradeWriter struct {
	http.ResponseWriter
	socket *socket
	ready  func() *HTTPError

	refusal *HTTPError // ready's
}

// Unwrap is for http.ResponseController.
func (w *upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader leaves the 101 to Hijack. If that could not be written the client
// has gone, and the library's 500 with it: net/http would log each of them.
func (w *upgradeWriter) WriteHeader(status int) {
	switch {
	case status == http.StatusSwitchingProtocols, w.socket.conn != nil:
	case w.refusal != nil: // the library's 500 for the Hijack that failed
		w.ResponseWriter.WriteHeader(w.refusal.Status)
	default:
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write writes the body of a refusal.
func (w *upgradeWriter) Write(p []byte) (int, error) {
	if w.socket.conn != nil {
		return 0, http.ErrHijacked
	}
	return w.ResponseWriter.Write(p)
}

// Hijack takes over the connection and answers the upgrade.
func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.refusal = w.ready(); w.refusal != nil {
		for _, name := range []string{"Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"} {
			w.Header().Del(name)
		}
		retryAfter(w.Header(), w.refusal.Status)
		return nil, nil, w.refusal
	}
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if p := w.Header().Get("Sec-WebSocket-Protocol"); p != "" { // a part of the request's, and the library keeps it
		w.Header().Set("Sec-WebSocket-Protocol", strings.Clone(p))
	}
	s := w.socket
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		s.ahead = append([]byte(nil), b...)
	}
	s.conn = conn
	s.raw = rawio.Conn(conn)
	var memory []byte
	if brw.Writer != nil {
		memory = brw.AvailableBuffer() // 4 KB of net/http's that nobody else wants
	}
	head := bytes.NewBuffer(memory)
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	w.Header().WriteSubset(head, noBody)
	head.WriteString("\r\n")
	conn.SetWriteDeadline(time.Now().Add(s.c.hub.config.WriteTimeout))
	if _, err := conn.Write(head.Bytes()); err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{}) // the host's too; from now on drain sets its own
	size := socketReadBuffer
	if s.raw != nil {
		size = aheadReadBuffer
	}
	s.library = bufio.NewReaderSize(s, size)
	return s, bufio.NewReadWriter(s.library, bufio.NewWriterSize(s, socketWriteBuffer)), nil
}

// noBody is what a 101 must not have (RFC 9110 sections 6.4.1 and 8.6).
var noBody = map[string]bool{"Content-Length": true, "Transfer-Encoding": true}

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
