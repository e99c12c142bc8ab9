package herald

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/netpoll"
	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/ring"
	"github.com/heraldgo/herald/internal/turn"
)

// How much is read at once.
const (
	readSize  = 4 << 10  // from plain TCP
	largeRead = 64 << 10 // from plain TCP, at most, while more than readSize of a message is to come
	otherRead = 256      // from what is not plain TCP
)

// readBuffers and largeBuffers are for what comes from plain TCP connections. A
// connection has one only while something that came is not taken apart.
var (
	readBuffers  = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeRead); return &b }}
)

// A socket is the connection of a Conn, as it is read.
type socket struct {
	c    *Conn
	conn net.Conn
	raw  syscall.RawConn // nil if conn is not plain TCP

	lastRead atomic.Int64 // on clock: when bytes last came; 0 if reading has not begun
	unread   atomic.Int64 // on clock: since when OnMessage has kept the reader from reading; 0 if it reads
	left     atomic.Int64 // how many bytes are still read if the Conn is closing; 0 while it is not

	turn  turn.Turn
	asked atomic.Bool // the reader need not be asked to leave: it has been, or there is none

	// Used by whoever has the turn.

	heardOut bool          // it was the client that began the close
	place    netpoll.Place // in the Hub's poller, once it has been parked
	in       frame.Assembler
	buffer   *[]byte  // the memory of ahead, from a pool while there is something; its own if conn is not plain TCP
	ahead    []byte   // what has been read, and is not taken apart
	readErr  error    // after it there is nothing more to read
	backlog  *backlog // nil until keepalive has read ahead
}

// fill reads once, and waits until something can be read. All that came before must have
// been taken apart. It returns true if it has read nothing because the reader was asked
// to leave.
func (s *socket) fill(try func(fd uintptr) bool) (asked bool) {
	if s.raw != nil {
		err := s.raw.Read(try)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.conn.SetReadDeadline(time.Time{})
			s.asked.Store(false)
			return true
		case s.readErr == nil:
			s.readErr = err
		}
		return false
	}
	b := s.in.Room(len(*s.buffer))
	if b == nil {
		b = *s.buffer
	}
	n, err := s.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.turn.Is(turn.Awaited) {
		err = nil
	}
	s.ahead = b[:n]
	s.came(n, err)
	return false
}

// try makes one read of what has come. It takes a buffer only for that.
func (s *socket) try(fd uintptr) bool {
	left := s.in.Left()
	if left > readSize && s.in.Held() >= largeRead {
		b := s.in.Room(readSize)
		n, err, ok := rawio.Read(fd, b)
		s.ahead = b[:n]
		s.came(n, err)
		return ok
	}
	// A large message gets memory of its own only as its bytes come, because nobody knows
	// before how many will.
	pool, most := &readBuffers, int64(readSize)
	if left > readSize {
		pool, most = &largeBuffers, min(left, largeRead)
	}
	b := pool.Get().(*[]byte)
	n, err, ok := rawio.Read(fd, (*b)[:most])
	if n == 0 {
		pool.Put(b)
	} else {
		s.buffer, s.ahead = b, (*b)[:n]
	}
	s.came(n, err)
	return ok
}

// tryOnce is try for callers that do not wait.
func (s *socket) tryOnce(fd uintptr) bool {
	s.try(fd)
	return true
}

func (s *socket) came(n int, err error) {
	if n > 0 {
		s.lastRead.Store(clock.Now())
		s.c.hub.stats.bytesReceived.Add(uint64(n))
		if s.left.Load() != 0 && s.left.Add(-int64(n)) <= 0 {
			s.readErr = errOverran
		}
	}
	if err != nil {
		s.readErr = err
	}
}

// skip takes n bytes off what was read ahead.
func (s *socket) skip(n int) {
	if s.ahead = s.ahead[n:]; len(s.ahead) > 0 {
		return
	}
	s.ahead = nil
	switch {
	case s.buffer == nil, s.raw == nil:
		return
	case len(*s.buffer) == readSize:
		readBuffers.Put(s.buffer)
	default:
		largeBuffers.Put(s.buffer)
	}
	s.buffer = nil
}

