// Package receipttest tests receipts with clients of every manner: a message that
// has not arrived gets no receipt, and every call ends.
package receipttest

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// patience is how long a test waits for something that must happen.
const patience = 60 * time.Second

// A node is a Hub on a server of its own.
type node struct {
	*herald.Hub
	t     testing.TB
	dial  func() (net.Conn, error)
	web   *http.Server
	links []*netproxy.Proxy // its links to Redis, if it can be killed

	mu      sync.Mutex
	clients []*client // all that have ever connected
}

// startNodes starts n Hubs on one network in memory, unless connect gives each its
// own. With pipes they work in a synctest bubble.
func startNodes(t testing.TB, n int, pipes bool, config herald.Config, connect func(*herald.Config)) []*node {
	t.Helper()
	if connect == nil {
		network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
		connect = func(c *herald.Config) { c.Bus, c.Registry = network.Bus(), registry }
	}
	nodes := make([]*node, n)
	for i := range nodes {
		config := config
		config.Name = fmt.Sprint("n", i)
		connect(&config)
		nodes[i] = startNode(t, pipes, config)
	}
	return nodes
}

func startNode(t testing.TB, pipes bool, config herald.Config) *node {
	t.Helper()
	config.Authenticate = func(r *http.Request) (herald.Identity, error) {
		q := r.URL.Query()
		return herald.Identity{User: q.Get("user"), Device: q.Get("device"), Platform: q.Get("platform"), Groups: q["group"]}, nil
	}
	if config.OnConnect == nil {
		config.OnConnect = greet
	}
	config.MaxHandshakes, config.HandshakeRatePerAddr, config.HandshakeRatePerUser = -1, -1, -1
	config.MaxConnsPerUser = -1
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	config.SendTimeout = cmp.Or(config.SendTimeout, patience)
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Hub: hub, t: t, web: &http.Server{Handler: hub, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}}
	var l net.Listener
	if pipes {
		d := &door{conns: make(chan net.Conn), closed: make(chan struct{})}
		l, n.dial = d, d.dial
	} else {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		n.dial = func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
	}
	var serving sync.WaitGroup
	serving.Go(func() { n.web.Serve(l) })
	t.Cleanup(func() {
		n.web.Close()
		serving.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
	})
	return n
}

// greet sends a client its id.
func greet(_ context.Context, c *herald.Conn) error { return c.Send(herald.Text("id " + c.ID())) }

// A door is a net.Listener of pipes.
type door struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (d *door) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case d.conns <- there:
		return here, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *door) Addr() net.Addr { return &net.UnixAddr{Name: "test", Net: "pipe"} }

// A client is a device. Its manner decides how it answers pings.
type client struct {
	*wsraw.Conn
	t    testing.TB
	id   string
	done chan struct{} // closed when it reads no more

	mu  sync.Mutex
	got map[string]int // how often each text has arrived
}

// A manner is called for each ping and each text. A text's payload is left out. If
// it returns an error, the connection ends.
type manner func(c *client, f wsraw.Frame) error

var errLeave = errors.New("it leaves")

func isPing(f wsraw.Frame) bool { return f.Opcode == wsraw.Ping }

func (c *client) pong(payload []byte) error {
	return c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Mask: [4]byte{1, 2, 3, 4}, Payload: payload})
}

// honest answers every ping.
func honest(c *client, f wsraw.Frame) error {
	if isPing(f) {
		return c.pong(f.Payload)
	}
	return nil
}

// mute answers no ping.
func mute(*client, wsraw.Frame) error { return nil }

// empty answers every ping with nothing, as some libraries do.
func empty(c *client, f wsraw.Frame) error {
	if isPing(f) {
		return c.pong(nil)
	}
	return nil
}

// liar answers with payloads that no ping has had, among them tokens close to the
// right one.
func liar(c *client, f wsraw.Frame) error {
	if !isPing(f) {
		return nil
	}
	wrong := [][]byte{nil, {0, 0, 0, 0, 0, 0, 0, 1}, make([]byte, 125)}
	if len(f.Payload) == 8 {
		token := binary.BigEndian.Uint64(f.Payload)
		for _, t := range []uint64{token - 1, token + 1, token << 1, ^token, 0, 1<<64 - 1} {
			wrong = append(wrong, binary.BigEndian.AppendUint64(nil, t))
		}
		wrong = append(wrong, f.Payload[:7], append(f.Payload[:8:8], 0))
	}
	for _, payload := range wrong {
		if err := c.pong(payload); err != nil {
			return err
		}
	}
	return nil
}

