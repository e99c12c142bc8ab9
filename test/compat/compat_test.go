// Package compat tries a Hub with other people's parts: routers and
// middleware as its hosts, WebSocket libraries as its clients.
package compat

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// patience bounds the wait for what is to happen; nothing is measured by it.
// It is shorter than the Hub's PingInterval, or pings would hide a wait without end.
const patience = 20 * time.Second

// next returns what comes next.
func next[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s came", what)
		panic("unreachable")
	}
}

// A station is a Hub alone in memory that notes what happens to it. It knows
// users by the query's user, and echoes nothing by itself.
type station struct {
	*herald.Hub
	connected chan *herald.Conn
	messages  chan herald.Message
	ended     chan error           // the causes OnDisconnect was given
	requests  chan context.Context // of the requests that passed Authenticate
	log       *logBuffer
}

func newStation(t *testing.T, change func(*herald.Config)) *station {
	t.Helper()
	s := &station{
		connected: make(chan *herald.Conn, 100),
		messages:  make(chan herald.Message, 100),
		ended:     make(chan error, 100),
		requests:  make(chan context.Context, 100),
		log:       &logBuffer{},
	}
	config := herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			user := r.URL.Query().Get("user")
			if user == "" {
				return herald.Identity{}, &herald.HTTPError{Status: http.StatusUnauthorized, Message: "who are you?"}
			}
			s.requests <- r.Context()
			return herald.Identity{User: user}, nil
		},
		OnConnect:    func(_ context.Context, c *herald.Conn) error { s.connected <- c; return nil },
		OnMessage:    func(_ context.Context, _ *herald.Conn, m herald.Message) { s.messages <- m },
		OnDisconnect: func(_ *herald.Conn, cause error) { s.ended <- cause },
		Logger:       slog.New(slog.NewTextHandler(s.log, nil)),
	}
	if change != nil {
		change(&config)
	}
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.Hub = hub
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
	})
	return s
}

// A server is an address that a handler is served on.
type server struct {
	url      string // ws://… or wss://…
	tls      *tls.Config
	compress bool // the client is to offer compression
}

// eachServer runs a test over plain TCP and over TLS.
func eachServer(t *testing.T, h http.Handler, test func(t *testing.T, s server)) {
	t.Run("plain", func(t *testing.T) {
		s := httptest.NewServer(h)
		defer s.Close()
		test(t, server{url: "ws" + strings.TrimPrefix(s.URL, "http")})
	})
	t.Run("tls", func(t *testing.T) {
		s := httptest.NewTLSServer(h)
		defer s.Close()
		test(t, server{url: "ws" + strings.TrimPrefix(s.URL, "http"), tls: s.Client().Transport.(*http.Transport).TLSClientConfig})
	})
}

// A logBuffer is a log that a test can read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