// closingReads is how many bytes, besides a message of MaxMessageSize, are read from a
// client whose Conn is closing: what it was sending when it was told, before its own
// close frame. Many clients read nothing until their message is out. If a client sends
// more, nobody waits for its close frame, and the socket is closed at CloseTimeout. It
// must not be closed at once, because a reset takes from some clients what they have not
// read, the close frame too.
const closingReads = 256 << 10

// mayStillSend returns how many bytes are read from c once it is closing. A client that
// has not been let in has not been asked for messages. The caller holds c.mu.
func (c *Conn) mayStillSend() int64 {
	if size := c.hub.config.MaxMessageSize; c.state == connOpen && size > 0 {
		return closingReads + min(size, math.MaxInt64-closingReads)
	}
	return closingReads
}

// Why nothing more is read, besides the errors of the connection.
var (
	errOverran    = errors.New("more than a closing connection may send")
	errPeerClosed = errors.New("the client has closed")
	errPeerBroke  = errors.New("the client has broken the protocol")
)

// reclaim takes the turn back for the reader, which has lent it while OnMessage ran.
func (s *socket) reclaim() {
	switch over := s.turn.Reclaim(); {
	case over == nil:
	case s.raw != nil:
		<-over
	default: // whoever has it waits for bytes; net/http ends its own reads in this way
		s.conn.SetReadDeadline(time.Unix(1, 0))
		<-over
		s.conn.SetReadDeadline(time.Time{})
	}
}

// begin begins to read. Most clients say nothing for a while, so the Conn is parked at
// once, and has a goroutine only if it is needed.
func (c *Conn) begin() {
	c.hub.wg.Add(1) // done at the end of the reading, whoever has the turn then
	c.socket.lastRead.Store(clock.Now())
	if !c.park() {
		go c.read(nil)
	}
}

