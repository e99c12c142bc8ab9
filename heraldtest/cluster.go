package heraldtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
)

// A Cluster is several hubs on one network in memory, for tests of your own code.
// It needs no broker and no ports to choose, and can have faults.
type Cluster struct {
	Nodes []*Node // the hubs

	t testing.TB

	mu      sync.Mutex
	clients map[string]*Client // by token
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
// If config has no Authenticate, clients are who Connect says. If it has one, the
// Identity given to Connect and Dial is not used. Then dial Node.URL yourself,
// with the headers or cookies that your Authenticate wants. If your own code
// makes and mounts the hubs, do not use a Cluster: give each hub a Bus by
// NewFaultyBus and a Registry by NewFaultyRegistry.
//
// If config has no Logger, the hubs log to the test's output.
//
// MaxHandshakes, HandshakeRatePerAddr and HandshakeRatePerUser are off if
// config does not set them, because all clients of a test have one address, and
// often one user.
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
	c := &Cluster{t: t, clients: make(map[string]*Client)}
	if config.Authenticate == nil {
		config.Authenticate = c.authenticate
	}
	c.meetConns(&config)
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(newTestLog(t), nil))
	}
	config.MaxHandshakes = cmp.Or(config.MaxHandshakes, -1)
	config.HandshakeRatePerAddr = cmp.Or(config.HandshakeRatePerAddr, -1)
	config.HandshakeRatePerUser = cmp.Or(config.HandshakeRatePerUser, -1)
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

func (c *Cluster) authenticate(r *http.Request) (herald.Identity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client, ok := c.clients[r.Header.Get(tokenHeader)]
	if !ok {
		return herald.Identity{}, errors.New("no client of the Cluster's")
	}
	return client.identity, nil
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
		client := c.clients[token]
		c.mu.Unlock()
		if client != nil {
			client.met <- conn
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

// A Client is a WebSocket client of a Cluster. Its methods wait for at most
// 20 s, and fail the test if something goes wrong: by FailNow, so call them
// in the test's goroutine.
//
// A Client that does not Receive is a slow client: when the kernel's buffers are
// full, after some megabytes, what is sent to it waits in its queue. To see the
// queue overflow, make QueueMessages small in the configuration and send large
// messages. A slow client does not answer a close either, and Shutdown waits a
// second for the answer; Close it first to save that second.
type Client struct {
	t        testing.TB
	identity herald.Identity
	conn     *websocket.Conn
	met      chan *herald.Conn // holds the node's end, from OnConnect on
}

// Connect connects to the i-th node, from 0 on, within 20 s.
func (c *Cluster) Connect(i int, id herald.Identity) *Client {
	c.t.Helper()
	client, _, err := c.Dial(i, id)
	if err != nil {
		c.t.Fatalf("connect as %q to node %d: %v", id.User, i, err)
	}
	return client
}

// Dial is Connect for tests of refusals: it returns the response and the error
// that it got from the node.
func (c *Cluster) Dial(i int, id herald.Identity) (*Client, *http.Response, error) {
	c.t.Helper()
	node := c.node(i)
	client := &Client{t: c.t, identity: id, met: make(chan *herald.Conn, 1)}
	token := rand.Text()
	c.mu.Lock()
	c.clients[token] = client
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, node.URL, &websocket.DialOptions{HTTPHeader: http.Header{tokenHeader: {token}}})
	if err != nil {
		return nil, response, err
	}
	conn.SetReadLimit(-1)
	c.t.Cleanup(func() { conn.CloseNow() })
	client.conn = conn
	return client, response, nil
}

// Send sends a text message to the node.
func (c *Client) Send(text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatalf("send %q: %v", text, err)
	}
}

// Receive returns the next message. It waits for at most 20 s.
func (c *Client) Receive() []byte {
	c.t.Helper()
	data, err := c.receive()
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return data
}

func (c *Client) receive() ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	return c.read(ctx)
}

// errNothing is why read failed if the connection is well, and quiet.
var errNothing = fmt.Errorf("nothing came within %v", patience)

func (c *Client) read(ctx context.Context) ([]byte, error) {
	_, data, err := c.conn.Read(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, errNothing
	}
	return data, err
}

// Expect receives one message for each of the texts, in this order. It waits
// for each for at most 20 s.
func (c *Client) Expect(texts ...string) {
	c.t.Helper()
	for _, want := range texts {
		got, err := c.receive()
		if err != nil {
			c.t.Fatalf("%v; expected %q", err, want)
		}
		if string(got) != want {
			c.t.Fatalf("received %q, expected %q", got, want)
		}
	}
}

// ExpectNothing checks that no message waits for the client. It takes into account
// every Send, on any node, that had returned before. It does not wait for some time
// to see whether a message comes: it has the client's node send a message of its
// own behind all others, whatever fault there is, and checks that the client
// receives that one first. A message that Delay still holds back has not come.
func (c *Client) ExpectNothing() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var conn *herald.Conn
	select {
	case conn = <-c.met:
		c.met <- conn
	case <-ctx.Done():
		c.t.Fatalf("OnConnect did not run within %v; expected nothing", patience)
	}
	end := "heraldtest: end " + rand.Text()
	if err := conn.Hub().Send(context.WithValue(ctx, fence{}, true), herald.Connection(conn.ID()), herald.Text(end)); err != nil {
		c.t.Fatalf("%v; expected nothing", err)
	}
	switch got, err := c.receive(); {
	case err != nil:
		c.t.Fatalf("%v; expected nothing", err)
	case string(got) != end:
		c.t.Fatalf("received %q, expected nothing", got)
	}
}

// ExpectClose receives until the node closes the connection, for at most 20 s
// in all, and checks the code.
func (c *Client) ExpectClose(code herald.StatusCode) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for messages := 0; ; messages++ {
		_, err := c.read(ctx)
		switch got := websocket.CloseStatus(err); {
		case err == nil:
		case errors.Is(err, errNothing) && messages > 0:
			c.t.Fatalf("%d messages and no close came within %v; expected close code %d", messages, patience, code)
		case errors.Is(err, errNothing):
			c.t.Fatalf("%v; expected close code %d", err, code)
		case got != websocket.StatusCode(code):
			c.t.Fatalf("closed with %d (%v), expected %d", got, err, code)
		default:
			return
		}
	}
}

// Close closes the connection with code 1000.
func (c *Client) Close() {
	c.t.Helper()
	c.conn.Close(websocket.StatusNormalClosure, "")
}
