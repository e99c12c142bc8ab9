package heraldtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
)

// A Cluster is some hubs on one network in memory, for tests of your own code:
// no broker, no ports to choose, and faults at will.
type Cluster struct {
	Nodes []*Node // the hubs

	t testing.TB

	mu         sync.Mutex
	identities map[string]herald.Identity // by token
}

// A Node is one Hub of a Cluster, mounted on an HTTP server on loopback.
type Node struct {
	Hub      *herald.Hub            // shut down when the test ends
	URL      string                 // ws://…, where the Hub is mounted
	Bus      *herald.MemoryBus      // Cut, Lose, Delay and Heal it
	Registry *herald.MemoryRegistry // Cut and Heal it
}

// tokenHeader carries the token of a Client's Identity.
const tokenHeader = "Herald-Test-Token"

// NewCluster starts n hubs with the configuration, whose Redis, Bus and
// Registry it sets. Where config has no Authenticate, clients are who Connect
// says. The hubs are shut down when the test ends.
func NewCluster(t testing.TB, n int, config herald.Config) *Cluster {
	t.Helper()
	c := &Cluster{t: t, identities: make(map[string]herald.Identity)}
	if config.Authenticate == nil {
		config.Authenticate = c.authenticate
	}
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	for range n {
		node := &Node{Bus: network.Bus(), Registry: registry.Handle()}
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
	id, ok := c.identities[r.Header.Get(tokenHeader)]
	if !ok {
		return id, errors.New("no client of the Cluster's")
	}
	return id, nil
}

// A Client is a WebSocket client of a Cluster. Its methods fail the test
// where something goes wrong.
type Client struct {
	t    testing.TB
	conn *websocket.Conn
}

// Connect connects to the i-th node, from 0 on.
func (c *Cluster) Connect(i int, id herald.Identity) *Client {
	c.t.Helper()
	client, _, err := c.Dial(i, id)
	if err != nil {
		c.t.Fatalf("connect as %q to node %d: %v", id.User, i, err)
	}
	return client
}

// Dial is Connect for tests of refusals: the response and the error are as
// the node gave them.
func (c *Cluster) Dial(i int, id herald.Identity) (*Client, *http.Response, error) {
	c.t.Helper()
	token := rand.Text()
	c.mu.Lock()
	c.identities[token] = id
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, c.Nodes[i].URL, &websocket.DialOptions{HTTPHeader: http.Header{tokenHeader: {token}}})
	if err != nil {
		return nil, response, err
	}
	conn.SetReadLimit(-1)
	c.t.Cleanup(func() { conn.CloseNow() })
	return &Client{c.t, conn}, response, nil
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

// Receive returns the next message.
func (c *Client) Receive() []byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, data, err := c.conn.Read(ctx)
	if err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return data
}

// Expect receives one message for each of the texts, in this order.
func (c *Client) Expect(texts ...string) {
	c.t.Helper()
	for _, want := range texts {
		if got := c.Receive(); !bytes.Equal(got, []byte(want)) {
			c.t.Fatalf("received %q, expected %q", got, want)
		}
	}
}

// ExpectClose receives until the node closes the connection, and checks the
// code.
func (c *Client) ExpectClose(code herald.StatusCode) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := c.conn.Read(ctx); err != nil {
			if got := websocket.CloseStatus(err); got != websocket.StatusCode(code) {
				c.t.Fatalf("closed with %d (%v), expected %d", got, err, code)
			}
			return
		}
	}
}

// Close closes the connection with code 1000.
func (c *Client) Close() {
	c.t.Helper()
	c.conn.Close(websocket.StatusNormalClosure, "")
}
