package heraldclient_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
)

// A fleet is the nodes of a service, of which one takes new connections.
type fleet struct {
	t        *testing.T
	network  *herald.MemoryNetwork
	registry *herald.MemoryRegistry
	keep     time.Duration // Config.Retention

	mu    sync.Mutex
	door  string         // the URL that new connections go to
	calls map[string]int // of each callback with each Conn's id
}

// start starts a Hub, and leads new connections to it. What it returns shuts it
// down.
func (f *fleet) start(name string) (hub *herald.Hub, stop func()) {
	f.t.Helper()
	hub, err := herald.New(herald.Config{
		Name: name, Bus: f.network.Bus(), Registry: f.registry.Handle(),
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.FormValue("user")}, nil
		},
		OnConnect:    func(_ context.Context, c *herald.Conn) error { f.count("connect " + c.ID()); return nil },
		OnMessage:    func(_ context.Context, c *herald.Conn, m herald.Message) { f.count("message " + m.String()) },
		OnDisconnect: func(c *herald.Conn, _ error) { f.count("disconnect " + c.ID()) },
		Retention:    f.keep,
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	server := httptest.NewServer(hub)
	f.mu.Lock()
	f.door = "ws" + strings.TrimPrefix(server.URL, "http")
	f.mu.Unlock()
	return hub, func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := hub.Shutdown(ctx); err != nil {
			f.t.Errorf("shutdown of %s: %v", name, err)
		}
		server.Close()
	}
}

// client returns the Config of a client that goes where new connections go.
func (f *fleet) client() heraldclient.Config {
	return heraldclient.Config{MinDelay: time.Millisecond, MaxDelay: time.Second,
		Endpoint: func(context.Context) (string, http.Header, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.door + "/?user=42", nil, nil
		}}
}

func (f *fleet) count(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[call]++
}

