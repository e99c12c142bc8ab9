package heraldclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/protocol"
	"github.com/heraldgo/herald/internal/wake"
)

// A Client keeps a connection to a Hub. Its methods may be called concurrently,
// except for Receive.
type Client struct {
	config Config
	queue  *queue
	acks   wake.Signal // something was processed that is to be acknowledged
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned

	// Of run's goroutine.
	memory  *device.Client
	backoff backoff
	stuck   bool // the log was told that many tries have failed

	// Of Receive's caller.
	received item

	mu        sync.Mutex
	state     state         // only run's goroutine changes it
	changed   chan struct{} // closed when it changes
	session   *session      // in greeting, plain and withHistory
	processed protocol.Resume
	held      history.Positions // until heldUntil no more than that is acknowledged
	heldUntil time.Time
	closing   bool // Close was called
}

// A state says how far a Client has come in connecting to a Hub.
//
//	waiting ──> dialling ── 101 ──> greeting ── welcome ─────────> withHistory
//	   ^           │                   │ └── another frame, a pong ──> plain
//	   └── failed ─┴─────── ended ─────┴─────────────────────────────────┘
//
// Each may lead to closed: by Close, or if there is no use in connecting again.
type state uint8

const (
	waiting state = iota
	dialling
	greeting
	plain
	withHistory
	closed
)

// New returns a Client that connects. It returns an error if the Config breaks a
// rule. Close ends the Client.
func New(config Config) (*Client, error) {
	config, resume, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		config:    config,
		queue:     newQueue(),
		acks:      wake.New(),
		cancel:    cancel,
		done:      make(chan struct{}),
		memory:    new(device.Client),
		backoff:   backoff{min: config.MinDelay, max: config.MaxDelay},
		changed:   make(chan struct{}),
		processed: resume,
	}
	if config.Resume != "" {
		c.memory = device.NewClient(resume.From, resume.Conns)
	}
	go c.run(ctx)
	return c, nil
}

// Receive returns the next Event, and waits for it until ctx is done. A call also
// says that the Event of the last call is processed: the Client then acknowledges it
// to the Hub, and Position moves behind it. So only one goroutine may call Receive.
//
// A Client that does not Receive stops reading at 1,024 Events or 1 MiB. In the end
// the Hub then gives up the connection. The Client comes back when it Receives again.
//
// The error is ctx's; ErrClosed; or, when all Events have been received,
// ErrReplaced or ErrUnauthorized, after which nothing more comes.
func (c *Client) Receive(ctx context.Context) (Event, error) {
	if c.received.event != nil {
		c.process(&c.received)
		c.received = item{}
	}
	for {
		i, err := c.queue.pop(ctx)
		switch {
		case err != nil:
			return nil, err
		case i.event != nil:
			c.received = i
			return i.event, nil
		}
		c.process(&i)
	}
}

// process notes that an item is processed.
func (c *Client) process(i *item) {
	c.mu.Lock()
	if i.skipped {
		c.hold()
	}
	c.processed = i.after
	c.mu.Unlock()
	if i.kept {
		c.acks.Set()
	}
}

// holdTime is how long Hub.Deliver waits for a receipt at most.
const holdTime = time.Minute

// hold stops acknowledgements at what is processed so far. An acknowledgement holds for
// everything before it, so it would be a receipt for the message that was skipped. After
// holdTime nobody waits for that receipt. The caller holds c.mu.
func (c *Client) hold() {
	now := time.Now()
	if !now.Before(c.heldUntil) {
		c.held = c.processed.From
	}
	c.heldUntil = now.Add(holdTime)
	time.AfterFunc(holdTime, c.acks.Set)
}

// acknowledgeable returns up to where everything may be acknowledged. The caller holds
// c.mu.
func (c *Client) acknowledgeable() history.Positions {
	if time.Now().Before(c.heldUntil) {
		return c.held
	}
	return c.processed.From
}

// Position returns the position behind the last Event that was processed, for
// Config.Resume. It is empty if the Hub has never kept anything.
func (c *Client) Position() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return positionText(c.processed)
}

// SendText sends a text message, which must be UTF-8. It waits until the Client is
// connected, and for its turn, or until ctx is done. If it returns nil the message
// was handed to the system; only the Hub's answer, if your service has one, tells
// that it has arrived. If writing fails, it may have arrived too, and the Client does
// not send it again. Writing takes Timeout at most, whatever ctx says, because half a
// message would end the connection. data stays the caller's.
func (c *Client) SendText(ctx context.Context, data []byte) error {
	return c.send(ctx, websocket.MessageText, data)
}

