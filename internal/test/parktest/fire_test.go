//go:build linux

// Package parktest tests that Conns lose nothing if they are parked and woken over
// and over.
package parktest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/netpoll"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// patience is how long the test waits for something that must happen.
const patience = 2 * time.Minute

// An account is what a node knows about a connection.
type account struct {
	conn *herald.Conn

	mu       sync.Mutex
	received int // messages from the client, in order
	sent     int // messages to the client
	wrong    string
	ends     int           // calls of OnDisconnect
	ended    chan struct{} // closed by the first of them
}

// A fire is a Hub, with clients that come and go, and talk and are quiet at random.
type fire struct {
	t        *testing.T
	hub      *herald.Hub
	addr     string
	quiet    time.Duration
	accounts sync.Map // an *account for each user: each connection has a user of its own
	counter  atomic.Int64
	messages atomic.Int64
	ends     [endings]atomic.Int64
}

// These are the ways in which a connection ends.
const (
	clientCloses = iota
	clientResets
	serverCloses
	disconnected
	expires
	slowSender
	shutdown
	endings
)

// setting returns the value of an environment variable, or otherwise if it is not
// set.
func setting(t *testing.T, name string, otherwise int) int {
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Messages go to and from connections that are quiet and busy at random, and end in
// every way. Nothing is lost, doubled or left over.
func TestFire(t *testing.T) {
	conns, messages := setting(t, "HERALD_PARK_CONNS", 200), setting(t, "HERALD_PARK_MESSAGES", 20_000)
	defer func(before time.Duration) { netpoll.Quiet = before }(netpoll.Quiet)
	netpoll.Quiet = time.Duration(setting(t, "HERALD_PARK_QUIET_MS", 20)) * time.Millisecond
	before := sockets(t)
	f := &fire{t: t, quiet: netpoll.Quiet}
	hub, err := herald.New(herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			return herald.Identity{User: r.URL.Query().Get("user")}, nil
		},
		OnConnect:    func(_ context.Context, c *herald.Conn) error { f.of(c); return nil },
		OnMessage:    f.onMessage,
		OnDisconnect: f.onDisconnect,
		MessageRate:  -1, MaxHandshakes: -1, HandshakeRatePerAddr: -1, HandshakeTimeout: patience,
		QueueMessages:  4096,
		MessageTimeout: max(5*time.Second, 20*netpoll.Quiet),  // on a busy machine a client may pause for a while
		PingInterval:   min(50*netpoll.Quiet, 20*time.Second), // a client of wsraw waits for a minute
		PongTimeout:    patience,
		CloseTimeout:   patience, SendTimeout: patience, Lease: patience,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.hub = hub
	server := httptest.NewServer(hub)
	f.addr = server.Listener.Addr().String()
	var clients, others sync.WaitGroup // others end before Shutdown, because their messages must not meet it
	others.Add(conns)
	for range conns {
		clients.Go(func() {
			for f.messages.Load() < int64(messages) && !t.Failed() {
				f.client(rand.IntN(shutdown))
			}
			others.Done()
			f.client(shutdown)
		})
	}
	others.Wait()
	time.Sleep(20 * netpoll.Quiet)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // the closes are spread over most of it
	defer cancel()
	if err := hub.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	clients.Wait()
	server.Close()
	f.accounts.Range(func(user, a any) bool {
		if n := a.(*account).ends; n != 1 {
			t.Errorf("OnDisconnect was called %d times for %v", n, user)
		}
		return !t.Failed()
	})
	await(t, "no socket that is left", func() bool { return sockets(t) <= before })
	await(t, "no goroutine that is left", func() bool {
		buf := make([]byte, 16<<20)
		s := string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(s, "heraldgo/herald.") && !strings.Contains(s, "internal/netpoll.")
	})
	var ends []int64
	for i := range f.ends {
		ends = append(ends, f.ends[i].Load())
	}
	t.Logf("%d messages, %d connections; ends by client %d, reset %d, Close %d, Disconnect %d, expiry %d, slow %d, Shutdown %d", f.messages.Load(),
		f.counter.Load(), ends[0], ends[1], ends[2], ends[3], ends[4], ends[5], ends[6])
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// sockets counts the sockets and epoll instances of the process.
func sockets(t *testing.T) (n int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if to, _ := os.Readlink(name); strings.HasPrefix(to, "socket:") || strings.Contains(to, "eventpoll") {
			n++
		}
	}
	return n
}

func (f *fire) of(c *herald.Conn) *account {
	a, _ := f.accounts.LoadOrStore(c.User(), &account{conn: c, ended: make(chan struct{})})
	return a.(*account)
}

// onMessage checks the message's number, and answers every other message once or a
// few times.
func (f *fire) onMessage(_ context.Context, c *herald.Conn, m herald.Message) {
	a := f.of(c)
	number, _, _ := strings.Cut(m.String(), " ")
	a.mu.Lock()
	defer a.mu.Unlock()
	f.messages.Add(1)
	if number != strconv.Itoa(a.received) && a.wrong == "" {
		a.wrong = fmt.Sprintf("got message %s instead of %d", number, a.received)
	}
	a.received++
	for range rand.IntN(3) {
		f.send(c, a)
	}
}

// send sends the next message to the client. The caller holds a.mu.
func (f *fire) send(c *herald.Conn, a *account) {
	if c.Send(herald.Text(strconv.Itoa(a.sent))) == nil {
		a.sent++
		f.messages.Add(1)
	}
}

func (f *fire) onDisconnect(c *herald.Conn, _ error) {
	a := f.of(c)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ends++; a.ends == 1 {
		close(a.ended)
	}
}

// A client is one connection of a user's.
type client struct {
	*wsraw.Conn
	writing sync.Mutex
	got     int // messages received, in order
	wrong   string
	closed  bool // by the node's close frame
	sent    int
	half    bool // the last message is never completed
}

// client lives through one connection.
func (f *fire) client(end int) {
	user := fmt.Sprint("u", f.counter.Add(1))
	raw, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Error(err)
		return
	}
	ws, _, err := wsraw.Handshake(raw, "/?user="+user, nil)
	if err != nil { // the Hub is shutting down
		raw.Close()
		if end != shutdown {
			f.counter.Add(-1)
		}
		return
	}
	f.ends[end].Add(1)
	c := &client{Conn: ws}
	read := make(chan struct{})
	go func() {
		defer close(read)
		c.read()
	}()
	conn := f.find(user)
	if conn == nil {
		f.t.Errorf("%s is not in the hub", user)
		raw.Close()
		return
	}
	c.talk(f, conn, rand.IntN(12))
	whole := c.end(f, conn, end, read) // whether the node got all that the client sent
	<-read
	a := f.of(conn)
	select {
	case <-a.ended:
	case <-time.After(patience):
		f.t.Errorf("%s: OnDisconnect was not called", user)
	}
	raw.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.wrong != "" || c.wrong != "":
		f.t.Errorf("%s, end %d: the node %s, the client %s", user, end, a.wrong, c.wrong)
	case end != clientResets && (!c.closed || c.got != a.sent):
		f.t.Errorf("%s, end %d: of %d messages the client got %d, and the close: %v", user, end, a.sent, c.got, c.closed)
	case whole && a.received != c.sent, a.received > c.sent:
		f.t.Errorf("%s, end %d: of %d messages the node got %d", user, end, c.sent, a.received)
	}
}

