package heraldtest

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A Cluster is several hubs on one network in memory, for tests of your own code.
// It needs no broker and no ports to choose, and can have faults.
type Cluster struct {
	Nodes []*Node // the hubs

	t        testing.TB
	ownLogin bool // the Config has an Authenticate

	mu    sync.Mutex
	seats map[string]seat // by token

	sender *herald.Hub // if the hubs keep messages; it keeps none
}

// A seat is what a Cluster knows of a Client's connection.
type seat struct {
	identity herald.Identity
	met      chan *herald.Conn // holds the node's end, from OnConnect on
}

// A Node is one Hub of a Cluster, mounted on an HTTP server on loopback.
type Node struct {
	Hub      *herald.Hub     // shut down when the test ends
	URL      string          // ws://…, where the Hub is mounted
	Bus      *FaultyBus      // Cut, Lose, Delay and Heal it
	Registry *FaultyRegistry // Cut and Heal it

	t testing.TB
}

// AwaitHealth waits until errors.Is(Hub.Health(), target). target is nil,
// herald.ErrBusDown or herald.ErrRegistryDown. After 30 s it fails the test by
// FailNow.
func (n *Node) AwaitHealth(target error) {
	n.t.Helper()
	for deadline := time.Now().Add(recovery); ; time.Sleep(5 * time.Millisecond) {
		health := n.Hub.Health()
		if errors.Is(health, target) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("Health did not become %v within %v; it is: %v", target, recovery, health)
		}
	}
}

// tokenHeader carries the token of a Client's Identity.
const tokenHeader = "Herald-Test-Token"

// NewCluster starts n hubs, at least one, with the configuration. It sets Redis,
// Bus and Registry itself. The hubs are shut down when the test ends.
//
// If config has no Authenticate, clients are whoever Connect says. If it has one, the
// Identity given to Connect and Dial is not used. Then dial Node.URL yourself, with
// the headers or cookies that your Authenticate wants. If your own code makes and
// mounts the hubs, do not use a Cluster: give each hub a Bus by NewFaultyBus and a
// Registry by NewFaultyRegistry.
//
// If config has no Logger, the hubs log to the test's output.
//
// MaxHandshakes, HandshakeRatePerAddr and HandshakeRatePerUser are off if
// config does not set them, because all clients of a test have one address, and
// often one user.
//
// If config has a Retention, the hubs keep what is sent, and clients by
// ConnectHistory come back to it.
//
// A Hub notices at once that its Bus is Cut, and that its Registry is Cut when it
// renews its lease, every Lease/3. If its Bus Loses packets, it notices when a
// heartbeat, sent every ProbeInterval, has not come back within ProbeTimeout:
// with the defaults that takes up to 8 s. Shorten both in config to test it. A gap
// ends when the Bus works and the other nodes are heard again. Node.AwaitHealth
// waits for all that.
func NewCluster(t testing.TB, n int, config herald.Config) *Cluster {
	t.Helper()
	if n < 1 {
		t.Fatalf("a cluster of %d nodes: it must have at least one", n)
	}
	c := &Cluster{t: t, ownLogin: config.Authenticate != nil, seats: make(map[string]seat)}
	if !c.ownLogin {
		config.Authenticate = c.authenticate
	}
	c.meetConns(&config)
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(newTestLog(t), nil))
	}
	config.MaxHandshakes = cmp.Or(config.MaxHandshakes, -1)
	config.HandshakeRatePerAddr = cmp.Or(config.HandshakeRatePerAddr, -1)
	config.HandshakeRatePerUser = cmp.Or(config.HandshakeRatePerUser, -1)
	if config.Retention > 0 {
		c.sender = newSender(t)
	}
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	for range n {
		node := &Node{Bus: NewFaultyBus(network), Registry: NewFaultyRegistry(registry), t: t}
		config.Redis, config.Bus, config.Registry = nil, node.Bus, node.Registry
		hub, err := herald.New(config)
		if err != nil {
			t.Fatal(err)
		}
		node.Hub = hub
		server := httptest.NewServer(hub)
		node.URL = "ws" + server.URL[len("http"):]
		c.Nodes = append(c.Nodes, node)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			hub.Shutdown(ctx)
			server.Close()
		})
	}
	return c
}

// newSender returns a Hub that keeps nothing, for what ExpectNothing sends.
func newSender(t testing.TB) *herald.Hub {
	t.Helper()
	sender, err := herald.New(herald.Config{Bus: NewFaultyBus(herald.NewMemoryNetwork()), Registry: herald.NewMemoryRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Shutdown(context.Background()) })
	return sender
}

func (c *Cluster) authenticate(r *http.Request) (herald.Identity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seat, ok := c.seats[r.Header.Get(tokenHeader)]
	if !ok {
		return herald.Identity{}, errors.New("no client of the Cluster's")
	}
	return seat.identity, nil
}

// tokenKey is the key of a Conn's context that has the token of its Client.
type tokenKey struct{}

// meetConns has every Client get to know its Conn, in OnConnect.
func (c *Cluster) meetConns(config *herald.Config) {
	connContext, onConnect := config.ConnContext, config.OnConnect
	config.ConnContext = func(r *http.Request) context.Context {
		ctx := context.Background()
		if connContext != nil {
			ctx = connContext(r)
		}
		return context.WithValue(ctx, tokenKey{}, r.Header.Get(tokenHeader))
	}
	config.OnConnect = func(ctx context.Context, conn *herald.Conn) error {
		token, _ := conn.Context().Value(tokenKey{}).(string)
		c.mu.Lock()
		seat, ok := c.seats[token]
		c.mu.Unlock()
		if ok {
			seat.met <- conn
		}
		if onConnect != nil {
			return onConnect(ctx, conn)
		}
		return nil
	}
}

// node returns the i-th node.
func (c *Cluster) node(i int) *Node {
	c.t.Helper()
	if i < 0 || i >= len(c.Nodes) {
		c.t.Fatalf("no node %d: the cluster has %d", i, len(c.Nodes))
	}
	return c.Nodes[i]
}

// A testLog writes to the output of a test until the test has ended. Writing
// later would panic, and a callback of the user's may outlast Shutdown.
type testLog struct {
	mu     sync.Mutex
	output io.Writer // nil after the end
}

// newTestLog returns one for a test. What is cleaned up after it may not log.
func newTestLog(t testing.TB) *testLog {
	l := &testLog{output: t.Output()}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.output = nil
	})
	return l
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.output == nil {
		return len(p), nil
	}
	return l.output.Write(p)
}
