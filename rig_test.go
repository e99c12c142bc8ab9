package herald

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/heraldgo/herald/internal/test/quiet"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// patience is how long a test waits for something that must happen.
const patience = 30 * time.Second

// fromQuery is the Authenticate of these tests: the client says who it is.
func fromQuery(r *http.Request) (Identity, error) {
	q := r.URL.Query()
	id := Identity{User: cmp.Or(q.Get("user"), "u"), Device: q.Get("device"), Platform: q.Get("platform")}
	if g := q.Get("groups"); g != "" {
		id.Groups = strings.Split(g, ",")
	}
	return id, nil
}

// A rig is one Hub for raw clients, and a record of how each Conn ended.
type rig struct {
	*Hub
	t      testing.TB
	server *httptest.Server

	mu     sync.Mutex
	causes map[string][]error // by the Conn's id, one for each call of OnDisconnect
}

// newHub starts a Hub that ends with the test. It is in memory unless config says
// otherwise, and unfollows topics at once.
func newHub(t testing.TB, config Config) *Hub {
	t.Helper()
	if config.Authenticate == nil {
		config.Authenticate = fromQuery
	}
	config.Linger = cmp.Or(config.Linger, -1)
	config.Name = cmp.Or(config.Name, "test")
	// All clients of a test have one address, and often are one user.
	config.MaxHandshakes = cmp.Or(config.MaxHandshakes, -1)
	config.HandshakeRatePerAddr = cmp.Or(config.HandshakeRatePerAddr, -1)
	config.HandshakeRatePerUser = cmp.Or(config.HandshakeRatePerUser, -1)
	if config.Logger == nil {
		config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	h, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		h.Shutdown(ctx)
	})
	return h
}

// newRig starts a Hub on a server on loopback.
func newRig(t testing.TB, config Config) *rig {
	t.Helper()
	// A busy machine takes longer than the defaults allow.
	config.SendTimeout = cmp.Or(config.SendTimeout, patience)
	config.HandshakeTimeout = cmp.Or(config.HandshakeTimeout, patience)
	r := newPipeRig(t, config)
	r.server = httptest.NewUnstartedServer(r.Hub)
	r.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	r.server.Start()
	t.Cleanup(r.server.Close)
	return r
}

// newPipeRig starts a Hub without a server, for clients over net.Pipe.
func newPipeRig(t testing.TB, config Config) *rig {
	t.Helper()
	r := &rig{t: t, causes: make(map[string][]error)}
	onDisconnect := config.OnDisconnect
	config.OnDisconnect = func(c *Conn, cause error) {
		r.mu.Lock()
		r.causes[c.ID()] = append(r.causes[c.ID()], cause)
		r.mu.Unlock()
		if onDisconnect != nil {
			onDisconnect(c, cause)
		}
	}
	r.Hub = newHub(t, config)
	return r
}

// tcpPair returns both ends of a connection on loopback.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// dialTCP opens a connection to the rig. If buffer is not 0, it is the size of the
// client's receive buffer.
func (r *rig) dialTCP(buffer int) net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.server.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if buffer > 0 {
		c.(*net.TCPConn).SetReadBuffer(buffer)
	}
	return c
}

// connect connects a client with the query, such as "user=a".
func (r *rig) connect(query string) *wsraw.Conn {
	r.t.Helper()
	return r.upgrade(r.dialTCP(0), query)
}

func (r *rig) upgrade(c net.Conn, query string) *wsraw.Conn {
	r.t.Helper()
	ws, _, err := wsraw.Handshake(c, "/?"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return ws
}

// refused connects and returns the response that refuses it.
func (r *rig) refused(query string, header http.Header) *http.Response {
	r.t.Helper()
	_, response, err := wsraw.Handshake(r.dialTCP(0), "/?"+query, header)
	if response == nil || response.StatusCode == http.StatusSwitchingProtocols {
		r.t.Fatalf("got no refusal: %v", err)
	}
	return response
}

// only waits until there is exactly one Conn, and returns it.
func (r *rig) only() *Conn {
	r.t.Helper()
	r.await("one Conn", func() bool { return len(slices.Collect(r.Conns())) == 1 })
	return slices.Collect(r.Conns())[0]
}

// ended waits until at least n Conns have ended, and returns their causes.
func (r *rig) ended(n int) []error {
	r.t.Helper()
	var causes []error
	r.await("the end of Conns", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		causes = slices.Concat(slices.Collect(maps.Values(r.causes))...)
		return len(causes) >= n
	})
	return causes
}

func (r *rig) await(what string, done func() bool) {
	r.t.Helper()
	await(r.t, what, done)
}

// await polls until done returns true.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v\n%s", what, patience, stacks())
		}
	}
}

