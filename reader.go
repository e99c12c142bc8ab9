package herald

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/turn"
)

// read is the reader of a Conn that is not parked, a goroutine. It delivers m, which
// may be nil, and what comes after it, until it parks the Conn or the connection ends.
// It waits in fill, which few calls lead to, so that 2 KB of stack are enough.
func (c *Conn) read(m []byte) {
	parked := false
	defer func() {
		if !parked {
			c.readDone()
		}
	}()
	s := &c.socket
	try := s.try
	for {
		for m = c.next(m); m != nil; m = c.next(nil) {
			c.deliver(m)
		}
		if s.readErr != nil {
			break
		}
		c.resume()
		if s.fill(try) && clock.Now()-s.lastRead.Load() >= int64(c.hub.poller.Quiet) && c.park() {
			parked = true
			return
		}
		c.spend(len(s.ahead))
	}
	s.in = frame.Assembler{}
	if s.readErr == errPeerBroke {
		// A close with unread bytes resets the connection, and the client might
		// never see the close frame: so read on, until the client has closed its
		// side, or the timer of the close ends it.
		for s.readErr = nil; s.readErr == nil; {
			s.fill(try)
			s.skip(len(s.ahead))
		}
	}
	c.readEnded()
}

// readDone reports the end of the connection. It also runs if a callback has ended the
// goroutine.
func (c *Conn) readDone() {
	defer c.hub.wg.Done()
	c.hub.poller.Release(&c.socket.place)
	c.disconnected()
}

// parse takes apart what has been read, up to the end of a message, and returns the frame
// of that message, or nil. It answers control frames. A compressed message stays
// compressed, because to inflate it takes time.
func (c *Conn) parse() (message []byte) {
	s := &c.socket
	for len(s.ahead) > 0 {
		got, rest, err := s.in.Next(s.ahead)
		taken := len(s.ahead) - len(rest)
		switch got.Kind {
		case frame.Text, frame.Binary:
			message = c.queue.log.control(got.Payload)
		case frame.Text | frame.Compressed, frame.Binary | frame.Compressed:
			message = got.Payload
		case frame.Ping:
			if c.ctx.Err() == nil && c.allow() {
				c.pong(got.Payload)
			}
		case frame.Pong: // a client may send some that nobody asked for (RFC 6455 section 5.5.3)
			if !c.receipt(got.Payload) {
				c.allow()
			}
		case frame.Close:
			s.heardOut = c.shut(parseClose(got.Payload))
			c.advance(connHangup)
			s.readErr, taken = errPeerClosed, len(s.ahead)
		default:
			if got.Short {
				c.allow()
			}
		}
		if err != nil {
			c.breakOff(err)
			taken = len(s.ahead)
		}
		if got.Kind != 0 && s.in.Idle() && c.reading.Load() != 0 {
			c.reading.Store(0)
		}
		if s.skip(taken); message != nil {
			return message
		}
	}
	if !s.in.Idle() && c.reading.Load() == 0 {
		c.reading.Store(clock.Now())
	}
	return nil
}

// breakOff stops reading from a client that has broken the protocol, and begins the close
// of its Conn.
func (c *Conn) breakOff(err error) {
	cause := &CloseError{Code: StatusProtocolError, Reason: err.Error()}
	var rule *frame.Error
	if errors.As(err, &rule) {
		cause.Code = StatusCode(rule.Code)
	}
	if cause.Code == StatusMessageTooBig {
		cause.Reason = fmt.Sprintf("message of more than %d bytes", c.hub.config.MaxMessageSize)
	}
	c.socket.heardOut, c.socket.readErr = c.shut(cause), errPeerBroke
	c.advance(connHalf)
}

// deliver hands a message to OnMessage.
func (c *Conn) deliver(message []byte) {
	s, h := &c.socket, c.hub
	// If the Conn is closing, messages are ignored until the client's close frame
	// comes; but not those that were read ahead before the client began the close.
	if c.ctx.Err() != nil && !s.heardOut || !c.allow() {
		return
	}
	h.stats.messagesReceived.Add(1)
	if h.config.OnMessage == nil {
		return
	}
	began := s.lastRead.Load()
	if s.unread.Load() == 0 {
		s.unread.Store(began)
	}
	m := received(message)
	s.turn.Pass(turn.Nobody)
	h.guard(c, "OnMessage", func() { h.config.OnMessage(c.ctx, c, m) })
	s.reclaim()
	now := clock.Now()
	s.lastRead.Store(now) // nobody had to read: the time does not count against the client
	if limit, burst := c.byteRate(); limit > 0 {
		c.flow.Unread(began, now, limit, burst)
	}
	if limit := int64(h.config.MessageRate); limit > 0 {
		c.rate.Unread(began, now, limit, limit)
	}
	if b := s.backlog; b != nil {
		c.spend(b.unspent)
		b.unspent = 0
	}
}

// resume notes that the reader reads on.
func (c *Conn) resume() {
	if c.socket.unread.Load() == 0 {
		return
	}
	c.socket.unread.Store(0)
	if c.reading.Load() != 0 {
		c.reading.Store(clock.Now())
	}
}

// readAhead reads what the client has sent while OnMessage runs: it answers pings and
// finds the end of the connection. Messages wait. It returns false if nothing can be
// read: then nobody can tell whether the client is silent.
func (c *Conn) readAhead() bool {
	s := &c.socket
	if !s.turn.BeginAhead() {
		return s.turn.Is(turn.Ahead)
	}
	if s.backlog == nil {
		s.backlog = new(backlog)
	}
	switch {
	case s.full(), s.readErr != nil:
		s.turn.EndAhead()
		return false
	case s.raw != nil:
		c.runAhead(s.tryOnce)
	default:
		c.hub.wg.Go(func() { c.runAhead(nil) }) // the reader, which is counted too, waits for its end
	}
	return true
}

