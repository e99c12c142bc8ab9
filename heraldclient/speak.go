package heraldclient

import (
	"errors"
	"log/slog"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/protocol"
)

var errMalformed = errors.New("the server sent a malformed frame")

// take takes what was read.
func (s *session) take(m read) {
	if s.client.state == greeting {
		f, err := protocol.ParseFrame(m.data)
		if err == nil && f.Kind == device.Welcome && !m.binary && !m.cut {
			s.welcome(&f)
			return
		}
		s.plain()
	}
	if s.client.state == plain {
		s.client.backoff.reset()
		s.message(m, m.data, false)
		return
	}
	s.frame(m)
}

// welcome begins a session with History.
func (s *session) welcome(f *protocol.Frame) {
	c := s.client
	c.set(withHistory, s)
	_, missing := c.memory.Receive(f.Frame)
	c.queue.push(c.item(Connected{History: true, Resumed: f.Resumed, Conn: f.Conn, User: f.User}))
	if missing {
		c.queue.push(c.item(Gap{}))
	}
	s.begin(s.acknowledge)
}

// plain begins a session with a Hub that keeps nothing.
func (s *session) plain() {
	c := s.client
	c.set(plain, s)
	missing := c.memory.Plain()
	c.queue.push(c.item(Connected{}))
	if missing {
		c.queue.push(c.item(Gap{}))
	}
}

// frame takes a frame of a session with History.
func (s *session) frame(m read) {
	c := s.client
	f, err := protocol.ParseFrame(m.data)
	if err != nil || f.Kind == device.Welcome {
		// A position behind this frame would skip what was in it.
		c.config.Logger.Warn("heraldclient: the Hub does not speak as PROTOCOL.md says", slog.Any("err", errMalformed))
		s.shut(errMalformed, websocket.StatusProtocolError, "malformed frame")
		return
	}
	if f.Kind == device.Message { // the others may come with each resume, however soon it fails
		c.backoff.reset()
	}
	message, missing := c.memory.Receive(f.Frame)
	switch {
	case message:
		s.message(m, f.Body, f.At != history.Point{})
	case missing:
		c.queue.push(c.item(Gap{Since: f.Since, Until: f.Until}))
	case f.Kind == device.Answer:
		s.answer(f.N)
	case f.Kind == device.Message || f.Kind == device.Mark:
		c.queue.push(c.item(nil))
	}
}

// message hands on a message. One that is too long it skips, and tells that it is missing.
func (s *session) message(m read, body []byte, kept bool) {
	c := s.client
	i := c.item(Gap{})
	if m.cut {
		i.skipped = kept
		c.config.Logger.Warn("heraldclient: a message was longer than Config.ReadLimit and is not delivered", slog.Int64("ReadLimit", c.config.ReadLimit))
	} else {
		i.event, i.size, i.kept = Message{Data: body, Binary: m.binary, after: i.after}, len(body), kept
	}
	c.queue.push(i)
}

// ackPause is the least time between two acknowledgements. They are cumulative.
const ackPause = time.Second

// acknowledge tells the Hub what was processed, until the session ends.
func (s *session) acknowledge() {
	for {
		select {
		case <-s.client.acks:
		case <-s.ctx.Done():
			return
		}
		if s.ack() != nil {
			s.client.acks.Set() // for the next session
			return              // its reader finds out why
		}
		select {
		case <-time.After(ackPause):
		case <-s.ctx.Done():
			return
		}
	}
}

// ack tells a Hub that keeps messages what was processed since the last time.
func (s *session) ack() error {
	if err := s.wait(s.ctx); err != nil {
		return err
	}
	defer s.release()
	c := s.client
	c.mu.Lock()
	at, state := c.acknowledgeable(), c.state
	c.mu.Unlock()
	ack := protocol.Control{Kind: protocol.Ack}
	for i := range at {
		if at[i] != s.told[i] {
			ack.Positions[i] = at[i]
		}
	}
	if state != withHistory || ack.Positions == (history.Positions{}) {
		return nil
	}
	s.told = at
	return s.writeNow(websocket.MessageText, protocol.AppendControl(nil, &ack))
}
