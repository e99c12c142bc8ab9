package heraldclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/protocol"
)

// A session is one connection. The Client's run goroutine reads it.
type session struct {
	client *Client
	conn   *websocket.Conn
	socket *socket         // under conn
	ctx    context.Context // ends when the socket is to be closed
	cancel context.CancelFunc
	paused atomic.Bool       // nothing is read, so no sign of life can be heard
	turn   chan struct{}     // holds a token while someone writes
	told   history.Positions // what the Hub was told is processed; of the holder of the turn

	mu     sync.Mutex
	err    error // why the Client ended it, if it did
	over   bool  // begin does nothing any more
	probes map[uint64]chan struct{}
	probed uint64         // the last one's number
	wg     sync.WaitGroup // begun under mu
}

var (
	errSilent  = errors.New("the server is silent")
	errSession = errors.New("the connection ended")
)

// connect makes a connection and reads it to its end. It returns why it ended, or why
// there was none.
func (c *Client) connect(ctx context.Context) error {
	if !c.set(dialling, nil) {
		return ErrClosed
	}
	s := &session{client: c, turn: make(chan struct{}, 1), probes: make(map[uint64]chan struct{})}
	s.ctx, s.cancel = context.WithCancel(ctx)
	defer s.cancel()
	if err := s.dial(); err != nil {
		return err
	}
	defer s.finish()
	if !c.set(greeting, s) {
		s.shut(ErrClosed, websocket.StatusNormalClosure, "")
	}
	s.begin(s.keepAlive)
	for {
		m, err := s.read()
		if err != nil {
			return s.cause(err)
		}
		if s.ended() {
			continue // until the close handshake is over
		}
		s.take(m)
		if c.queue.full() {
			s.pause()
		}
	}
}

// pause waits until there is room for what comes next.
func (s *session) pause() {
	s.paused.Store(true)
	s.client.queue.awaitRoom(s.ctx)
	s.socket.heard.Add(1) // the silence was the client's own
	s.paused.Store(false)
}

// dial makes the handshake. It asks for History, and says where the Client was.
func (s *session) dial() error {
	c := s.client
	ctx, cancel := context.WithTimeout(s.ctx, c.config.Timeout)
	defer cancel()
	target, header, err := c.config.Endpoint(ctx)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	u, err := url.Parse(target)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	u.RawQuery = c.item(nil).after.AddTo(u.RawQuery)
	client := *c.config.HTTPClient
	transport := &keeper{under: cmp.Or[http.RoundTripper](client.Transport, http.DefaultTransport)}
	client.Transport = transport
	conn, response, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient:     &client,
		HTTPHeader:     header,
		OnPongReceived: s.pong,

		CompressionMode: websocket.CompressionNoContextTakeover, // if the Hub has Config.Compression
	})
	switch {
	case err == nil:
		conn.SetReadLimit(-1) // read has its own
		s.conn, s.socket = conn, transport.socket
		return nil
	case response == nil || response.StatusCode == http.StatusSwitchingProtocols:
		return err
	}
	return &CloseError{
		Code:       httpCode + response.StatusCode,
		Reason:     http.StatusText(response.StatusCode),
		status:     true,
		retryAfter: retryAfter(response.Header.Get("Retry-After"), time.Now()),
	}
}

// A keeper keeps the socket of an upgrade.
type keeper struct {
	under  http.RoundTripper
	socket *socket
}

func (k *keeper) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := k.under.RoundTrip(r)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		return response, err
	}
	if body, ok := response.Body.(io.ReadWriteCloser); ok {
		k.socket = &socket{ReadWriteCloser: body}
		response.Body = k.socket
	}
	return response, nil
}

// A socket is what is under a WebSocket connection. The library has no way to close
// it while it waits for the rest of a frame, and takes a message that the end of the
// connection cut off for a whole one.
type socket struct {
	io.ReadWriteCloser
	heard atomic.Int64 // counts signs of life
	ended atomic.Bool  // there was nothing more to read
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(b)
	if n > 0 {
		s.heard.Add(1)
		return n, nil // the error comes again
	}
	if err != nil {
		s.ended.Store(true)
	}
	return n, err
}

// begin runs f in a goroutine that finish waits for.
func (s *session) begin(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.wg.Go(f)
	}
}

// finish closes the socket and waits for all that was begun.
func (s *session) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.cut()
	s.conn.CloseNow()
	s.wg.Wait()
}