// full reports whether no more may be read ahead.
func (s *socket) full() bool { return s.backlog.size+s.in.Held() > maxWaiting }

// runAhead reads until nothing more has come, or, if the connection is not plain
// TCP, until the reader wants to read. It stops after maxWaiting bytes, so that a
// client that sends without end, pongs for instance, does not keep keepalive from
// the others.
func (c *Conn) runAhead(try func(fd uintptr) bool) {
	s := &c.socket
	began := s.backlog.unspent
	for !s.full() {
		if m := c.parse(); m != nil {
			c.keep(m)
			continue
		}
		if s.readErr != nil || s.turn.Is(turn.Awaited) || s.backlog.unspent-began >= maxWaiting {
			break
		}
		for s.fill(try) { // again if keepalive had asked the reader to leave just before OnMessage began
		}
		if len(s.ahead) == 0 && s.readErr == nil {
			break
		}
		s.backlog.unspent += len(s.ahead)
	}
	switch err := s.readErr; err {
	case nil, errPeerClosed, errPeerBroke, errOverran:
	default:
		s.heardOut = c.ctx.Err() == nil
		defer c.kill(lost(err)) // after the turn is given back, because it may take a while
	}
	s.turn.EndAhead()
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

// spend counts n bytes that have come from the client against ByteRate. It counts bytes
// as they come and not whole messages, so that a large message that comes slowly is no
// burst.
func (c *Conn) spend(n int) {
	limit, burst := c.byteRate()
	if n > 0 && limit > 0 && !c.flow.Spend(c.socket.lastRead.Load(), int64(n), limit, burst) {
		c.tooFast("more than %d bytes a second", limit)
	}
}

// byteRate returns ByteRate, and how many bytes may come at once.
func (c *Conn) byteRate() (limit, burst int64) {
	config := &c.hub.config
	size := config.MaxMessageSize
	if c.deflates {
		size = frame.MaxCompressed(size)
	}
	return config.ByteRate, max(config.ByteRate, size+frame.MaxClientHeader)
}

// tooFast closes a Conn whose client sends more than it may.
func (c *Conn) tooFast(rule string, limit any) {
	if c.shut(&CloseError{Code: StatusPolicyViolation, Reason: fmt.Sprintf(rule, limit)}) {
		c.hub.stats.tooFast.Add(1)
	}
}

// readEnded ends the connection after reading has ended, or waits for its end.
func (c *Conn) readEnded() {
	switch err := c.socket.readErr; err {
	case errPeerClosed: // the close frame has been answered
	case errOverran:
		c.hub.stats.overran.Add(1)
		c.awaitKill()
	default:
		c.kill(lost(err))
	}
}

func lost(err error) error { return fmt.Errorf("herald: connection lost: %w", err) }

// awaitKill waits until a Conn that is closing is dead.
func (c *Conn) awaitKill() {
	killed := make(chan struct{})
	c.mu.Lock()
	dead := c.state == connDead
	c.killed = killed
	c.mu.Unlock()
	if !dead {
		<-killed
	}
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
	h.stats.ended(cause)
	if h.config.OnDisconnect != nil {
		c.awaitUnlisted()
		h.guard(c, "OnDisconnect", func() { h.config.OnDisconnect(c, cause) })
	}
}

// awaitUnlisted waits until the Registry has answered the removal of a Conn that
// has ended, for SendTimeout at most.
func (c *Conn) awaitUnlisted() {
	c.mu.Lock()
	unlisted := c.unlisted
	c.mu.Unlock()
	select {
	case <-unlisted:
	case <-c.hub.sendEnds.Now().Context().Done():
	case <-c.hub.cut:
	}
}

// keepalive walks over all Conns, a slice at a time, and looks at each Conn's
// clocks: no Conn has a timer or a goroutine for them.
func (h *Hub) keepalive(ctx context.Context) {
	config := &h.config
	every := time.Second
	for _, d := range []time.Duration{config.PingInterval, config.PongTimeout, config.MessageTimeout, h.poller.Quiet} {
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
		h.tellSlow()
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

// tick looks at the Conn's clocks. After a pause of the process no client counts as
// silent.
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
	unread := c.socket.unread.Load()
	if since := c.reading.Load(); unread == 0 && since != 0 && config.MessageTimeout != off && now-since > int64(config.MessageTimeout) {
		c.shut(&CloseError{Code: StatusPolicyViolation, Reason: "message took too long"})
		return
	}
	pings := config.PingInterval != off
	if unread != 0 { // OnMessage runs
		due := pings && now-unread >= int64(config.PingInterval) || c.owesReceipt() || c.mayProbe()
		if !due || !c.readAhead() {
			c.pinged.Store(0)
			return
		}
		last = c.socket.lastRead.Load()
	} else if now-last >= int64(c.hub.poller.Quiet) && c.reading.Load() == 0 {
		c.socket.ask()
	}
	if !pings {
		return
	}
	switch pinged := c.pinged.Load(); {
	case now-last < int64(config.PingInterval):
		c.pinged.Store(0)
	case pinged == 0 || paused:
		c.pinged.Store(now)
		c.ping()
	case now-pinged > int64(config.PongTimeout):
		c.hub.stats.silent.Add(1)
		c.kill(ErrSilent)
	}
}