// find returns the node's side of a user's connection.
func (f *fire) find(user string) *herald.Conn {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if a, ok := f.accounts.Load(user); ok {
			return a.(*account).conn
		}
	}
	return nil
}

// write writes part of a frame, or several frames.
func (c *client) write(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.half {
		return nil // the node would take it for the rest of the message
	}
	_, err := c.Conn.Conn.Write(b)
	return err
}

// message returns the client's next message.
func (c *client) message() []byte {
	text := fmt.Sprintf("%d %s", c.sent, strings.Repeat("x", rand.IntN(200)))
	c.sent++
	return wsraw.Frame{Fin: true, Opcode: wsraw.Text, Mask: [4]byte{1, 2, 3, 4}, Payload: []byte(text)}.Bytes()
}

// talk does n things at random.
func (c *client) talk(f *fire, conn *herald.Conn, n int) {
	for range n {
		switch rand.IntN(6) {
		case 0: // a burst
			var b []byte
			for range 1 + rand.IntN(20) {
				b = append(b, c.message()...)
			}
			c.write(b)
		case 1:
			c.write(c.message())
		case 2: // in two parts
			b := c.message()
			cut := 1 + rand.IntN(len(b)-1)
			c.writing.Lock()
			c.Conn.Conn.Write(b[:cut])
			time.Sleep(rand.N(2 * f.quiet))
			c.Conn.Conn.Write(b[cut:])
			c.writing.Unlock()
		case 3:
			c.write(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte("p")}.Bytes())
		case 4: // the node sends
			a := f.of(conn)
			a.mu.Lock()
			f.send(conn, a)
			a.mu.Unlock()
		}
		time.Sleep(rand.N(3 * f.quiet))
	}
}

// end ends the connection, and reports whether the node gets everything that was
// sent.
func (c *client) end(f *fire, conn *herald.Conn, how int, read chan struct{}) (whole bool) {
	switch how {
	case clientCloses:
		c.write(wsraw.CloseFrame(1000, "").Bytes())
		return true
	case clientResets:
		wsraw.Reset(c.Conn.Conn)
	case serverCloses:
		conn.Close(3000, "")
	case disconnected:
		if err := f.hub.Disconnect(f.t.Context(), herald.Connection(conn.ID()), 3001, ""); err != nil && !errors.Is(err, herald.ErrClosed) {
			f.t.Error(err)
			c.Conn.Conn.Close()
		}
	case expires:
		conn.SetExpiry(time.Now())
	case slowSender:
		b := c.message()
		c.sent--
		c.writing.Lock()
		c.half = true
		c.writing.Unlock()
		c.Conn.Conn.Write(b[:1+rand.IntN(len(b)-1)])
		return true
	case shutdown:
		<-read
	}
	return false
}

// read reads until the connection ends, and answers the node's pings and close
// frame.
func (c *client) read() {
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return
		}
		switch frame.Opcode {
		case wsraw.Text:
			if string(frame.Payload) != strconv.Itoa(c.got) && c.wrong == "" {
				c.wrong = fmt.Sprintf("got message %s instead of %d", frame.Payload, c.got)
			}
			c.got++
		case wsraw.Ping:
			c.write(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: frame.Payload}.Bytes())
		case wsraw.Close:
			c.closed = true
			c.writing.Lock()
			half := c.half
			c.writing.Unlock()
			if half {
				c.Conn.Conn.Close()
			}
			c.write(wsraw.Frame{Fin: true, Opcode: wsraw.Close, Payload: frame.Payload}.Bytes())
		}
	}
}
