package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
)

// A shop is two nodes of the web service, and the Hub of a worker.
type shop struct {
	store  *store
	nodes  []*httptest.Server
	worker *herald.Hub
	mails  mailbox
}

type mailbox []string

func (m *mailbox) mail(_ context.Context, to, text string) error {
	*m = append(*m, to+": "+text)
	return nil
}

func newShop(t *testing.T) *shop {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "shop.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &shop{}
	if s.store, err = newStore(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { rdb.Close() })
	shutdown := func(hub *herald.Hub) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		hub.Shutdown(ctx)
	}
	for range 2 {
		service, err := newService(s.store, rdb)
		if err != nil {
			t.Fatal(err)
		}
		node := httptest.NewServer(service)
		t.Cleanup(func() { shutdown(service.hub); node.Close() })
		s.nodes = append(s.nodes, node)
	}
	if s.worker, err = herald.New(herald.Config{Redis: rdb, Retention: time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(s.worker) })
	return s
}

// A browser has cookies, and talks to one node.
type browser struct {
	t    *testing.T
	node *httptest.Server
	http *http.Client
}

func (s *shop) browser(t *testing.T, node int) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, s.nodes[node], &http.Client{Jar: jar}}
}

// post posts a form, and returns the status and the body.
func (b *browser) post(path string, form url.Values, header ...string) (int, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), "POST", b.node.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (b *browser) login(name string) {
	b.t.Helper()
	if status, body := b.post("/login", url.Values{"name": {name}, "password": {name}}); status != http.StatusNoContent {
		b.t.Fatalf("login of %s: %d %s", name, status, body)
	}
}

// orders returns the customer's orders.
func (b *browser) orders() (answer struct {
	Position string
	Orders   []order
}) {
	b.t.Helper()
	resp, err := b.http.Get(b.node.URL + "/orders")
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		b.t.Fatalf("orders: %s: %v", resp.Status, err)
	}
	return answer
}

// connect opens the WebSocket of a page, and returns what it gets, and its end.
func (b *browser) connect() (orders <-chan order, ended <-chan websocket.StatusCode) {
	b.t.Helper()
	conn, _, err := websocket.Dial(b.t.Context(), b.node.URL+"/ws", &websocket.DialOptions{HTTPClient: b.http})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.CloseNow() })
	got, end := make(chan order, 100), make(chan websocket.StatusCode, 1)
	go func() {
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				end <- websocket.CloseStatus(err)
				return
			}
			var o order
			if err := json.Unmarshal(text, &o); err != nil {
				b.t.Errorf("message %q: %v", text, err)
			}
			got <- o
		}
	}()
	return got, end
}

func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 s")
		panic("unreachable")
	}
}

// TestShipped has anna order with two devices on two nodes, and bert order and leave.
func TestShipped(t *testing.T) {
	s := newShop(t)
	laptop, phone := s.browser(t, 0), s.browser(t, 1)
	laptop.login("anna")
	phone.login("anna")
	onLaptop, _ := laptop.connect()
	onPhone, _ := phone.connect()
	bert := s.browser(t, 0)
	bert.login("bert")

	if status, body := laptop.post("/orders", url.Values{"item": {"<b>tea</b>"}}); status != http.StatusCreated {
		t.Fatalf("order: %d %s", status, body)
	}
	paid := order{1, 1, "<b>tea</b>", "paid"}
	for _, device := range []<-chan order{onLaptop, onPhone} {
		if got := next(t, device); got != paid {
			t.Errorf("a device got %v, want %v", got, paid)
		}
	}
	bert.post("/orders", url.Values{"item": {"coffee"}})
	for range 2 {
		if _, err := s.store.ship(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := tell(t.Context(), s.store, s.worker, &s.mails); err != nil {
		t.Fatal(err)
	}
	shipped := order{1, 2, "<b>tea</b>", "shipped"}
	for _, device := range []<-chan order{onLaptop, onPhone} {
		if got := next(t, device); got != shipped {
			t.Errorf("a device got %v, want %v", got, shipped)
		}
	}
	if len(s.mails) != 1 || s.mails[0] != "bert: Your coffee is on its way." {
		t.Errorf("mails: %q, want one to bert, who has no device there", s.mails)
	}
	if _, _, err := s.store.untold(t.Context()); err != sql.ErrNoRows {
		t.Errorf("after tell somebody is left to be told: %v", err)
	}
	if got := phone.orders(); len(got.Orders) != 1 || got.Orders[0] != shipped || got.Position == "" {
		t.Errorf("anna's orders: %+v, want %v and a position", got, shipped)
	}
}

// TestLogin checks who gets in, and that a logout ends the login's connections and no
// others.
func TestLogin(t *testing.T) {
	s := newShop(t)
	stranger := s.browser(t, 0)
	if status, _ := stranger.post("/login", url.Values{"name": {"anna"}, "password": {"bert"}}); status != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d, want 401", status)
	}
	if _, ended := stranger.connect(); next(t, ended) != websocket.StatusCode(herald.StatusUnauthorized) {
		t.Errorf("a connection without a login does not end with %d", herald.StatusUnauthorized)
	}
	laptop, phone := s.browser(t, 0), s.browser(t, 1)
	laptop.login("anna")
	phone.login("anna")
	_, laptopEnded := laptop.connect()
	onPhone, _ := phone.connect()
	if status, body := laptop.post("/logout", nil, "Sec-Fetch-Site", "cross-site"); status != http.StatusForbidden {
		t.Errorf("logout by a page of another origin: %d %s, want 403", status, body)
	}
	if status, body := laptop.post("/logout", nil); status != http.StatusNoContent {
		t.Fatalf("logout: %d %s", status, body)
	}
	if code := next(t, laptopEnded); code != websocket.StatusCode(herald.StatusExpired) {
		t.Errorf("the connection of the login ended with %d, want %d", code, herald.StatusExpired)
	}
	if status, _ := laptop.post("/orders", url.Values{"item": {"tea"}}); status != http.StatusUnauthorized {
		t.Errorf("an order after the logout: %d, want 401", status)
	}
	phone.post("/orders", url.Values{"item": {"tea"}})
	if got := next(t, onPhone); got.Item != "tea" {
		t.Errorf("the other login's device got %v", got)
	}
}
