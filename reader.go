package herald

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/frame"
)

// inCallback is the lastRead of a Conn whose OnMessage runs: nobody reads
// then, so the time does not count against the client.
const inCallback = math.MaxInt64

// read is the one goroutine of an idle Conn. It reads until the connection
// ends, then reports the end.
func (c *Conn) read() {
	defer c.disconnected()
	// The library keeps a finalizer, which would keep the Conn for ever.
	defer c.ws.CloseNow()
	c.socket.lastRead.Store(clock.Now()) // nobody has read until now
	try := c.socket.try
	for {
		for c.socket.fill(try) && c.readControl() {
		}
		if !c.readMessage() {
			return
		}
	}
}

// readControl takes pings and pongs off the front of what was read ahead, so
// that a Conn that is idle but for them never waits in the library, on a larger
// stack. It answers false at anything else: that is for the library.
func (c *Conn) readControl() bool {
	s := &c.socket
	for len(s.ahead) > 0 {
		control, ok := frame.CutControl(s.ahead)
		if !ok {
			return false
		}
		if control[0] == frame.Pong {
			c.allow()
		} else if c.ctx.Err() == nil && c.allow() {
			c.pong(frame.PongFor(control))
		}
		s.skip(len(control))
	}
	return true
}

// readMessage reads one message and hands it to OnMessage. It answers false
// when there will be no more.
func (c *Conn) readMessage() bool {
	// With context.Background() the library sets up no timers.
	kind, r, err := c.ws.Reader(context.Background())
	if err != nil {
		c.readFailed(err)
		return false
	}
	c.reading.Store(clock.Now())
	data, err := io.ReadAll(r)
	c.reading.Store(0)
	if err != nil {
		c.readFailed(err)
		return false
	}
	if c.ctx.Err() != nil {
		return true // closing: until the client's close frame, messages are ignored
	}
	h := c.hub
	m := Message{data: data, text: kind == websocket.MessageText}
	switch {
	case m.text && !utf8.Valid(data):
		c.shut(&CloseError{Code: StatusInvalidPayload, Reason: "text is not UTF-8"})
		return true
	case !c.allow():
		return true
	}
	h.stats.messagesReceived.Add(1)
	if h.config.OnMessage != nil {
		began := c.socket.lastRead.Swap(inCallback)
		h.guard(c, "OnMessage", func() { h.config.OnMessage(c.ctx, c, m) })
		now := clock.Now()
		c.socket.lastRead.Store(now)
		if limit, burst := c.byteRate(); limit > 0 {
			c.flow.Unread(began, now, limit, burst)
		}
	}
	return true
}

// allow counts a message, a ping or a pong of the client's against
// MessageRate.
func (c *Conn) allow() bool {
	if c.rate.Allow(c.hub.config.MessageRate) {
		return true
	}
	c.tooFast("more than %d messages a second", c.hub.config.MessageRate)
	return false
}

// spend counts n bytes that have come from the client against ByteRate. It is
// asked as they come and not for whole messages, so that a large message that
// takes its time is no burst.
func (c *Conn) spend(n int) {
	limit, burst := c.byteRate()
	if n > 0 && limit > 0 && !c.flow.Spend(c.socket.lastRead.Load(), int64(n), limit, burst) {
		c.tooFast("more than %d bytes a second", limit)
	}
}

// byteRate returns ByteRate, and how many bytes may come at once.
func (c *Conn) byteRate() (limit, burst int64) {
	config := &c.hub.config
	return config.ByteRate, max(config.ByteRate, config.MaxMessageSize+frame.MaxClientHeader)
}

// tooFast closes a Conn whose client sends more than it may.
func (c *Conn) tooFast(rule string, limit any) {
	if c.shut(&CloseError{Code: StatusPolicyViolation, Reason: fmt.Sprintf(rule, limit)}) {
		c.hub.stats.tooFast.Add(1)
	}
}

