// Package wsraw is a WebSocket client for tests. It keeps only the rules that a
// test asks for: it writes any bytes, and returns each frame that arrives.
package wsraw

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Opcodes (RFC 6455 section 5.2).
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// patience is how long a call may take before it is an error.
const patience = 60 * time.Second

// A Frame is a frame as it is on the wire.
type Frame struct {
	Fin      bool
	RSV      byte // three bits
	Opcode   byte
	Unmasked bool    // for a frame to be written
	Mask     [4]byte // for a frame to be written
	Payload  []byte
}

// Bytes returns the frame as a client writes it.
func (f Frame) Bytes() []byte {
	first := f.RSV<<4 | f.Opcode
	if f.Fin {
		first |= 0x80
	}
	mask := byte(0x80)
	if f.Unmasked {
		mask = 0
	}
	b := []byte{first}
	switch n := len(f.Payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if f.Unmasked {
		return append(b, f.Payload...)
	}
	b = append(b, f.Mask[:]...)
	header := len(b)
	b = append(b, f.Payload...)
	if f.Mask != [4]byte{} {
		for i := range b[header:] {
			b[header+i] ^= f.Mask[i%4]
		}
	}
	return b
}

// CloseFrame returns a close frame with a code and a reason.
func CloseFrame(code uint16, reason string) Frame {
	return Frame{Fin: true, Opcode: Close, Payload: append(binary.BigEndian.AppendUint16(nil, code), reason...)}
}

// A Conn is the client's side of a connection. One goroutine may read while
// another writes.
type Conn struct {
	net.Conn
	Compressed bool // frames may have RSV1 set (RFC 7692 section 6)

	br *bufio.Reader
}

// Handshake upgrades c. It returns the Conn, or the response that refused it.
func Handshake(c net.Conn, path string, header http.Header) (*Conn, *http.Response, error) {
	c.SetDeadline(time.Now().Add(patience))
	if err := WriteRequest(c, path, header); err != nil {
		return nil, nil, err
	}
	return ReadResponse(c)
}

// ReadResponse is the second half of Handshake: it reads the response.
func ReadResponse(c net.Conn) (*Conn, *http.Response, error) {
	c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{})
	ws := &Conn{Conn: c, br: bufio.NewReader(c)}
	response, err := http.ReadResponse(ws.br, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("read the response: %w", err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, response, fmt.Errorf("refused: %s", response.Status)
	}
	return ws, response, nil
}

// WriteRequest writes a request for an upgrade. Fields in header replace the usual
// ones.
func WriteRequest(w io.Writer, path string, header http.Header) error {
	h := http.Header{
		"Host":                  {"test"},
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for name, values := range header {
		h[name] = values
	}
	b := []byte("GET " + path + " HTTP/1.1\r\n")
	for name, values := range h {
		for _, v := range values {
			b = fmt.Appendf(b, "%s: %s\r\n", name, v)
		}
	}
	_, err := w.Write(append(b, "\r\n"...))
	return err
}

// WriteFrames writes frames.
func (c *Conn) WriteFrames(frames ...Frame) error {
	var b []byte
	for _, f := range frames {
		b = append(b, f.Bytes()...)
	}
	_, err := c.Write(b)
	return err
}

// ReadFrame reads the next frame. It checks what a client must check: that the
// frame is not masked and no reserved bit is set (RFC 6455 section 5.1, 5.2).
func (c *Conn) ReadFrame() (Frame, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	return c.readFrame()
}

func (c *Conn) readFrame() (Frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(c.br, head[:]); err != nil {
		return Frame{}, err
	}
	f := Frame{Fin: head[0]&0x80 != 0, RSV: head[0] >> 4 & 7, Opcode: head[0] & 15}
	if head[1]&0x80 != 0 || f.RSV != 0 && !(c.Compressed && f.RSV == 4 && f.Opcode < Close) {
		return f, fmt.Errorf("masked, or with a reserved bit: % x", head)
	}
	n := uint64(head[1])
	var long [8]byte
	switch n {
	case 126:
		if _, err := io.ReadFull(c.br, long[6:]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(long[:])
	case 127:
		if _, err := io.ReadFull(c.br, long[:]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(long[:])
	}
	if n > 64<<20 {
		return f, fmt.Errorf("frame of %d bytes", n)
	}
	f.Payload = make([]byte, n)
	_, err := io.ReadFull(c.br, f.Payload)
	return f, err
}

// ReadUntil reads frames until one is wanted, and returns that one. For all of them
// together it waits no longer than ReadFrame waits for one.
func (c *Conn) ReadUntil(wanted func(Frame) bool) (Frame, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	return c.readUntil(wanted)
}

func (c *Conn) readUntil(wanted func(Frame) bool) (Frame, error) {
	for {
		if f, err := c.readFrame(); err != nil || wanted(f) {
			return f, err
		}
	}
}

// ReadMessage reads the next text or binary frame, passing over pings and pongs. A
// close frame is an error of the type *Closed.
func (c *Conn) ReadMessage() ([]byte, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	return c.readMessage()
}

func (c *Conn) readMessage() ([]byte, error) {
	f, err := c.readUntil(func(f Frame) bool { return f.Opcode != Ping && f.Opcode != Pong })
	if err != nil {
		return nil, err
	}
	switch f.Opcode {
	case Text, Binary:
		return f.Payload, nil
	case Close:
		closed := &Closed{Code: 1005}
		if len(f.Payload) >= 2 {
			closed = &Closed{binary.BigEndian.Uint16(f.Payload), string(f.Payload[2:])}
		}
		return nil, closed
	}
	return nil, fmt.Errorf("opcode %d", f.Opcode)
}

// Closed is a close frame that has arrived.
type Closed struct {
	Code   uint16
	Reason string
}

func (c *Closed) Error() string { return fmt.Sprintf("closed with %d: %s", c.Code, c.Reason) }

// ReadClose reads until a close frame arrives, passing over messages. For all of them
// together it waits no longer than ReadFrame waits for one.
func (c *Conn) ReadClose() (*Closed, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	for {
		_, err := c.readMessage()
		var closed *Closed
		if errors.As(err, &closed) {
			return closed, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// ReadEnd reads until the connection ends, and fails if a frame comes.
func (c *Conn) ReadEnd() error {
	f, err := c.ReadFrame()
	if err == nil {
		return fmt.Errorf("frame after the last: %+v", f)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return nil
}

// Reset closes a TCP connection with a RST.
func Reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}
