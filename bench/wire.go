package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// A protocol is what a contestant's clients speak inside WebSocket frames.
type protocol struct {
	path   string                             // of the request, %s is the user
	offers bool                               // permessage-deflate, and wants it
	greet  func(*greeter) error               // after the upgrade, until the client is subscribed; may be nil
	answer func(opcode byte, p []byte) []byte // to a frame from the server: the payload of the same kind, or nil
}

const (
	opMore   = 0 // of the message that has begun
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// Bits of a frame's first byte.
const (
	final      = 0x80
	compressed = 0x40 // RFC 7692, section 6
)

// offer is what a browser offers.
const offer = "Sec-WebSocket-Extensions: " + deflates + "; client_max_window_bits\r\n"

var plain = protocol{path: "/?user=%s"}

var protocols = map[string]protocol{
	"herald":           plain,
	"gws":              plain,
	"tutorial":         plain,
	"floor":            plain,
	"centrifuge":       {path: "/?user=%s", greet: greetCentrifuge, answer: pongCentrifuge},
	"centrifuge-tuned": {path: "/?user=%s&format=protobuf", greet: greetCentrifugeBinary, answer: pongCentrifugeBinary},
	"socket.io":        {path: "/socket.io/?EIO=4&transport=websocket&user=%s", greet: greetSocketIO, answer: pongSocketIO},
}

// centrifuge: a connect command, its reply, then an empty message is a ping
// that wants an empty one back.
func greetCentrifuge(g *greeter) error {
	return g.exchange(opText, `{"id":1,"connect":{}}`, `"connect"`)
}

func pongCentrifuge(_ byte, p []byte) []byte {
	if string(p) == "{}" {
		return []byte("{}")
	}
	return nil
}

// The same in protobuf: messages with their length in front. Field 1 is the id,
// field 4 the connect request.
func greetCentrifugeBinary(g *greeter) error {
	return g.exchange(opBinary, "\x04\x08\x01\x22\x00", "")
}

func pongCentrifugeBinary(_ byte, p []byte) []byte {
	if len(p) == 1 && p[0] == 0 {
		return []byte{0}
	}
	return nil
}

// Socket.IO: Engine.IO's open (0), connect to the namespace (40), its answer,
// and the event that says that the room has been joined. Engine.IO's ping is
// 2, its pong 3.
func greetSocketIO(g *greeter) error {
	if err := g.await("0{"); err != nil {
		return err
	}
	return g.exchange(opText, "40", "ready")
}

func pongSocketIO(_ byte, p []byte) []byte {
	if string(p) == "2" {
		return []byte("3")
	}
	return nil
}

// A greeter makes a client's first steps, with calls that block.
type greeter struct {
	conn     net.Conn
	user     string
	r        *bufio.Reader
	inflater *inflater // nil if compression is not agreed on
}

// connect upgrades conn for a user. The greeter may have read more than it needed.
func connect(conn net.Conn, p protocol, user string) (*greeter, error) {
	g := &greeter{conn: conn, user: user, r: bufio.NewReaderSize(conn, 1024)}
	extensions := ""
	if p.offers {
		extensions = offer
	}
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", fmt.Sprintf(p.path, user), extensions)
	if err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(g.r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the upgrade was answered with %s", resp.Status)
	}
	if p.offers {
		if g.inflater, err = agreed(resp.Header.Get("Sec-WebSocket-Extensions")); err != nil {
			return nil, err
		}
	}
	if p.greet != nil {
		if err := p.greet(g); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// rest returns what has been read and not used.
func (g *greeter) rest() []byte {
	b, _ := g.r.Peek(g.r.Buffered())
	return bytes.Clone(b)
}

// exchange writes a frame and waits for one that contains want.
func (g *greeter) exchange(opcode byte, payload, want string) error {
	if _, err := g.conn.Write(maskedFrame(opcode, []byte(payload))); err != nil {
		return err
	}
	return g.await(want)
}

func (g *greeter) await(want string) error {
	for {
		head, err := g.r.Peek(2)
		if err != nil {
			return err
		}
		n := 2
		if head[1] == 126 {
			n = 4
		}
		if head, err = g.r.Peek(n); err != nil {
			return err
		}
		first := head[0]
		opcode, size, length, ok := frameHeader(head)
		if !ok || opcode == opClose {
			return errors.New("the server closed the connection")
		}
		frame := make([]byte, length)
		g.r.Discard(size)
		if err := readFull(g.r, frame); err != nil {
			return err
		}
		if first&compressed != 0 {
			if frame, err = g.inflater.inflate(frame); err != nil {
				return err
			}
		}
		if strings.Contains(string(frame), want) {
			return nil
		}
	}
}

func readFull(r *bufio.Reader, b []byte) error {
	for n := 0; n < len(b); {
		m, err := r.Read(b[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// frameHeader reads the header of a server's frame; ok is false if b
// is too short for it.
func frameHeader(b []byte) (opcode byte, size, length int, ok bool) {
	if len(b) < 2 {
		return 0, 0, 0, false
	}
	opcode, size, length = b[0]&15, 2, int(b[1])
	switch length {
	case 126:
		if size = 4; len(b) < size {
			return 0, 0, 0, false
		}
		length = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if size = 10; len(b) < size {
			return 0, 0, 0, false
		}
		length = int(binary.BigEndian.Uint64(b[2:]))
	}
	return opcode, size, length, true
}

// maskedFrame makes a client's short frame, with a mask of zeros (RFC 6455,
// section 5.3).
func maskedFrame(opcode byte, payload []byte) []byte {
	b := []byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}
	return append(b, payload...)
}