// cut closes the socket.
func (s *session) cut() {
	s.cancel()
	s.socket.Close()
}

// fail gives up the connection. It returns false if that has been done before.
func (s *session) fail(err error) bool {
	s.mu.Lock()
	first := s.err == nil && !s.over
	if first {
		s.err = err
	}
	s.mu.Unlock()
	return first
}

// shut ends the connection with a close code. It returns false if the connection has ended already.
func (s *session) shut(err error, code websocket.StatusCode, reason string) bool {
	if !s.fail(err) {
		return false
	}
	s.begin(func() {
		defer s.cut()
		defer time.AfterFunc(closeTimeout, s.cut).Stop()
		if err == ErrClosed {
			s.ack() // or the Hub takes what was processed for missed
		}
		s.conn.Close(code, reason)
	})
	return true
}

// closeTimeout is how long the server may take to answer a close.
const closeTimeout = time.Second

// abandon ends the connection without a word: nobody would hear it.
func (s *session) abandon(err error) {
	if s.fail(err) {
		s.cut()
	}
}

// cause returns why the connection ended, if reading it has returned err.
func (s *session) cause(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var told websocket.CloseError
	switch {
	case s.err != nil:
		return s.err
	case errors.As(err, &told):
		return &CloseError{Code: int(told.Code), Reason: told.Reason}
	}
	return fmt.Errorf("read: %w", err)
}

// ended reports whether the connection is given up, and what comes is not taken.
func (s *session) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// A read is a message as it came.
type read struct {
	binary bool
	data   []byte
	cut    bool // there was more than the ReadLimit
}

func (s *session) read() (m read, err error) {
	typ, r, err := s.conn.Reader(s.ctx)
	if err != nil {
		return m, err
	}
	limit := s.client.config.ReadLimit
	m.binary = typ == websocket.MessageBinary
	m.data, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(m.data)) > limit {
		m.data, m.cut = m.data[:limit], true
		_, err = io.Copy(io.Discard, r)
	}
	if err == nil && s.socket.ended.Load() {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}

// write writes a message. ctx ends only the waiting for its turn.
func (s *session) write(ctx context.Context, typ websocket.MessageType, data []byte) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	defer s.release()
	return s.writeNow(typ, data)
}

// wait waits for the turn to write. release must follow.
func (s *session) wait(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return errSession
	}
}

func (s *session) release() { <-s.turn }

// writeNow writes a message. The caller has the turn.
func (s *session) writeNow(typ websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.client.config.Timeout)
	defer cancel()
	return s.conn.Write(ctx, typ, data)
}

// keepAlive pings the server until the session ends. A welcome comes before the first
// pong. So a pong without a welcome tells the Client that the Hub keeps nothing.
func (s *session) keepAlive() {
	timeout := s.client.config.Timeout
	for {
		heard := s.socket.heard.Load()
		next := time.After(timeout)
		if s.unanswered(timeout) && !s.paused.Load() && s.socket.heard.Load() == heard {
			s.abandon(errSilent)
			return
		}
		select {
		case <-next:
		case <-s.ctx.Done():
			return
		}
	}
}

// unanswered reports whether a ping had no answer. If it could not be sent, the reader
// finds out why: there may be a close code.
func (s *session) unanswered(timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	return s.conn.Ping(ctx) != nil && errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// pong hears a pong, in the goroutine that reads.
func (s *session) pong(context.Context, []byte) {
	if s.client.state == greeting && !s.ended() {
		s.plain()
	}
}

// probe asks for an answer: by a control message, or by a ping if the Hub does not
// know those.
func (s *session) probe(ctx context.Context, as state) (err error) {
	if as == plain {
		err = s.conn.Ping(ctx)
	} else {
		err = s.ask(ctx)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && !s.paused.Load() {
		s.abandon(errSilent)
	}
	return err
}

func (s *session) ask(ctx context.Context) error {
	answered := make(chan struct{})
	s.mu.Lock()
	s.probed++
	n := s.probed
	s.probes[n] = answered
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.probes, n)
		s.mu.Unlock()
	}()
	question := protocol.AppendControl(nil, &protocol.Control{Kind: protocol.Probe, N: n})
	if err := s.write(ctx, websocket.MessageText, question); err != nil {
		return err
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return errSession
	}
}

// answer hears the answer to a probe.
func (s *session) answer(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answered, ok := s.probes[n]; ok {
		close(answered)
		delete(s.probes, n)
	}
}