// clean waits until nothing is left of any Conn: in the index, the Registry, the
// topics followed, the sockets being closed and the goroutines. It checks that
// OnDisconnect ran once for each accepted Conn.
func (r *rig) clean() {
	r.t.Helper()
	requireClean(r.t, r.Hub)
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, causes := range r.causes {
		if len(causes) != 1 {
			r.t.Errorf("OnDisconnect ran %d times for %s: %v", len(causes), id, causes)
		}
		if causes[0] == nil {
			r.t.Errorf("OnDisconnect of %s got no cause", id)
		}
	}
	if s := r.Stats(); int(s.Accepted) != len(r.causes) || s.Disconnected != s.Accepted {
		r.t.Errorf("accepted %d, disconnected %d, OnDisconnect ran for %d", s.Accepted, s.Disconnected, len(r.causes))
	}
}

func requireClean(t testing.TB, h *Hub) {
	t.Helper()
	await(t, "an empty index", func() bool {
		conns, users, topics := h.index.size()
		return conns == 0 && users == 0 && topics == 0
	})
	await(t, "no socket that is being closed", func() bool { return len(h.closing.list()) == 0 })
	// Only now, because a parked Conn gets a goroutine at its end.
	await(t, "goroutines of Conns", func() bool { return !strings.Contains(stacks(), "herald.(*Conn)") })
	await(t, "no charge of a queue's", func() bool { return h.budget.in.Load() == h.budget.out.Load() })
	await(t, "an empty Registry", func() bool { return len(entriesOf(t, h)) == 0 })
	await(t, "no topic that is followed", func() bool {
		return h.follower.Len() == 2 // the node's and the heartbeat
	})
}

// entriesOf returns the node's entries in the Registry.
func entriesOf(t testing.TB, h *Hub) (all []Entry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cursor := ""
	for {
		entries, next, err := h.registry.Entries(ctx, Lease{h.id, h.presence.generation.Load()}, cursor)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entries...)
		if cursor = next; cursor == "" {
			return all
		}
	}
}

// shutdown ends the Hub within d, and waits until none of its goroutines is left.
func (r *rig) shutdown(d time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		r.t.Fatal(err)
	}
	requireNoGoroutines(r.t)
}

// requireNoGoroutines waits until no goroutine runs herald's code, except those of
// tests. One that has returned may take a moment to be gone.
func requireNoGoroutines(t testing.TB) {
	t.Helper()
	await(t, "the end of all goroutines", func() bool {
		for g := range strings.SplitSeq(stacks(), "\n\n") {
			if strings.Contains(g, "heraldgo/herald.") && !strings.Contains(g, "_test.go") {
				return false
			}
		}
		return true
	})
}

func stacks() string {
	buf := make([]byte, 16<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// pipeWriter is the ResponseWriter of an upgrade over net.Pipe, which works inside
// a synctest bubble.
type pipeWriter struct {
	header http.Header
	conn   net.Conn
	status int
	body   bytes.Buffer
}

func (w *pipeWriter) Header() http.Header         { return w.header }
func (w *pipeWriter) Write(b []byte) (int, error) { return w.body.Write(b) }
func (w *pipeWriter) WriteHeader(status int)      { w.status = status }

// pipe connects a client over net.Pipe.
func (r *rig) pipe(query string) *wsraw.Conn {
	r.t.Helper()
	ws, w, err := r.tryPipe(query)
	if err != nil {
		r.t.Fatalf("refused with %d, %s: %v", w.status, w.body.String(), err)
	}
	return ws
}

// pipeRefused connects over net.Pipe and returns the status that refuses it.
func (r *rig) pipeRefused(query string) int {
	r.t.Helper()
	_, w, err := r.tryPipe(query)
	if err == nil {
		r.t.Fatal("got no refusal")
	}
	return w.status
}

func (r *rig) tryPipe(query string) (*wsraw.Conn, *pipeWriter, error) {
	return r.tryPipeRequest(upgradeRequest(func(r *http.Request) { r.URL.RawQuery = query }))
}

func (r *rig) tryPipeRequest(request *http.Request) (*wsraw.Conn, *pipeWriter, error) {
	client, server := net.Pipe()
	w := &pipeWriter{header: http.Header{}, conn: server}
	go func() {
		r.ServeHTTP(w, request)
		if w.status != 0 { // the handshake was refused
			server.Close()
		}
	}()
	ws, _, err := wsraw.ReadResponse(client)
	if err != nil {
		return nil, w, err
	}
	r.t.Cleanup(func() { ws.Close() })
	return ws, w, nil
}

// closeCode returns the code of a *CloseError, or 0.
func closeCode(err error) StatusCode {
	var c *CloseError
	if errors.As(err, &c) {
		return c.Code
	}
	return 0
}

func query(user string) string { return url.Values{"user": {user}}.Encode() }

// Hijack hands over the server's end of the pipe.
func (w *pipeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// queueOf returns a copy of the Conn's queue.
func queueOf(c *Conn) queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queue
	q.frames.Buf, q.pongs = slices.Clone(q.frames.Buf), slices.Clone(q.pongs)
	return q
}