// SendBinary is SendText for a binary message.
func (c *Client) SendBinary(ctx context.Context, data []byte) error {
	return c.send(ctx, websocket.MessageBinary, data)
}

func (c *Client) send(ctx context.Context, typ websocket.MessageType, data []byte) error {
	s, state, err := c.connected(ctx)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if state == withHistory && typ == websocket.MessageText && len(data) > 0 && data[0] == '@' {
		data = protocol.AppendControl(nil, &protocol.Control{Text: data})
	}
	if err := s.write(ctx, typ, data); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// Probe asks the server for an answer, and waits for it until ctx is done. It waits
// for a connection first. If ctx's deadline passes, or the connection ends, there is
// an error; the Client then gives up the connection and makes a new one. Call it when
// there is cause for doubt, for instance when the machine has woken from sleep.
// Without it silence is noticed within twice the Timeout.
func (c *Client) Probe(ctx context.Context) error {
	s, state, err := c.connected(ctx)
	if err == nil {
		err = s.probe(ctx, state)
	}
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

// Close acknowledges what has been processed, ends the connection with code 1000
// if there is one, and ends the Client. It takes some seconds at most. Receive
// returns ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	s := c.session
	c.mu.Unlock()
	if first {
		c.queue.close(ErrClosed, true)
		if s == nil || !s.shut(ErrClosed, websocket.StatusNormalClosure, "") {
			c.cancel()
		}
	}
	<-c.done
	return nil
}

// connected waits until it is known what the Hub speaks.
func (c *Client) connected(ctx context.Context) (*session, state, error) {
	for {
		c.mu.Lock()
		s, state, changed, closing := c.session, c.state, c.changed, c.closing
		c.mu.Unlock()
		switch {
		case closing || state == closed:
			return nil, state, ErrClosed
		case state == plain || state == withHistory:
			return s, state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, state, ctx.Err()
		}
	}
}

// set changes the state. It returns false if Close was called before.
func (c *Client) set(to state, s *session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.session = to, s
	close(c.changed)
	c.changed = make(chan struct{})
	return !c.closing
}

// run connects again and again, until there is no use in it.
func (c *Client) run(ctx context.Context) {
	defer close(c.done)
	defer c.cancel()
	for {
		c.queue.awaitRoom(ctx)
		began := time.Now()
		err := c.connect(ctx)
		if end := c.final(ctx, err); end != nil {
			c.queue.close(end, false)
			c.set(closed, nil)
			return
		}
		if time.Since(began) > c.config.MaxDelay+c.config.Timeout {
			c.backoff.reset()
		}
		c.queue.push(c.item(Disconnected{err}))
		delay := c.backoff.wait(err)
		c.tell(err, delay)
		if !c.set(waiting, nil) {
			c.cancel()
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// item returns an item for the queue. Once it is processed, so is all that the Client
// remembers now.
func (c *Client) item(e Event) item {
	from, conns := c.memory.Resume()
	return item{event: e, after: protocol.Resume{From: from, Conns: conns}}
}

// final returns why there is no use in another connection, or nil.
func (c *Client) final(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrClosed) {
		return ErrClosed
	}
	var e *CloseError
	if !errors.As(err, &e) {
		return nil
	}
	switch {
	case e.Code == closeReplaced && !e.status:
		return fmt.Errorf("%w: %w", ErrReplaced, err)
	case e.Code == closeUnauthorized, e.Code == closeExpired && !e.status:
		if c.config.URL != "" {
			c.config.Logger.Warn("heraldclient: the Hub does not let this client in, and there is no Config.Endpoint for another token", slog.Any("err", err))
			return fmt.Errorf("%w: %w", ErrUnauthorized, err)
		}
	}
	return nil
}

// tell logs at Debug why there is no connection, and once at Warn that many tries in
// a row have failed.
func (c *Client) tell(err error, delay time.Duration) {
	const many = 6
	level := slog.LevelDebug
	switch {
	case c.backoff.tries < many:
		c.stuck = false
	case !c.stuck:
		c.stuck, level = true, slog.LevelWarn
	}
	c.config.Logger.LogAttrs(context.Background(), level, "heraldclient: not connected",
		slog.Any("err", err), slog.Int("tries", c.backoff.tries), slog.Duration("next", delay))
}
