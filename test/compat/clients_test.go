package compat

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

type kind string

const (
	received kind = "message"
	pinged   kind = "ping"
	ponged   kind = "pong"
	ended    kind = "end"
)

// An event is what a client saw: the data of a message or a pong, the code
// and the reason of a close frame. An end without one has code 0.
type event struct {
	kind kind
	text bool
	code int
	data string
}

// events is how many events of a client wait before the client does.
const events = 100

// String leaves out what would fill the screen.
func (e event) String() string {
	return fmt.Sprintf("%s text=%t code=%d %d bytes %.80q", e.kind, e.text, e.code, len(e.data), e.data)
}

// A client is a connection of some library's client.
type client struct {
	events      <-chan event
	subprotocol string

	send  func(text bool, data []byte) error // as one message
	split func(text bool, data []byte) error // as one message in several frames
	ping  func(data string) error
	close func(code int, reason string) error
	drop  func() error // of the TCP connection

	blindToPings bool // it answers pings, but does not tell
	blindToEcho  bool // it may not see the answer to its close frame
	terse        bool // it answers pings with empty pongs
}

// settle waits until the Hub has let the client in for good. Before that a
// Disconnect drops what waits for OnConnect to return.
func (c *client) settle(t *testing.T, s *station, user string) {
	t.Helper()
	if err := s.Send(t.Context(), herald.User(user), herald.Text("settled")); err != nil {
		t.Fatal(err)
	}
	if e := c.expect(t, received); e.data != "settled" {
		t.Fatalf("got %v", e)
	}
}

// expect returns the next event but pings, which must be of the kind.
func (c *client) expect(t *testing.T, k kind) event {
	t.Helper()
	for range 100 {
		e := next(t, c.events, string(k))
		if e.kind == k {
			return e
		}
		if e.kind != pinged {
			t.Fatalf("got %v, want %s", e, k)
		}
	}
	t.Fatalf("got only pings, want %s", k)
	panic("unreachable")
}

var clients = []struct {
	name string
	dial func(t *testing.T, s server, path string, protocols ...string) (c *client, status int)
}{
	{"gorilla", dialGorilla},
	{"gws", dialGws},
	{"nhooyr", dialNhooyr},
}

// eachClient runs a test with each library, plain and over TLS, with compression and
// without, against a Hub of its own.
func eachClient(t *testing.T, change func(*herald.Config), test func(t *testing.T, s *station, dial func(path string, protocols ...string) (*client, int))) {
	for _, library := range clients {
		for _, compress := range []bool{false, true} {
			name := library.name
			if compress {
				name += " compressing"
			}
			t.Run(name, func(t *testing.T) {
				s := newStation(t, func(c *herald.Config) {
					if c.Compression = compress; change != nil {
						change(c)
					}
				})
				eachServer(t, s, func(t *testing.T, srv server) {
					srv.compress = compress
					test(t, s, func(path string, protocols ...string) (*client, int) {
						t.Helper()
						return library.dial(t, srv, path, protocols...)
					})
				})
			})
		}
	}
}

// checkAgreed checks that compression was agreed on if it was offered.
func (s server) checkAgreed(t *testing.T, response *http.Response) {
	t.Helper()
	if got := response.Header.Get("Sec-WebSocket-Extensions"); (got != "") != s.compress {
		t.Errorf("agreed on %q", got)
	}
}

func echoing(c *herald.Config) {
	c.MaxMessageSize = 1 << 20
	c.OnMessage = func(_ context.Context, c *herald.Conn, m herald.Message) { c.Send(m) }
}

func TestEcho(t *testing.T) {
	eachClient(t, echoing, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		// The lengths at which a frame's header changes (RFC 6455 section 5.2).
		for _, n := range []int{0, 1, 125, 126, 65535, 65536, 300_000} {
			data := []byte(strings.Repeat("x", n))
			for _, text := range []bool{true, false} {
				if err := c.send(text, data); err != nil {
					t.Fatal(err)
				}
				if e := c.expect(t, received); e.text != text || e.data != string(data) {
					t.Fatalf("sent %d bytes, text=%t; came back as %v", n, text, e)
				}
			}
		}
	})
}

// Fragments may end inside a character (RFC 6455 section 5.6).
func TestFragments(t *testing.T) {
	eachClient(t, echoing, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		data := strings.Repeat("€", 100_000)
		for _, text := range []bool{true, false} {
			if err := c.split(text, []byte(data)); err != nil {
				t.Fatal(err)
			}
			if e := c.expect(t, received); e.text != text || e.data != data {
				t.Fatalf("sent %d bytes, text=%t; came back as %v", len(data), text, e)
			}
		}
	})
}

func TestSend(t *testing.T) {
	eachClient(t, nil, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		other, _ := dial("?user=43")
		big := strings.Repeat("€", 100_000)
		for _, m := range []herald.Message{herald.Text("hello"), herald.Binary([]byte{0, 0xff}), herald.Text(big)} {
			if err := s.Send(t.Context(), herald.User("42"), m); err != nil {
				t.Fatal(err)
			}
			if e := c.expect(t, received); e.text != m.IsText() || e.data != m.String() {
				t.Fatalf("got %v", e)
			}
		}
		if err := s.Send(t.Context(), herald.Everyone(), herald.Text("all")); err != nil {
			t.Fatal(err)
		}
		if e := other.expect(t, received); e.data != "all" {
			t.Fatalf("user 43 got %v, want only what was for everyone", e)
		}
	})
}

