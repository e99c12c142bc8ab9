package herald

import (
	"net/http"

	"github.com/heraldgo/herald/internal/deflate"
	"github.com/heraldgo/herald/internal/frame"
)

// extensions returns the answer to the extensions that a request offers, or "" if none is
// agreed on.
func (h *Hub) extensions(r *http.Request) string {
	if !h.config.Compression {
		return ""
	}
	return deflate.Accept(r.Header["Sec-Websocket-Extensions"])
}

// next returns the frame of the next message for OnMessage that has been read, or nil. m
// is a message that the poller has read, or nil.
func (c *Conn) next(m []byte) []byte {
	b := c.socket.backlog
	for {
		switch {
		case m != nil:
		case b != nil && b.messages.Len() > 0:
			m = b.pop()
		default:
			m = c.parse()
		}
		if m == nil || m[0]&frame.Compressed == 0 {
			return m
		}
		whole, grown, ok := c.inflate(m)
		c.spend(grown)
		if whole != nil || !ok {
			return whole
		}
		m = nil
	}
}

// inflate inflates a message that came compressed. It returns the message, or nil if that
// was a control message for the log, and by how many bytes it has grown. If the message
// is broken, the connection is broken off, and ok is false: nothing more is to be read.
// If the Conn is closing, only control messages count.
func (c *Conn) inflate(m []byte) (whole []byte, grown int, ok bool) {
	s, limit := &c.socket, max(c.hub.config.MaxMessageSize, 0)
	closing := c.ctx.Err() != nil && !s.heardOut
	if closing {
		limit = min(limit, maxWord)
	}
	whole, err := deflate.Inflate(m, limit)
	switch {
	case err == nil:
		return c.queue.log.control(whole), len(whole) - len(m), true
	case closing:
		return nil, 0, true
	case s.readErr == nil:
		c.breakOff(err)
		s.skip(len(s.ahead))
	}
	return nil, 0, false
}

// maxWord is more bytes than a control message has, compressed or not.
const maxWord = 1 << 10

// keep puts a message that was read ahead into the backlog. A control message does not
// wait there. But the reader inflates large messages, because keepalive has other Conns
// to look after.
func (c *Conn) keep(m []byte) {
	b := c.socket.backlog
	if m[0]&frame.Compressed != 0 && len(m) <= maxWord {
		whole, grown, _ := c.inflate(m)
		b.unspent += max(grown, 0)
		m = whole
	}
	if m != nil {
		b.push(m)
	}
}
