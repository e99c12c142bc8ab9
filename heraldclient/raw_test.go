package heraldclient_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A raw is the server's end of a connection, for what no library would send.
type raw struct {
	net.Conn
	query url.Values
	key   string        // Sec-WebSocket-Key
	over  chan struct{} // closed when the test ends
}

// serveRaw lets script have each connection that comes, with its number, once its
// request was read. It ends with the test. The connection is closed when script
// returns.
func serveRaw(t *testing.T, l interface {
	Accept() (net.Conn, error)
	Close() error
}, script func(i int, c *raw)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool) // nil once the test has ended
	over := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open == nil {
				conn.Close()
			} else {
				open[conn] = true
			}
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					script(i, &raw{conn, request.URL.Query(), request.Header.Get("Sec-WebSocket-Key"), over})
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(over)
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		open = nil
		mu.Unlock()
		wg.Wait()
	})
}

// serveTCP is serveRaw on loopback. It returns the URL.
func serveTCP(t *testing.T, script func(i int, c *raw)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveRaw(t, l, script)
	return "ws://" + l.Addr().String()
}

// serveRawPipes is serveRaw on net.Pipes, which it returns a client of.
func serveRawPipes(t *testing.T, script func(i int, c *raw)) *http.Client {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	serveRaw(t, p, script)
	transport := &http.Transport{DialContext: p.dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// upgrade returns the answer to the handshake (RFC 6455 section 4.2.2).
func (c *raw) upgrade() string {
	sum := sha1.Sum([]byte(c.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
}

// offset returns from where the client goes on in the partition 0, or -1.
func (c *raw) offset(t *testing.T) int {
	from := c.query.Get("herald.from")
	if from == "" {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimPrefix(from, "0.a."))
	if err != nil {
		t.Errorf("herald.from is %q", from)
	}
	return n
}

// write writes all that it can.
func (c *raw) write(parts ...string) { io.WriteString(c.Conn, strings.Join(parts, "")) }

// ignore reads until the client closes the connection.
func (c *raw) ignore() {
	for {
		var head [2]byte
		if _, err := io.ReadFull(c.Conn, head[:]); err != nil || head[0]&0xf == wsraw.Close {
			return
		}
		n := int64(head[1] & 0x7f) // what a client says here is short
		if _, err := io.CopyN(io.Discard, c.Conn, 4+n); err != nil {
			return
		}
	}
}

// stall does nothing any more.
func (c *raw) stall() { <-c.over }

// deaf reads what the client says, and answers nothing.
func (c *raw) deaf() { go io.Copy(io.Discard, c.Conn) }

// text returns a text frame.
func text(format string, args ...any) string {
	f := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Unmasked: true, Payload: fmt.Appendf(nil, format, args...)}
	return string(f.Bytes())
}

// greeting returns the frame of a welcome.
func greeting(conn string, offset int, resumed bool) string {
	return text(`w {"herald":1,"conn":%q,"user":"42","positions":"0.a.%d","resumed":%v}`+"\n", conn, offset, resumed)
}

// closing returns a close frame.
func closing(code uint16, reason string) string {
	f := wsraw.CloseFrame(code, reason)
	f.Unmasked = true
	return string(f.Bytes())
}