func TestPing(t *testing.T) {
	eachClient(t, echoing, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		if err := c.ping("are you there"); err != nil {
			t.Fatal(err)
		}
		if e := c.expect(t, ponged); e.data != "are you there" {
			t.Fatalf("got %v, want the ping's own data (RFC 6455 section 5.5.3)", e)
		}
	})
}

// A client that says nothing of itself, and only answers pings, stays.
func TestKeepalive(t *testing.T) {
	quick := func(c *herald.Config) {
		echoing(c)
		c.PingInterval = 20 * time.Millisecond
	}
	eachClient(t, quick, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		if c.blindToPings {
			return
		}
		for range 5 {
			if e := next(t, c.events, "ping"); e.kind != pinged {
				t.Fatalf("got %v", e)
			}
		}
		if err := c.send(true, []byte("still here")); err != nil {
			t.Fatal(err)
		}
		c.expect(t, received)
	})
}

func TestClientCloses(t *testing.T) {
	eachClient(t, nil, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		for _, code := range []int{1000, 1001, 4321} {
			c, _ := dial("?user=42")
			if err := c.close(code, "bye €"); err != nil {
				t.Fatal(err)
			}
			var closed *herald.CloseError
			if cause := next(t, s.ended, "OnDisconnect"); !errors.As(cause, &closed) || int(closed.Code) != code || closed.Reason != "bye €" {
				t.Errorf("closed with %d; OnDisconnect got %v", code, cause)
			}
			if e := c.expect(t, ended); !c.blindToEcho && e.code != code {
				t.Errorf("closed with %d; got %v, want the code back (RFC 6455 section 5.5.1)", code, e)
			}
		}
	})
}

func TestClientVanishes(t *testing.T) {
	eachClient(t, nil, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		next(t, s.connected, "connection")
		if err := c.drop(); err != nil {
			t.Fatal(err)
		}
		cause := next(t, s.ended, "OnDisconnect")
		var closed *herald.CloseError
		if cause == nil || errors.As(cause, &closed) && closed.Code != 1006 {
			t.Errorf("OnDisconnect got %v, though there was no close frame", cause)
		}
	})
}

func TestDisconnect(t *testing.T) {
	eachClient(t, nil, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		c.settle(t, s, "42")
		if err := s.Send(t.Context(), herald.User("42"), herald.Text("last words")); err != nil {
			t.Fatal(err)
		}
		if err := s.Disconnect(t.Context(), herald.User("42"), herald.StatusReplaced, "signed in elsewhere"); err != nil {
			t.Fatal(err)
		}
		if e := c.expect(t, received); e.data != "last words" {
			t.Errorf("got %v", e)
		}
		if e := c.expect(t, ended); e.code != int(herald.StatusReplaced) || e.data != "signed in elsewhere" {
			t.Errorf("got %v", e)
		}
		var closed *herald.CloseError
		if cause := next(t, s.ended, "OnDisconnect"); !errors.As(cause, &closed) || closed.Code != herald.StatusReplaced {
			t.Errorf("OnDisconnect got %v", cause)
		}
	})
}

func TestTooBig(t *testing.T) {
	small := func(c *herald.Config) { c.MaxMessageSize = 1000 }
	eachClient(t, small, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42")
		// An error is the close that came meanwhile.
		c.send(true, []byte(strings.Repeat("x", 2000)))
		if e := c.expect(t, ended); e.code != int(herald.StatusMessageTooBig) {
			t.Errorf("got %v", e)
		}
	})
}

func TestSubprotocol(t *testing.T) {
	offer := func(c *herald.Config) { c.Subprotocols = []string{"v2", "v1"} }
	eachClient(t, offer, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("?user=42", "v0", "v1")
		if got := next(t, s.connected, "connection").Subprotocol(); got != "v1" || c.subprotocol != "v1" {
			t.Errorf("server has %q, client %q", got, c.subprotocol)
		}
	})
}

func TestUnauthorized(t *testing.T) {
	eachClient(t, nil, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		if _, status := dial(""); status != 401 {
			t.Errorf("status %d", status)
		}
	})
}

func TestRejectAfterUpgrade(t *testing.T) {
	late := func(c *herald.Config) { c.RejectAfterUpgrade = true }
	eachClient(t, late, func(t *testing.T, s *station, dial func(string, ...string) (*client, int)) {
		c, _ := dial("")
		if e := c.expect(t, ended); e.code != int(herald.StatusUnauthorized) {
			t.Errorf("got %v", e)
		}
	})
}

func TestShutdown(t *testing.T) {
	for _, library := range clients {
		t.Run(library.name, func(t *testing.T) {
			s := newStation(t, nil)
			srv := httptest.NewServer(s)
			defer srv.Close()
			c, _ := library.dial(t, server{url: "ws" + strings.TrimPrefix(srv.URL, "http")}, "?user=42")
			// The closes are spread over most of the time given.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			down := make(chan error, 1)
			go func() { down <- s.Shutdown(ctx) }()
			if e := c.expect(t, ended); e.code != int(herald.StatusServiceRestart) {
				t.Errorf("got %v", e)
			}
			if err := <-down; err != nil {
				t.Error(err)
			}
		})
	}
}
