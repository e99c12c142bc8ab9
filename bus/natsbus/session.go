package natsbus

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// readBuffer holds some hundred small messages, which then cost one read
// together.
const readBuffer = 64 << 10

// A session is a connection that nats.go opens: it says CONNECT, with
// whatever credentials its options have. To nats.go it is a dialer, and the
// connection that this returns. What nats.go may read ends with the PONG
// that ends the handshake; then release takes the connection away from it.
type session struct {
	ctx     context.Context // the attempt's
	dialer  *dialer
	server  *server
	info    nats.ServerInfo
	dialErr error  // nats.go does not return each of them
	refused string // what the server said in -ERR

	net.Conn // nil before Dial
	r        *bufio.Reader
	line     []byte // what is left of the line that nats.go reads now
	last     bool   // it is the last

	mu       sync.Mutex
	ended    chan struct{} // closed when nats.go has no more to do with it
	released bool
	closed   bool
}

// openSession connects to the server and has nats.go log in.
func (d *dialer) openSession(ctx context.Context, to *server) (*session, error) {
	s := &session{ctx: ctx, dialer: d, server: to, ended: make(chan struct{})}
	o := d.options
	o.Servers = []string{to.url.String()}
	o.CustomDialer = s
	stop := context.AfterFunc(ctx, func() { s.Close() })
	nc, err := connect(&o)
	aborted := !stop()
	if err == nil {
		s.release()
		nc.Close()
	}
	switch {
	case aborted:
		err = context.Cause(ctx)
	case s.dialErr != nil:
		err = s.dialErr
	}
	if err == nil {
		err = s.Conn.SetDeadline(time.Time{})
	}
	if err != nil && s.Conn != nil {
		closeNow(s.Conn)
	}
	return s, err
}

// connect has nats.go connect. What a server sends must not end the process,
// whatever nats.go makes of it.
func connect(o *nats.Options) (nc *nats.Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("natsbus: nats.go panicked at what the server sent: %v", v)
		}
	}()
	return o.Connect()
}

// Dial connects, reads INFO, and does the TLS handshake if there is to be
// one: nats.go would do it behind its own back, and keep the tls.Conn.
func (s *session) Dial(_, address string) (net.Conn, error) {
	s.dialErr = s.dial(address)
	if s.dialErr != nil {
		return nil, s.dialErr
	}
	return s, nil
}

// SkipTLSHandshake tells nats.go that Dial has done it.
func (s *session) SkipTLSHandshake() bool { return true }

func (s *session) dial(address string) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.dialer.options.Timeout)
	defer cancel()
	conn, err := s.dialer.connect(ctx, address)
	if err != nil {
		return err
	}
	if !s.use(conn) {
		conn.Close()
		return context.Cause(s.ctx)
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	o := &s.dialer.options
	if o.Secure && o.TLSHandshakeFirst {
		if err := s.secure(ctx); err != nil {
			return err
		}
	}
	line, err := readLine(s.r)
	if err != nil {
		return fmt.Errorf("read INFO: %w", err)
	}
	args, ok := bytes.CutPrefix(line, []byte("INFO "))
	if text, refused := bytes.CutPrefix(line, []byte("-ERR")); refused {
		return s.refuse(text)
	}
	if !ok {
		return fmt.Errorf("%w: it greets with %.20q, not with INFO", errProtocol, line)
	}
	if err := json.Unmarshal(args, &s.info); err != nil {
		return fmt.Errorf("%w: INFO: %w", errProtocol, err)
	}
	s.line = bytes.Clone(line)
	if !o.TLSHandshakeFirst && (s.info.TLSRequired || o.Secure && s.info.TLSAvailable) {
		return s.secure(ctx)
	}
	return nil
}

// use makes conn the one of the session, unless that has been closed.
func (s *session) use(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Conn, s.r = conn, bufio.NewReaderSize(conn, readBuffer)
	return !s.closed
}

// secure puts TLS around the connection, as nats.go does.
func (s *session) secure(ctx context.Context) error {
	if s.dialer.skipTLS {
		return nil
	}
	config, err := s.dialer.tlsConfig(s.server)
	if err != nil {
		return err
	}
	conn := tls.Client(s.Conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", nats.ErrTLS, err)
	}
	if !s.use(conn) {
		return context.Cause(s.ctx)
	}
	return nil
}

// Read gives nats.go what the server sends, a line at a time, up to the end of
// the handshake. Then it waits for the end of the session.
func (s *session) Read(p []byte) (int, error) {
	if len(s.line) == 0 {
		if s.last {
			<-s.ended
			return 0, io.EOF
		}
		line, err := readLine(s.r)
		if err != nil {
			return 0, err
		}
		s.line = bytes.Clone(line)
		if text, ok := bytes.CutPrefix(line, []byte("-ERR")); ok {
			s.refuse(text)
			s.last = true
		} else if bytes.HasPrefix(line, []byte("PONG")) {
			s.last = true
		}
	}
	n := copy(p, s.line)
	s.line = s.line[n:]
	return n, nil
}

// Write writes what nats.go has to say.
func (s *session) Write(p []byte) (int, error) {
	if s.isOver() {
		return 0, net.ErrClosed
	}
	n, err := s.Conn.Write(p)
	if err != nil {
		err = cmp.Or(s.lastWords(), err)
	}
	return n, err
}

// refuse notes what the server says in -ERR.
func (s *session) refuse(args []byte) error {
	s.refused = errorText(args)
	return fmt.Errorf("natsbus: the server says: %s", s.refused)
}

// lastWords returns what the server said before it hung up, or nil. A server that is
// full does not wait for CONNECT.
func (s *session) lastWords() error {
	s.Conn.SetReadDeadline(time.Now().Add(lastWords))
	for {
		line, err := readLine(s.r)
		if err != nil {
			return nil
		}
		if text, ok := bytes.CutPrefix(line, []byte("-ERR")); ok {
			return s.refuse(text)
		}
	}
}

// Close is called by nats.go, also on a session that it no longer has; or
// if the attempt is given up.
func (s *session) Close() error {
	s.mu.Lock()
	released, conn := s.released, s.Conn
	if !released && !s.closed {
		s.closed = true
		close(s.ended)
	}
	s.mu.Unlock()
	if !released && conn != nil {
		closeNow(conn)
	}
	return nil
}

// release takes the connection away from nats.go.
func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.released = true
		close(s.ended)
	}
}

// isOver reports whether nats.go has no more to do with the connection.
func (s *session) isOver() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// SetDeadline is the connection's, while nats.go has it.
func (s *session) SetDeadline(t time.Time) error {
	if s.isOver() {
		return net.ErrClosed
	}
	return s.Conn.SetDeadline(t)
}

// SetWriteDeadline is the connection's, while nats.go has it.
func (s *session) SetWriteDeadline(t time.Time) error {
	if s.isOver() {
		return net.ErrClosed
	}
	return s.Conn.SetWriteDeadline(t)
}

// closeNow closes a connection without a word to the other side, which could block.
func closeNow(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.Close()
}