// pingReceived is called by the library for each ping, and says whether to
// answer it.
func (c *Conn) pingReceived(context.Context, []byte) bool {
	return c.ctx.Err() == nil && c.allow()
}

// pongReceived is called by the library for each pong. A client may send some
// that nobody asked for (RFC 6455 section 5.5.3).
func (c *Conn) pongReceived(context.Context, []byte) { c.allow() }

// readFailed sees to the end of the connection after the library's reader
// failed.
func (c *Conn) readFailed(err error) {
	switch {
	case websocket.CloseStatus(err) != -1:
		// The client's close frame: the library has answered it, and hung up.
	case c.socket.readErr != nil:
		c.readEnded()
	default:
		// A breach of the protocol. The library has sent a close frame for
		// most. A close with unread bytes resets the connection, and the
		// client might never see the frame: so read on, until the client has
		// closed its side, or the timer of the close ends it.
		c.shut(&CloseError{Code: StatusProtocolError, Reason: "protocol error"})
		c.advance(connHalf)
		var b [512]byte
		for c.socket.readErr == nil {
			c.socket.Read(b[:])
		}
		c.readEnded()
	}
}

// readEnded sees to the end of the connection after its socket's.
func (c *Conn) readEnded() {
	if c.socket.readErr == errOverran {
		c.hub.stats.overran.Add(1)
		c.awaitKill()
		return
	}
	c.kill(fmt.Errorf("herald: connection lost: %w", c.socket.readErr))
}

// disconnected reports the end of a Conn whose OnConnect has returned nil.
func (c *Conn) disconnected() {
	c.mu.Lock()
	accepted, cause := c.accepted, c.cause
	c.mu.Unlock()
	if !accepted {
		return
	}
	h := c.hub
	h.stats.disconnected.Add(1)
	if h.config.OnDisconnect != nil {
		h.guard(c, "OnDisconnect", func() { h.config.OnDisconnect(c, cause) })
	}
}

// keepalive walks over all Conns, a slice at a time, and looks at each Conn's
// clocks: no Conn has a timer or a goroutine for them.
func (h *Hub) keepalive(ctx context.Context) {
	config := &h.config
	every := time.Second
	for _, d := range []time.Duration{config.PingInterval, config.PongTimeout, config.MessageTimeout} {
		every = min(every, max(d/4, 5*time.Millisecond))
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var conns []*Conn
	walked := clock.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		// A process that was paused has not read what its peers sent.
		paused := clock.Now()-walked > 4*int64(every)
		walked = clock.Now()
		for i := 0; ; i += len(conns) {
			clear(conns)
			if conns = h.index.appendSlice(conns[:0], i, 1024); len(conns) == 0 {
				break
			}
			now, wall := clock.Now(), time.Now().UnixNano()
			for _, c := range conns {
				c.tick(now, wall, paused)
			}
		}
	}
}

// tick looks at the Conn's clocks. After a pause nobody is found silent.
func (c *Conn) tick(now, wall int64, paused bool) {
	config := &c.hub.config
	if expires := c.expires.Load(); expires != 0 && wall >= expires {
		c.shut(&CloseError{Code: StatusExpired, Reason: "expired"})
		return
	}
	last := c.socket.lastRead.Load()
	if last == 0 { // nobody reads yet: OnConnect runs
		return
	}
	if since := c.reading.Load(); since != 0 && config.MessageTimeout != off && now-since > int64(config.MessageTimeout) {
		c.shut(&CloseError{Code: StatusPolicyViolation, Reason: "message took too long"})
		return
	}
	if config.PingInterval == off {
		return
	}
	switch pinged := c.pinged.Load(); {
	case last == inCallback || now-last < int64(config.PingInterval):
		c.pinged.Store(0)
	case pinged == 0 || paused:
		c.pinged.Store(now)
		c.ping()
	case now-pinged > int64(config.PongTimeout):
		c.hub.stats.silent.Add(1)
		c.kill(ErrSilent)
	}
}
