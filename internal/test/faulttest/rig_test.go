// Package faulttest makes Redis fail under whole Hubs, and checks their answers: an
// error is always allowed, a wrong answer without one never.
package faulttest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// patience is how long a test waits for something that must happen.
const patience = time.Minute

// testLease is the lease of Hubs unless a test sets one. It is short, because these
// tests take several leases, but long enough for a busy machine.
const testLease = 2 * time.Second

// A node is a Hub, with clients over net.Pipe and a connection to Redis that can be
// cut.
type node struct {
	*herald.Hub

	t     testing.TB
	lease time.Duration
	wire  wire
	web   http.Server
	door  door
	log   logBuffer // warnings and errors

	mu       sync.Mutex // guards the rest
	onlines  map[string]int
	offlines map[string]int
	clients  []*client
}

// A backend opens a node's client of Redis, which dials with w.
type backend func(w *wire) redis.UniversalClient

// single returns a backend for one server, which has all keys.
func single(server *redistest.Server) backend {
	return func(w *wire) redis.UniversalClient {
		return redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: w.dial})
	}
}

// sharded returns a backend for a Cluster.
func sharded(cluster *redistest.Cluster) backend {
	return func(w *wire) redis.UniversalClient {
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Dialer: w.dial})
	}
}

// startNodes starts Hubs on one Redis, which end with the test.
func startNodes(t testing.TB, open backend, n int, config herald.Config) []*node {
	t.Helper()
	nodes := make([]*node, n)
	for i := range nodes {
		config.Name = fmt.Sprint("n", i)
		nodes[i] = startNode(t, open, config)
	}
	return nodes
}

func startNode(t testing.TB, open backend, config herald.Config) *node {
	t.Helper()
	n := &node{t: t, door: make(door), onlines: make(map[string]int), offlines: make(map[string]int)}
	rdb := open(&n.wire)
	t.Cleanup(func() { rdb.Close() })
	config.Redis = rdb
	config.Lease = cmp.Or(config.Lease, testLease)
	config.ProbeInterval = cmp.Or(config.ProbeInterval, config.Lease/15) // in the proportion of the defaults
	config.OfflineDelay = cmp.Or(config.OfflineDelay, 100*time.Millisecond)
	config.PingInterval = -1 // clients that do not read need not answer pings
	config.MaxConnsPerUser = -1
	config.MaxHandshakes, config.HandshakeRatePerAddr, config.HandshakeRatePerUser = -1, -1, -1
	config.Logger = slog.New(slog.NewTextHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	config.Authenticate = identify
	config.OnConnect = greet
	config.OnOnline = n.note(n.onlines)
	config.OnOffline = n.note(n.offlines)
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	n.Hub, n.lease = hub, config.Lease
	n.web.Handler = hub
	var serving sync.WaitGroup
	serving.Go(func() { n.web.Serve(n.door) })
	t.Cleanup(func() {
		n.web.Close()
		serving.Wait()
		n.closeClients()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
	})
	return n
}

// identify believes the path, which is the user, and the headers.
func identify(r *http.Request) (herald.Identity, error) {
	return herald.Identity{User: r.URL.Path[1:], Groups: r.Header["Group"], Platform: r.Header.Get("Platform")}, nil
}

// deaf is the platform of clients that read nothing.
const deaf = "deaf"

// greet tells a client that it was let in.
func greet(_ context.Context, c *herald.Conn) error {
	if c.Identity().Platform == deaf {
		return nil
	}
	return c.Send(herald.Text("welcome"))
}

// note returns a callback that counts its calls by user.
func (n *node) note(users map[string]int) func(string) {
	return func(user string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		users[user]++
	}
}

// told returns how often OnOnline and OnOffline of the nodes were called for a
// user.
func told(nodes []*node, user string) (online, offline int) {
	for _, n := range nodes {
		n.mu.Lock()
		online += n.onlines[user]
		offline += n.offlines[user]
		n.mu.Unlock()
	}
	return online, offline
}

// kill makes the node dead to the others at once, as kill -9 does: its connections
// to Redis and to clients end, and it says nothing to anybody.
func (n *node) kill() {
	n.wire.cut()
	n.closeClients()
}

func (n *node) closeClients() {
	n.mu.Lock()
	clients := n.clients
	n.clients = nil
	n.mu.Unlock()
	for _, c := range clients {
		c.close()
	}
}

// has returns the number of connections that the user has on the Hub.
func (n *node) has(user string) (count int) {
	for c := range n.Conns() {
		if c.User() == user {
			count++
		}
	}
	return count
}

// hasIn reports whether a connection of the user belongs to the group.
func (n *node) hasIn(user, group string) bool {
	for c := range n.Conns() {
		if c.User() == user && slices.Contains(c.Groups(), group) {
			return true
		}
	}
	return false
}

// names returns n names.
func names(prefix string, n int) []string {
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprint(prefix, i)
	}
	return users
}

// allOnline returns an error unless the node answers that all users are online or,
// if want is false, that none is.
func (n *node) allOnline(want bool, users ...string) error {
	online, err := n.Online(context.Background(), users...)
	if err != nil {
		return err
	}
	for _, u := range users {
		if online[u] != want {
			return fmt.Errorf("Online(%s): %v", u, online[u])
		}
	}
	return nil
}

// await polls until ok returns nil, and reports whether it did.
func await(t testing.TB, what string, ok func() error) bool {
	t.Helper()
	return awaitFor(t, patience, what, ok)
}

// awaitFor is await with another patience.
func awaitFor(t testing.TB, patience time.Duration, what string, ok func() error) bool {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := ok()
		if err == nil {
			return true
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: not within %v: %v", what, patience, err)
			return false
		}
	}
}

// leases returns how many leases have passed since then, as text.
func (n *node) leases(since time.Time) string {
	return fmt.Sprintf("%.1f leases", float64(time.Since(since))/float64(n.lease))
}

// A wire makes a node's connections to Redis.
type wire struct {
	mu    sync.Mutex
	conns []net.Conn
	dead  bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	dead := w.dead
	w.conns = append(w.conns, c)
	w.mu.Unlock()
	if dead {
		c.Close()
	}
	return c, nil
}

// cut ends all connections, for good.
func (w *wire) cut() {
	w.mu.Lock()
	w.dead = true
	conns := w.conns
	w.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// A door is a net.Listener whose connections come from the test.
type door chan net.Conn

func (d door) Accept() (net.Conn, error) {
	c, ok := <-d
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (d door) Close() error {
	close(d)
	return nil
}

func (d door) Addr() net.Addr { return &net.UnixAddr{Name: "test", Net: "pipe"} }

// A logBuffer collects what a Hub logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the lines of the log after the first after ones.
func (l *logBuffer) lines(after int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(strings.Lines(l.b.String()))[after:]
}
