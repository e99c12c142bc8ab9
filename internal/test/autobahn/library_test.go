package autobahn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/frame"
)

// errStarved is the error of a tape at its end. It is not io.EOF, which between two
// fragments the library would take for the end of the message.
var errStarved = errors.New("the bytes are over")

// A tape is a connection from which the pieces are read one by one, without
// waiting.
type tape struct {
	pieces  [][]byte
	written bytes.Buffer
}

func (c *tape) Read(p []byte) (int, error) {
	if len(c.pieces) == 0 {
		return 0, errStarved
	}
	n := copy(p, c.pieces[0])
	if c.pieces[0] = c.pieces[0][n:]; len(c.pieces[0]) == 0 {
		c.pieces = c.pieces[1:]
	}
	return n, nil
}

func (c *tape) Write(p []byte) (int, error)      { return c.written.Write(p) }
func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *tape) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// A hijackable is a ResponseWriter whose Hijack returns its tape.
type hijackable struct {
	*httptest.ResponseRecorder
	tape *tape
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.tape, bufio.NewReadWriter(bufio.NewReader(h.tape), bufio.NewWriter(h.tape)), nil
}

// library reads with the WebSocket library, on the server's side.
func library(t *testing.T, pieces [][]byte, limit int64) (o outcome) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	c := &tape{pieces: pieces}
	control := func(kind byte) func(context.Context, []byte) bool {
		return func(_ context.Context, payload []byte) bool {
			o.events = append(o.events, event{kind, string(payload)})
			return true
		}
	}
	onPong := control(frame.Pong)
	ws, err := websocket.Accept(hijackable{httptest.NewRecorder(), c}, r, &websocket.AcceptOptions{
		OnPingReceived: control(frame.Ping),
		OnPongReceived: func(ctx context.Context, payload []byte) { onPong(ctx, payload) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if limit == 0 {
		limit = -1
	}
	ws.SetReadLimit(limit)
	for err == nil {
		err = o.readMessage(ws)
	}
	var theirs websocket.CloseError
	switch {
	case errors.As(err, &theirs):
		o.ending = closed
		o.events = append(o.events, event{frame.Close, closePayload(theirs)})
	case errors.Is(err, errStarved):
		o.ending = starved
		o.header = strings.Contains(err.Error(), "failed to read frame header")
	default:
		o.ending, o.code, o.because = failed, closeCode(c.written.Bytes()), err
	}
	return o
}

// readMessage reads a message byte by byte, so that an unfinished one is known as
// far as it came.
func (o *outcome) readMessage(ws *websocket.Conn) error {
	kind, r, err := ws.Reader(context.Background())
	if err != nil {
		return err
	}
	o.begun.kind = frame.Text
	if kind == websocket.MessageBinary {
		o.begun.kind = frame.Binary
	}
	var payload []byte
	var b [1]byte
	for {
		n, err := r.Read(b[:])
		payload = append(payload, b[:n]...)
		if err != nil {
			o.begun.payload = string(payload)
			if err != io.EOF {
				return err
			}
			o.events = append(o.events, o.begun)
			o.begun = event{}
			return nil
		}
	}
}

// closeCode returns the code of the close frame among the frames that the library
// has written, or 0.
func closeCode(written []byte) uint16 {
	for len(written) >= 4 {
		size := int(written[1])
		if written[0] == frame.Close {
			return uint16(written[2])<<8 | uint16(written[3])
		}
		written = written[2+size:]
	}
	return 0
}

// closePayload returns the payload of the close frame that e stands for.
func closePayload(e websocket.CloseError) string {
	if e.Code == websocket.StatusNoStatusRcvd {
		return ""
	}
	return string([]byte{byte(e.Code >> 8), byte(e.Code)}) + e.Reason
}