// A rolling restart of real Hubs: the client comes back by itself, what is sent to
// it while it is connected arrives once, and each callback runs once.
func TestRollingRestart(t *testing.T) {
	f := &fleet{t: t, network: herald.NewMemoryNetwork(), registry: herald.NewMemoryRegistry(), calls: make(map[string]int)}
	_, stop := f.start("node0")
	client := start(t, f.client())
	const restarts = 5
	for i := range restarts {
		if e := await[heraldclient.Connected](t, client); e.History {
			t.Errorf("%+v: these Hubs keep nothing", e)
		}
		if i > 0 {
			if e, ok := next(t, client).(heraldclient.Gap); !ok {
				t.Errorf("%T instead of a gap", e)
			}
		}
		text := fmt.Sprint("message ", i)
		if err := client.SendText(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
		hub, stopNext := f.start(fmt.Sprint("node", i+1))
		if err := hub.Send(t.Context(), herald.User("42"), herald.Text(text)); err != nil {
			t.Fatal(err)
		}
		want(t, client, text)
		if err := client.Probe(t.Context()); err != nil { // the Hub has read what was sent before
			t.Fatal(err)
		}
		stop()
		stop = stopNext
	}
	await[heraldclient.Connected](t, client)
	client.Close()
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	kinds := make(map[string]int)
	for call, n := range f.calls {
		kind, _, _ := strings.Cut(call, " ")
		if kinds[kind]++; n != 1 {
			t.Errorf("%s: %d times", call, n)
		}
	}
	if kinds["connect"] != restarts+1 || kinds["disconnect"] != restarts+1 || kinds["message"] != restarts {
		t.Errorf("callbacks: %v", kinds)
	}
}

// A rolling restart of Hubs that keep messages: all that was sent meanwhile comes,
// once and in order, and nothing is said to be missing.
func TestRollingRestartWithHistory(t *testing.T) {
	f := &fleet{t: t, network: herald.NewMemoryNetwork(), registry: herald.NewMemoryRegistry(), keep: time.Minute, calls: make(map[string]int)}
	hub, stop := f.start("node0")
	client := start(t, f.client())
	const restarts, each = 5, 20
	if e := await[heraldclient.Connected](t, client); !e.History || e.User != "42" {
		t.Fatalf("%+v", e)
	}
	sent := 0
	send := func(n int) {
		t.Helper()
		for range n {
			sent++
			if err := hub.Send(t.Context(), herald.User("42"), herald.Text(fmt.Sprint(sent))); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := 0
	receive := func() {
		t.Helper()
		for got < sent {
			switch e := next(t, client).(type) {
			case heraldclient.Message:
				if got++; string(e.Data) != fmt.Sprint(got) {
					t.Fatalf("%q instead of %d", e.Data, got)
				}
			case heraldclient.Connected:
				if !e.Resumed {
					t.Fatalf("%+v behind message %d", e, got)
				}
			case heraldclient.Gap:
				t.Fatalf("a gap behind message %d", got)
			}
		}
	}
	for i := range restarts {
		send(each)
		receive()
		next, stopNext := f.start(fmt.Sprint("node", i+1))
		hub = next
		var wg sync.WaitGroup
		wg.Go(stop)
		send(each)
		wg.Wait()
		send(each)
		receive()
		stop = stopNext
	}
	client.Close()
	stop()
}

// Deliver has no receipt for a message above the ReadLimit, and a minute later it has
// receipts for others again.
func TestReceiptTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, err := herald.New(herald.Config{
			Bus: herald.NewMemoryNetwork().Bus(), Registry: herald.NewMemoryRegistry(), Retention: time.Minute,
			Authenticate: func(*http.Request) (herald.Identity, error) { return herald.Identity{User: "42"}, nil },
			Logger:       slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer hub.Shutdown(context.Background())
		config := only(servePipes(t, hub))
		config.ReadLimit = 1000
		client := start(t, config)
		defer client.Close()
		await[heraldclient.Connected](t, client)
		go func() {
			for {
				if _, err := client.Receive(context.Background()); err != nil {
					return
				}
			}
		}()
		received := func(text string) bool {
			t.Helper()
			d, err := hub.Deliver(t.Context(), herald.User("42"), herald.Text(text))
			if err != nil || d.ReceivedTotal+d.MissedTotal != 1 {
				t.Errorf("Deliver: %+v, %v", d, err)
			}
			return d.ReceivedTotal == 1
		}
		if !received("first") {
			t.Error("the first message was missed")
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if received(strings.Repeat("x", 2000)) {
				t.Error("what the program never got was received")
			}
		})
		time.Sleep(time.Second)
		hub.Send(t.Context(), herald.User("42"), herald.Text("short"))
		wg.Wait()
		time.Sleep(time.Second)
		if !received("last") {
			t.Error("the last message was missed")
		}
	})
}

// A Hub that refuses says so, and a token from the Endpoint lets in.
func TestHubRefuses(t *testing.T) {
	hub, err := herald.New(herald.Config{
		Bus: herald.NewMemoryNetwork().Bus(), Registry: herald.NewMemoryRegistry(),
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			if r.Header.Get("Authorization") != "Bearer good" {
				return herald.Identity{}, &herald.HTTPError{Status: 401}
			}
			return herald.Identity{User: "42"}, nil
		},
		RejectAfterUpgrade: true,
		Logger:             slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(hub)
	t.Cleanup(func() { hub.Shutdown(context.Background()); server.Close() })
	tokens := []string{"bad", "good"}
	client := start(t, heraldclient.Config{MinDelay: atOnce, MaxDelay: atOnce,
		Endpoint: func(context.Context) (string, http.Header, error) {
			token := tokens[0]
			tokens = tokens[1:]
			return server.URL, http.Header{"Authorization": {"Bearer " + token}}, nil
		}})
	if e, ok := next(t, client).(heraldclient.Disconnected); !ok || !strings.Contains(e.Err.Error(), "4401") {
		t.Errorf("%T %v", e, e)
	}
	await[heraldclient.Connected](t, client)
}
