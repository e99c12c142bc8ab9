// Package resumetest_test tests a Hub with a Retention from outside: messages that
// are sent while a client is away reach it when it comes back.
package resumetest_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/test/redistest"
)

const patience = 30 * time.Second

// eachBus runs a test on each Bus that has a log. config returns the Config of one
// more node on it.
func eachBus(t *testing.T, test func(t *testing.T, config func() herald.Config)) {
	t.Run("memory", func(t *testing.T) {
		network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
		test(t, func() herald.Config { return herald.Config{Bus: network.Bus(), Registry: registry} })
	})
	t.Run("Redis", func(t *testing.T) {
		server := redistest.Start(t)
		test(t, func() herald.Config { return herald.Config{Redis: server.Client()} })
	})
	t.Run("Cluster", func(t *testing.T) {
		cluster := redistest.StartCluster(t, 3, 0, redistest.NeverFailed...)
		test(t, func() herald.Config { return herald.Config{Redis: cluster.Client()} })
	})
}

// A node is a Hub on a server of its own.
type node struct {
	*herald.Hub
	server *httptest.Server
	gaps   chan herald.Gap
}

func newNode(t testing.TB, config herald.Config) *node {
	t.Helper()
	n := &node{gaps: make(chan herald.Gap, 100)}
	config.Authenticate = func(r *http.Request) (herald.Identity, error) {
		q := r.URL.Query()
		return herald.Identity{User: q.Get("user"), Groups: q["group"]}, nil
	}
	config.OnGap = func(g herald.Gap) { n.gaps <- g }
	switch config.Retention {
	case 0:
		config.Retention = time.Minute
	case -1:
		config.Retention = 0
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	config.HandshakeRatePerUser = -1
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	n.Hub = hub
	n.server = httptest.NewServer(hub)
	t.Cleanup(n.stop)
	return n
}

func (n *node) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	n.Shutdown(ctx)
	n.server.Close()
}

func (n *node) send(t *testing.T, target herald.Target, text string) {
	t.Helper()
	if err := n.Send(t.Context(), target, herald.Text(text)); err != nil {
		t.Fatal(err)
	}
}

// A way is a device's network. It leads to a node, and can be cut.
type way struct {
	node atomic.Pointer[node]
	cut  atomic.Bool
	conn atomic.Pointer[net.Conn]
}

func (w *way) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if w.cut.Load() {
		return nil, fmt.Errorf("cut")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err == nil {
		w.conn.Store(&c)
	}
	return c, err
}

// Cut ends the connection, and prevents new ones.
func (w *way) Cut() {
	w.cut.Store(true)
	if c := w.conn.Load(); c != nil {
		(*c).Close()
	}
}

func (w *way) Heal() { w.cut.Store(false) }

// A device is a client that comes back.
type device struct {
	*way
	*heraldclient.Client
	t testing.TB
}

func newDevice(t testing.TB, n *node, query, position string) *device {
	t.Helper()
	d := &device{way: &way{}, t: t}
	d.node.Store(n)
	client, err := heraldclient.New(heraldclient.Config{
		Endpoint: func(context.Context) (string, http.Header, error) {
			return d.node.Load().server.URL + "/?" + query, nil, nil
		},
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: d.dial, DisableKeepAlives: true}},
		Resume:     position, MinDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Client = client
	t.Cleanup(func() { client.Close() })
	return d
}

// next returns the next event, passing over those that only say that a connection
// has ended.
func (d *device) next() heraldclient.Event {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	for {
		e, err := d.Receive(ctx)
		if err != nil {
			d.t.Fatalf("no event: %v", err)
		}
		if _, ended := e.(heraldclient.Disconnected); !ended {
			return e
		}
	}
}

// want receives exactly these messages, in order.
func (d *device) want(texts ...string) {
	d.t.Helper()
	for _, text := range texts {
		e := d.next()
		if m, ok := e.(heraldclient.Message); !ok || string(m.Data) != text {
			d.t.Fatalf("got %T %+v, want the message %q", e, e, text)
		}
	}
}

// wantEach receives the messages of all lists, each list in its order. Between
// topics there is no order.
func (d *device) wantEach(lists ...[]string) {
	d.t.Helper()
	for left := len(slices.Concat(lists...)); left > 0; left-- {
		e := d.next()
		m, ok := e.(heraldclient.Message)
		i := slices.IndexFunc(lists, func(l []string) bool { return len(l) > 0 && l[0] == string(m.Data) })
		if !ok || i < 0 {
			d.t.Fatalf("got %T %+v, want the first of one of these: %.300q", e, e, lists)
		}
		lists[i] = lists[i][1:]
	}
}

// wantAfterGaps receives a message, and passes over Gaps before it.
func (d *device) wantAfterGaps(text string) {
	d.t.Helper()
	e := d.next()
	for _, gap := e.(heraldclient.Gap); gap; _, gap = e.(heraldclient.Gap) {
		e = d.next()
	}
	if m, ok := e.(heraldclient.Message); !ok || string(m.Data) != text {
		d.t.Fatalf("got %T %+v, want the message %q", e, e, text)
	}
}

// connected waits for a connection.
func (d *device) connected() heraldclient.Connected {
	d.t.Helper()
	c, ok := d.next().(heraldclient.Connected)
	if !ok || !c.History {
		d.t.Fatalf("got %+v, want a connection with History", c)
	}
	return c
}

// lines returns n texts.
func lines(what string, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprint(what, " ", i)
	}
	return texts
}
