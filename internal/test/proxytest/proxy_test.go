// Package proxytest_test holds what the README says of nginx and HAProxy to
// its word: its blocks are what the proxies run with.
package proxytest_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// proxies are those of the README, by the language of their block.
var proxies = map[string]struct {
	start  func(t testing.TB, addr, conf string) *servertest.Server
	listen string // what the block has for the proxy's own address
	checks bool   // the proxy asks the nodes for their health
}{
	"nginx":   {servertest.Nginx, "listen 80;", false},
	"haproxy": {servertest.HAProxy, "bind :80\n", true},
}

// block returns the README's block for a proxy, with the addresses of a test.
func block(t *testing.T, proxy, addr string, nodes []*node) string {
	t.Helper()
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, conf, ok := strings.Cut(string(readme), "\n```"+proxy+"\n")
	conf, _, ended := strings.Cut(conf, "```\n")
	if !ok || !ended {
		t.Fatalf("the README has no block for %s", proxy)
	}
	replace := func(old, new string) {
		if strings.Count(conf, old) != 1 {
			t.Fatalf("the README's block for %s has not one %q", proxy, old)
		}
		conf = strings.Replace(conf, old, new, 1)
	}
	listen := proxies[proxy].listen
	replace(listen, strings.NewReplacer(":80", addr, "80", addr).Replace(listen))
	for i, n := range nodes {
		replace(fmt.Sprintf("10.0.0.%d:8080", i+1), n.addr)
	}
	return conf
}

// eachProxy runs test with three nodes behind each proxy. change may alter
// the README's block.
func eachProxy(t *testing.T, change func(conf string) string, test func(t *testing.T, addr string, nodes []*node, checks bool)) {
	for name, proxy := range proxies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := newNodes(t)
			addr := servertest.FreeAddr(t)
			conf := block(t, name, addr, nodes)
			if change != nil {
				conf = change(conf)
			}
			proxy.start(t, addr, conf)
			if proxy.checks {
				for _, n := range nodes {
					n.awaitChecks(t)
				}
			}
			test(t, addr, nodes, proxy.checks)
		})
	}
}

// A node is a service: a Hub, a route for its health, and a server.
type node struct {
	addr     string
	network  *herald.MemoryNetwork
	registry *herald.MemoryRegistry
	log      *servertest.Buffer

	hub    *herald.Hub
	server *http.Server

	mu      sync.Mutex
	checked int           // how often Health was green since the start
	ripe    chan struct{} // closed at the third time
}

func newNodes(t *testing.T) []*node {
	t.Helper()
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	nodes := make([]*node, 3)
	for i := range nodes {
		nodes[i] = &node{addr: servertest.FreeAddr(t), network: network, registry: registry.Handle(), log: &servertest.Buffer{}}
		nodes[i].start(t)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			nodes[i].stop(ctx)
			if t.Failed() {
				t.Logf("node %d:\n%s", i, nodes[i].log)
			}
		})
	}
	return nodes
}

func (n *node) start(t *testing.T) {
	t.Helper()
	hub, err := herald.New(herald.Config{
		Bus: n.network.Bus(), Registry: n.registry, ShutdownDelay: time.Second,
		SendTimeout: patience, HandshakeTimeout: patience, PongTimeout: patience,
		Logger:     slog.New(slog.NewTextHandler(n.log, nil)),
		ClientAddr: func(r *http.Request) string { return r.Header.Get("X-Forwarded-For") },
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{
				User: r.FormValue("user"),
				Meta: map[string]string{"for": strings.Join(r.Header["X-Forwarded-For"], ", ")},
			}, nil
		},
		OnMessage: func(ctx context.Context, c *herald.Conn, m herald.Message) {
			c.Hub().Send(ctx, herald.User(c.User()), m)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.checked, n.ripe = 0, make(chan struct{})
	n.mu.Unlock()
	mux := http.NewServeMux()
	mux.Handle("/", hub)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := hub.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.checked++; n.checked == 3 {
			close(n.ripe)
		}
	})
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	n.hub = hub
	n.server = &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	go n.server.Serve(l)
}

func (n *node) stop(ctx context.Context) error {
	err := n.hub.Shutdown(ctx)
	if err := n.server.Shutdown(ctx); err != nil {
		return err
	}
	return err
}

// awaitChecks waits until the proxy has found the node healthy.
func (n *node) awaitChecks(t *testing.T) {
	t.Helper()
	select {
	case <-n.ripe:
	case <-time.After(patience):
		t.Fatal("the proxy does not ask for the node's health")
	}
}

// dial makes a handshake through the proxy.
func dial(addr, user string, header http.Header) (*wsraw.Conn, *http.Response, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	h := http.Header{"Host": {addr}, "Origin": {"http://" + addr}}
	for name, values := range header {
		h[name] = values
	}
	ws, response, err := wsraw.Handshake(c, "/?user="+user, h)
	if err != nil {
		c.Close()
	}
	return ws, response, err
}

// The proxy's pages may connect, others may not, and each client is known by
// its own address, whatever it claims.
func TestOrigin(t *testing.T) {
	eachProxy(t, nil, func(t *testing.T, addr string, nodes []*node, _ bool) {
		for _, header := range []http.Header{
			nil,
			{"Host": {"chat.example"}, "Origin": {"https://chat.example"}}, // TLS ends before the proxy
			{"Host": {"chat.example:443"}, "Origin": {"https://chat.example"}},
			{"X-Forwarded-For": {"203.0.113.7"}},
		} {
			ws, _, err := dial(addr, "a", header)
			if err != nil {
				t.Fatalf("%v: %v", header, err)
			}
			defer ws.Close()
		}
		if _, response, err := dial(addr, "b", http.Header{"Origin": {"https://evil.example"}}); response == nil || response.StatusCode != http.StatusForbidden {
			t.Errorf("a foreign page got %v, %v", response, err)
		}
		sessions, err := nodes[0].hub.Sessions(t.Context(), herald.User("a"))
		if err != nil || len(sessions) != 4 {
			t.Fatalf("%d sessions, %v", len(sessions), err)
		}
		for _, s := range sessions {
			if s.Meta["for"] != "127.0.0.1" {
				t.Errorf("X-Forwarded-For is %q", s.Meta["for"])
			}
		}
	})
}
