package docs_test

import (
	"context"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
)

// newChat is the whole chat: mount what it returns at /ws.
func newChat(rdb redis.UniversalClient, whoIs func(*http.Request) (herald.Identity, error)) (*herald.Hub, error) {
	return herald.New(herald.Config{
		Redis:          rdb, // nil on one node
		Authenticate:   whoIs,
		MaxMessageSize: 512,
		OnMessage: func(ctx context.Context, c *herald.Conn, m herald.Message) {
			if err := c.Hub().Send(ctx, herald.Everyone(), m); err != nil {
				log.Print(err)
			}
		},
	})
}

// What one says everybody hears.
func TestGorilla(t *testing.T) {
	hub, err := newChat(nil, herald.Anonymous)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(hub)
	defer server.Close()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func() *websocket.Conn {
		c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.CloseNow() })
		return c
	}
	one, other := dial(), dial()
	for _, from := range []*websocket.Conn{one, other} { // the second one is heard when both are surely there
		if err := from.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		for {
			_, text, err := from.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if string(text) == "hello" {
				break
			}
		}
	}
	if err := other.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	for heard := ""; heard != "bye"; {
		_, text, err := one.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		heard = string(text)
	}
}