// ask asks the reader, which waits in fill, to leave. keepalive does this, so that no
// Conn needs a timer.
func (s *socket) ask() {
	if s.raw != nil && !s.asked.Load() {
		s.asked.Store(true)
		s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// park leaves the Conn, whose turn the caller has, to the Hub's poller: it has no
// goroutine and no buffer until something comes. park reports whether the caller is done
// with the Conn. A Conn is not parked while a frame or a message is half read, while it
// is closing, or if the system refuses it.
func (c *Conn) park() bool {
	s, poller := &c.socket, c.hub.poller
	if s.raw == nil || s.readErr != nil || len(s.ahead) > 0 || !s.in.Idle() || c.isClosing() {
		return false
	}
	s.asked.Store(true) // also if it is refused: the system is not asked for it again and again
	ticket, ok := poller.Prepare(&s.place, c)
	if !ok {
		return false
	}
	s.backlog = nil
	s.turn.Pass(turn.Parked)
	// From now on another may have the turn. If the Conn is refused and kill has woken
	// it, the caller is done too.
	return poller.Arm(ticket, s.raw) || !s.turn.Exchange(turn.Parked, turn.Reader)
}

// logUnparked logs why a quiet Conn is not parked.
func (h *Hub) logUnparked(err error) {
	h.config.Logger.Warn("herald: idle connections keep a goroutine each; is fs.epoll.max_user_watches too low?", slog.Any("err", err))
}

// wake gives a parked Conn that has been killed a reader, which reports the end. If
// the poller is reading, it starts the reader when it finds that it cannot park the
// Conn.
func (c *Conn) wake() {
	if c.socket.turn.Exchange(turn.Parked, turn.Reader) {
		go c.read(nil)
	}
}

// poll reads what has come to a parked Conn. If that is nothing but control frames, and
// the Conn was quiet before, it stays parked, so a client that answers pings needs no
// goroutine. Otherwise the Conn gets a reader. The poller's goroutine calls poll, which
// runs no callback and waits for nothing.
func (c *Conn) poll() {
	s := &c.socket
	if !s.turn.Exchange(turn.Parked, turn.Polled) {
		return
	}
	before := s.lastRead.Load()
	for s.fill(s.tryOnce) {
	}
	c.spend(len(s.ahead))
	m := c.parse()
	quiet := s.lastRead.Load()-before >= int64(c.hub.poller.Quiet) // an event that brought nothing could come again at once
	if m == nil && quiet && c.park() {
		return
	}
	s.asked.Store(false)
	s.turn.Pass(turn.Reader)
	go c.read(m)
}

// An upgradeWriter is the ResponseWriter that the library upgrades. Its Hijack gives the
// connection to the Conn, and gives the library one that it can only close.
//
// It holds back the 101 until ready has returned nil. ready runs once the library has
// found nothing wrong with the request. So a client whose handshake is over is known to
// the cluster. It also writes the 101 itself, past the host's middleware: gin, and echo's
// compression, keep a status until a body comes, and none ever does.
type upgradeWriter struct {
	http.ResponseWriter
	c     *Conn
	ready func() *HTTPError

	extensions string     // those agreed on
	refusal    *HTTPError // what ready returned
}

// Unwrap is for http.ResponseController.
func (w *upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader leaves the 101 to Hijack. If the 101 could not be written, the client has
// gone, and the library's 500 is dropped, because net/http would log it.
func (w *upgradeWriter) WriteHeader(status int) {
	switch {
	case status == http.StatusSwitchingProtocols, w.c.socket.conn != nil:
	case w.refusal != nil: // the library's 500 for the Hijack that failed
		w.ResponseWriter.WriteHeader(w.refusal.Status)
	default:
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write writes the body of a refusal.
func (w *upgradeWriter) Write(p []byte) (int, error) {
	if w.c.socket.conn != nil {
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
	s := &w.c.socket
	if n := brw.Reader.Buffered(); n > 0 {
		b, _ := brw.Reader.Peek(n)
		s.ahead = bytes.Clone(b)
		s.c.hub.stats.bytesReceived.Add(uint64(n))
	}
	s.conn = conn
	if s.raw = rawio.Conn(conn); s.raw == nil {
		b := make([]byte, otherRead)
		s.buffer = &b
	}
	w.c.subprotocol = strings.Clone(w.Header().Get("Sec-WebSocket-Protocol")) // a part of the request's
	var memory []byte
	if brw.Writer != nil {
		memory = brw.AvailableBuffer() // 4 KB of net/http's that nobody else wants
	}
	head := bytes.NewBuffer(memory)
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	w.Header().WriteSubset(head, notAsIs)
	for _, name := range []string{"Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"} { // as RFC 6455 spells them: some clients compare bytes
		if v := w.Header().Get(name); v != "" {
			head.WriteString(name + ": " + v + "\r\n")
		}
	}
	if w.extensions != "" {
		head.WriteString("Sec-WebSocket-Extensions: " + w.extensions + "\r\n")
	}
	head.WriteString("\r\n")
	conn.SetWriteDeadline(time.Now().Add(s.c.hub.config.WriteTimeout))
	if _, err := conn.Write(head.Bytes()); err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{}) // the host's too; from now on drain sets its own
	return nil, nil, errTaken
}

// errTaken is how Hijack ends if all went well. The library, given a connection, would
// make a Conn of its own, with some twenty pieces of memory and a finalizer.
var errTaken = errors.New("herald: the Conn has taken the connection")

// notAsIs are the headers that a 101 must not have (RFC 9110 sections 6.4.1 and 8.6), and
// those that are written in another spelling.
var notAsIs = map[string]bool{
	"Content-Length": true, "Transfer-Encoding": true,
	"Sec-Websocket-Accept": true, "Sec-Websocket-Protocol": true,
}

// maxWaiting is how many bytes of messages are read ahead while OnMessage runs, with
// messageCost for each.
const (
	maxWaiting  = 64 << 10
	messageCost = 128
)

// A backlog is what was read while OnMessage ran, and is not delivered yet.
type backlog struct {
	messages ring.Ring[[]byte] // frames
	size     int
	unspent  int // bytes that have not been counted against ByteRate
}

func (b *backlog) push(m []byte) {
	b.messages.Push(m)
	b.size += len(m) + messageCost
}

func (b *backlog) pop() []byte {
	m := b.messages.Pop()
	b.size -= len(m) + messageCost
	if b.messages.Len() == 0 {
		b.messages = ring.Ring[[]byte]{}
	}
	return m
}
