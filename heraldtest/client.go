package heraldtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/history/device"
)

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
	t       testing.TB
	cluster *Cluster
	seat    seat

	// Of its connection.
	node *Node
	conn *websocket.Conn

	// If it can come back.
	memory  *device.Client
	missed  [][]byte // what it missed, and has not received yet
	missing bool     // it was told that something may be missing, and nobody has asked
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

// Dial is Connect for tests of refusals: it returns the node's response, and the
// error.
func (c *Cluster) Dial(i int, id herald.Identity) (*Client, *http.Response, error) {
	c.t.Helper()
	client := &Client{t: c.t, cluster: c, seat: seat{identity: id}}
	response, err := client.dial(i, "")
	if err != nil {
		return nil, response, err
	}
	return client, response, nil
}

// dial makes a connection to the i-th node.
func (c *Client) dial(i int, query string) (*http.Response, error) {
	c.t.Helper()
	c.node = c.cluster.node(i)
	c.seat.met = make(chan *herald.Conn, 1)
	token := rand.Text()
	c.cluster.mu.Lock()
	c.cluster.seats[token] = c.seat
	c.cluster.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, c.node.URL+query, &websocket.DialOptions{HTTPHeader: http.Header{tokenHeader: {token}}})
	if err != nil {
		if c.cluster.ownLogin && response != nil && response.StatusCode == http.StatusUnauthorized {
			err = fmt.Errorf("%w: Config.Authenticate refused the request, and the Identity was not used: dial Node.URL with the headers or cookies that Authenticate wants, or leave it out of the Config", err)
		}
		return response, err
	}
	conn.SetReadLimit(-1)
	c.t.Cleanup(func() { conn.CloseNow() })
	c.conn = conn
	return response, nil
}

// Send sends a text message to the node.
func (c *Client) Send(text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	wire := text
	if c.memory != nil && strings.HasPrefix(text, "@") {
		wire = "@" + text
	}
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(wire)); err != nil {
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

// errNothing is why read failed if the connection works and nothing came.
var errNothing = fmt.Errorf("nothing came within %v", patience)

// read returns the next message.
func (c *Client) read(ctx context.Context) ([]byte, error) {
	if len(c.missed) > 0 {
		first := c.missed[0]
		c.missed = c.missed[1:]
		return first, nil
	}
	for {
		_, data, err := c.conn.Read(ctx)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, errNothing
		}
		if err != nil || c.memory == nil {
			return data, err
		}
		f, message, err := c.hear(data)
		if err != nil || message {
			return f.Body, err
		}
	}
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
// receives that one first. A message that Delay still holds back has not come. With a
// Retention, one that came just before the Bus was Cut may be on its way still.
func (c *Client) ExpectNothing() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	var conn *herald.Conn
	select {
	case conn = <-c.seat.met:
		c.seat.met <- conn
	case <-ctx.Done():
		c.t.Fatalf("OnConnect did not run within %v; expected nothing", patience)
	}
	end := "heraldtest: end " + rand.Text()
	if err := c.sendEnd(ctx, conn, herald.Text(end)); err != nil {
		c.t.Fatalf("%v; expected nothing", err)
	}
	switch got, err := c.receive(); {
	case err != nil:
		c.t.Fatalf("%v; expected nothing", err)
	case string(got) != end:
		c.t.Fatalf("received %q, expected nothing", got)
	}
}

// sendEnd has the client's node take a message from its Bus.
func (c *Client) sendEnd(ctx context.Context, conn *herald.Conn, m herald.Message) error {
	hub := conn.Hub()
	if c.cluster.sender != nil {
		if c.node.Bus.Health() != nil { // it takes nothing until it is repaired
			return conn.Send(m)
		}
		hub = c.cluster.sender // the Hub's own would go by way of the log
	}
	return hub.Send(context.WithValue(ctx, fence{}, c.node.Bus), herald.Connection(conn.ID()), m)
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
