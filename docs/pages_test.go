package docs_test

// The snippets of testing.md, clients.md and delivery.md. TestSnippets holds the pages
// to them.

import (
	"context"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/heraldtest"
)

// notify is code to be tested.
func notify(hub *herald.Hub, user string) {
	hub.Send(context.Background(), herald.User(user), herald.Text(`{"badge":3}`))
}

func TestNotify(t *testing.T) {
	gaps := make(chan herald.Gap, 1)
	cluster := heraldtest.NewCluster(t, 2, herald.Config{OnGap: func(g herald.Gap) { gaps <- g }})
	phone := cluster.Connect(1, herald.Identity{User: "42", Platform: "ios"})

	notify(cluster.Nodes[0].Hub, "42") // your code, on the other node
	phone.Expect(`{"badge":3}`)

	cluster.Nodes[1].Bus.Cut()
	cluster.Nodes[1].AwaitHealth(herald.ErrBusDown)
	notify(cluster.Nodes[0].Hub, "42") // lost: the phone's node is cut off
	phone.ExpectNothing()
	cluster.Nodes[1].Bus.Heal()
	<-gaps // OnGap is called when the gap is over
}

func TestComesBack(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Retention: time.Minute})
	phone := cluster.ConnectHistory(0, herald.Identity{User: "42"})
	phone.Cut()
	notify(cluster.Nodes[0].Hub, "42")
	if !phone.ComeBack(1) { // on the other node
		t.Error("something is missing")
	}
	phone.Expect(`{"badge":3}`)
}

func TestOwnHubs(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	config := herald.Config{Bus: network.Bus(), Registry: registry.Handle()} // one for each node
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Shutdown(context.Background())
	notify(hub, "42")
}

// newService is code to be tested, with a login of its own. Do not copy the login: it
// believes whoever asks.
func newService(bus herald.Bus, registry herald.Registry) (*herald.Hub, http.Handler, error) {
	hub, err := herald.New(herald.Config{
		Bus: bus, Registry: registry,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			cookie, err := r.Cookie("login")
			if err != nil {
				return herald.Identity{}, err
			}
			return herald.Identity{User: cookie.Value}, nil
		},
	})
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub)
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "login", Value: r.PostFormValue("name"), Path: "/", Secure: true, HttpOnly: true})
	})
	return hub, mux, err
}

// startNode starts a node of your service.
func startNode(t *testing.T, network *herald.MemoryNetwork, registry *herald.MemoryRegistry) (*herald.Hub, *httptest.Server) {
	hub, handler, err := newService(network.Bus(), registry.Handle()) // your code
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(handler) // a Secure cookie needs TLS
	t.Cleanup(func() {
		hub.Shutdown(context.Background())
		server.Close()
	})
	return hub, server
}

func TestNotifyAfterLogin(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	hub0, _ := startNode(t, network, registry)
	_, server := startNode(t, network, registry)

	browser := server.Client() // it trusts the server's certificate
	browser.Jar, _ = cookiejar.New(nil)
	response, err := browser.PostForm(server.URL+"/login", url.Values{"name": {"anna"}})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	client, err := heraldclient.New(heraldclient.Config{URL: server.URL + "/ws", HTTPClient: browser})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		event, err := client.Receive(ctx)
		if err != nil {
			t.Fatal(err) // heraldclient.ErrUnauthorized, if the login does not count
		}
		switch e := event.(type) {
		case heraldclient.Connected:
			notify(hub0, "anna") // on the other node
		case heraldclient.Message:
			if string(e.Data) != `{"badge":3}` {
				t.Errorf("received %q", e.Data)
			}
			return
		}
	}
}

// listen is the client of clients.md.
func listen(ctx context.Context, config heraldclient.Config, handle func([]byte), readItAgain func()) error {
	client, err := heraldclient.New(config) // such as heraldclient.Config{URL: "wss://example.com/ws"}
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		event, err := client.Receive(ctx)
		if err != nil {
			return err
		}
		switch e := event.(type) {
		case heraldclient.Message:
			handle(e.Data)
		case heraldclient.Gap:
			readItAgain()
		}
	}
}

// shipped is the Deliver of delivery.md.
func shipped(ctx context.Context, hub *herald.Hub, order any, push pusher) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := hub.Deliver(ctx, herald.User("42"), herald.JSON(order))
	if err != nil {
		return err // as Send's; or the Registry could not say who is connected, and nothing was sent
	}
	if !slices.ContainsFunc(d.Received, func(s herald.Session) bool { return s.Platform == "ios" }) {
		push.Notify("42", "Your order has left")
	}
	return nil
}

type pusher map[string]string

func (p pusher) Notify(user, text string) { p[user] = text }

// serve serves a Hub alone, and returns its address.
func serve(t *testing.T, config herald.Config) (*herald.Hub, string) {
	t.Helper()
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(hub)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
		server.Close()
	})
	return hub, "ws" + strings.TrimPrefix(server.URL, "http")
}

// patience is how long the tests wait for what must come.
const patience = 30 * time.Second

// A client in Go gets what is sent, and a push goes only to those who are away.
func TestClientAndDeliver(t *testing.T) {
	hub, url := serve(t, herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: "42", Platform: "ios", Meta: map[string]string{}}, nil
		},
		OnConnect: func(_ context.Context, c *herald.Conn) error { return c.Send(herald.Text("hello")) },
		Retention: time.Minute,
	})
	push := pusher{}
	if err := shipped(t.Context(), hub, 1, push); err != nil || push["42"] == "" {
		t.Errorf("nobody is there: %v, pushes: %v", err, push)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan string, 10), make(chan error, 1)
	go func() {
		ended <- listen(ctx, heraldclient.Config{URL: url}, func(data []byte) { got <- string(data) }, func() {})
	}()
	await := func(want string) {
		t.Helper()
		select {
		case text := <-got:
			if text != want {
				t.Errorf("got %q, want %q", text, want)
			}
		case <-time.After(patience):
			t.Fatalf("no %q came", want)
		}
	}
	await("hello")
	clear(push)
	sent, err := hub.Deliver(t.Context(), herald.User("42"), herald.Text("news"))
	if err != nil || sent.ReceivedTotal != 1 {
		t.Errorf("%+v, %v", sent, err)
	}
	await("news")
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Error(err)
	}
}

func TestPrices(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	trader := cluster.Connect(0, herald.Identity{User: "42", Groups: []string{"prices"}})
	hub, ctx := cluster.Nodes[0].Hub, t.Context()
	quote := struct{ Symbol string }{"HRLD"}

	hub.Send(ctx, herald.Group("prices"), herald.JSON(quote).Conflate(quote.Symbol))

	trader.Expect(`{"Symbol":"HRLD"}`)
}