// stale answers every ping with the payload of the first.
func stale() manner {
	var first []byte
	return func(c *client, f wsraw.Frame) error {
		if !isPing(f) {
			return nil
		}
		if first == nil {
			first = f.Payload
		}
		return c.pong(first)
	}
}

// lazy answers only every n-th ping.
func lazy(n int) manner {
	pings := 0
	return func(c *client, f wsraw.Frame) error {
		if !isPing(f) {
			return nil
		}
		if pings++; pings%n != 0 {
			return nil
		}
		return c.pong(f.Payload)
	}
}

// leaver disconnects when a ping comes.
func leaver(_ *client, f wsraw.Frame) error {
	if isPing(f) {
		return errLeave
	}
	return nil
}

// last answers one ping and disconnects.
func last(c *client, f wsraw.Frame) error {
	if !isPing(f) {
		return nil
	}
	c.pong(f.Payload)
	return errLeave
}

// connect connects a client with the query, and returns when it has been let in.
// Without a manner nothing reads from it then.
func (n *node) connect(query string, m manner) *client {
	n.t.Helper()
	c, err := n.tryConnect(query)
	if err != nil {
		n.t.Fatal(err)
	}
	welcome, err := c.ReadMessage()
	id, ok := strings.CutPrefix(string(welcome), "id ")
	if !ok {
		n.t.Fatalf("welcomed with %q: %v", welcome, err)
	}
	if c.id = id; m != nil {
		go c.run(m)
	}
	return c
}

// errNotReady is the error of tryConnect if the node is not ready. On a busy
// machine that happens whenever a lease ends.
var errNotReady = errors.New("not ready")

// tryConnect connects a client that reads nothing yet.
func (n *node) tryConnect(query string) (*client, error) {
	conn, err := n.dial()
	if err != nil {
		return nil, err
	}
	ws, response, err := wsraw.Handshake(conn, "/?"+query, nil)
	if err != nil {
		conn.Close()
		if response != nil && response.StatusCode == http.StatusServiceUnavailable {
			return nil, fmt.Errorf("%w: %w", errNotReady, err)
		}
		return nil, err
	}
	n.t.Cleanup(func() { ws.Close() })
	c := &client{Conn: ws, t: n.t, got: make(map[string]int), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clients = append(n.clients, c)
	return c, nil
}

func (c *client) run(m manner) {
	defer close(c.done)
	defer c.Conn.Close()
	for {
		f, err := c.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) { // nothing has come for a long time
			continue
		}
		if err != nil || f.Opcode == wsraw.Close {
			return
		}
		if f.Opcode == wsraw.Text {
			c.mu.Lock()
			c.got[string(f.Payload)]++
			c.mu.Unlock()
		}
		if m(c, f) != nil {
			return
		}
	}
}

// times returns how often the text has arrived.
func (c *client) times(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[text]
}

func (c *client) has(text string) bool { return c.times(text) > 0 }

// deliver is Deliver for calls that must not fail.
func (n *node) deliver(ctx context.Context, t herald.Target, m herald.Message) herald.Delivery {
	n.t.Helper()
	d, err := n.Deliver(ctx, t, m)
	if err != nil {
		n.t.Fatal(err)
	}
	return d
}

// ids returns the ids of sessions.
func ids(sessions []herald.Session) map[string]bool {
	set := make(map[string]bool)
	for _, s := range sessions {
		set[s.ID] = true
	}
	return set
}

// require checks which clients have received and which have missed the message.
func require(t testing.TB, what string, d herald.Delivery, received, missed []*client) {
	t.Helper()
	check := func(list string, got []herald.Session, total int, want []*client) {
		t.Helper()
		set := ids(got)
		for _, c := range want {
			if !set[c.id] {
				t.Errorf("%s: %s is not in %s: %v", what, c.id, list, got)
			}
		}
		if len(got) != len(want) || total != len(want) {
			t.Errorf("%s: %d in %s, and a total of %d; want %d", what, len(got), list, total, len(want))
		}
	}
	check("Received", d.Received, d.ReceivedTotal, received)
	check("Missed", d.Missed, d.MissedTotal, missed)
}

// within returns a context that is done after d, or with the test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
