// Package statstest_test tests from outside what moves the counters of a Hub.
package statstest_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

const patience = 30 * time.Second

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A node is a Hub on loopback that believes the query of its clients.
type node struct {
	*herald.Hub
	t        *testing.T
	server   *httptest.Server
	bus      *heraldtest.FaultyBus
	registry *heraldtest.FaultyRegistry
	release  chan struct{} // ends OnMessage
}

func newNode(t *testing.T, config herald.Config) *node {
	t.Helper()
	n := &node{
		t: t, release: make(chan struct{}),
		bus: heraldtest.NewFaultyBus(herald.NewMemoryNetwork()), registry: heraldtest.NewFaultyRegistry(herald.NewMemoryRegistry()),
	}
	config.Bus, config.Registry, config.Logger = n.bus, n.registry, slog.New(slog.DiscardHandler)
	config.Authenticate = func(r *http.Request) (herald.Identity, error) {
		id := herald.Identity{User: r.URL.Query().Get("user")}
		switch id.User {
		case "bad":
			return id, errors.New("no")
		case "past":
			id.Expires = time.Now().Add(-time.Hour)
		}
		return id, nil
	}
	config.OnConnect = func(_ context.Context, c *herald.Conn) error {
		if c.User() == "banned" {
			return errors.New("banned")
		}
		return nil
	}
	config.OnMessage = func(ctx context.Context, _ *herald.Conn, m herald.Message) {
		if m.String() == "wait" {
			<-n.release
		}
	}
	hub, err := herald.New(config)
	if err != nil {
		t.Fatal(err)
	}
	n.Hub = hub
	n.server = httptest.NewServer(hub)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		hub.Shutdown(ctx)
		n.server.Close()
	})
	return n
}

// dial connects a client. If it is refused, it returns nil and the response.
func (n *node) dial(user string, header http.Header, buffer int) (*wsraw.Conn, *http.Response) {
	n.t.Helper()
	c, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	if buffer > 0 {
		c.(*net.TCPConn).SetReadBuffer(buffer)
	}
	ws, response, err := wsraw.Handshake(c, "/?user="+user, header)
	if response == nil {
		n.t.Fatal(err)
	}
	return ws, response
}

func (n *node) connect(user string) *wsraw.Conn {
	n.t.Helper()
	ws, response := n.dial(user, nil, 0)
	if ws == nil {
		n.t.Fatalf("refused with %s", response.Status)
	}
	await(n.t, "the Conn of "+user, func() bool { return n.conn(user) != nil })
	return ws
}

func (n *node) conn(user string) *herald.Conn {
	for c := range n.Conns() {
		if c.User() == user {
			return c
		}
	}
	return nil
}

func text(s string) wsraw.Frame {
	return wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte(s)}
}

// Each refusal is counted by its cause.
func TestRefusals(t *testing.T) {
	n := newNode(t, herald.Config{ProbeInterval: -1})
	for _, test := range []struct {
		user   string
		header http.Header
	}{
		{"a", http.Header{"Origin": {"https://elsewhere.example"}}},
		{"bad", nil}, {"past", nil}, {"", nil},
	} {
		n.dial(test.user, test.header, 0)
	}
	ws, _ := n.dial("banned", nil, 0)
	if ws == nil {
		t.Fatal("refused before the upgrade, not by OnConnect")
	}
	if _, err := ws.ReadClose(); err != nil { // OnConnect runs after the upgrade
		t.Fatal(err)
	}
	n.bus.Cut()
	await(t, "a bad health", func() bool { return n.Health() != nil })
	n.dial("a", nil, 0)
	if s := n.Stats(); s.Forbidden != 1 || s.Unauthorized != 3 || s.Denied != 1 || s.NotReady != 1 || s.BadRequests != 0 || s.Rejected != 6 {
		t.Errorf("%+v", s)
	}
}

// Each end of a connection is counted: by the code that this side gave it, as the
// client's own, or as one without a code.
func TestEnds(t *testing.T) {
	n := newNode(t, herald.Config{})
	for i, code := range []herald.StatusCode{4001, 4002, 4001} {
		ws := n.connect("a")
		n.conn("a").Close(code, "")
		if closed, err := ws.ReadClose(); err != nil || closed.Code != uint16(code) {
			t.Errorf("%v, %v", closed, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(uint16(code), ""))
		await(t, "its end", func() bool { return n.Stats().Disconnected == uint64(i+1) })
	}
	n.connect("b").WriteFrames(wsraw.CloseFrame(4001, ""))
	n.connect("c").WriteFrames(wsraw.CloseFrame(1000, ""))
	n.connect("d").WriteFrames(wsraw.Frame{Fin: true, Opcode: 3}) // breaks the protocol
	n.connect("e").Close()
	await(t, "all ends", func() bool { return n.Stats().Disconnected == 7 })
	s := n.Stats()
	if want := map[herald.StatusCode]uint64{4001: 2, 4002: 1, 1002: 1}; !reflect.DeepEqual(s.Closed, want) || s.ClosedByClient != 2 || s.Lost != 1 {
		t.Errorf("Closed %v, ClosedByClient %d, Lost %d; want %v, 2 and 1", s.Closed, s.ClosedByClient, s.Lost, want)
	}
	s.Closed[4001] = 100
	if n.Stats().Closed[4001] != 2 {
		t.Error("Closed is the Hub's own map")
	}
}

// Bytes are counted as they are on the wire. A running callback is counted as
// running.
func TestBytesAndCallbacks(t *testing.T) {
	n := newNode(t, herald.Config{})
	ws := n.connect("a")
	before := time.Now()
	ws.WriteFrames(text("hello"), text("wait")) // each has a header of 6 bytes
	await(t, "the second OnMessage", func() bool {
		s := n.Stats().Callbacks["OnMessage"]
		return s.Calls.Count == 1 && s.Running == 1 && s.Longest > 0
	})
	if s := n.Stats(); s.BytesReceived != 21 || s.Callbacks["OnConnect"].Calls.Count != 1 {
		t.Errorf("BytesReceived %d, Callbacks %v", s.BytesReceived, s.Callbacks)
	}
	close(n.release)
	await(t, "its end", func() bool { return n.Stats().Callbacks["OnMessage"].Calls.Count == 2 })
	if s := n.Stats().Callbacks["OnMessage"]; s.Calls.Sum <= 0 || s.Calls.Sum > time.Since(before) || s.Running != 0 || s.Longest != 0 {
		t.Errorf("%+v", s)
	}
	if s := n.conn("a").Stats(); s.LastRead.Before(before.Add(-time.Second)) || !s.LastWrite.IsZero() {
		t.Errorf("%+v", s)
	}
	n.conn("a").Send(herald.Text("answer"))
	if b, err := ws.ReadMessage(); err != nil || string(b) != "answer" {
		t.Fatalf("%q, %v", b, err)
	}
	await(t, "what was written", func() bool {
		return n.Stats().BytesWritten == 8 && !n.conn("a").Stats().LastWrite.Before(before.Add(-time.Second))
	})
}

// Bytes that come with the request count like those that come after it.
func TestBytesBehindTheRequest(t *testing.T) {
	n := newNode(t, herald.Config{})
	c, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var request bytes.Buffer
	if err := wsraw.WriteRequest(&request, "/?user=a", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append(request.Bytes(), text("hello").Bytes()...)); err != nil {
		t.Fatal(err)
	}
	await(t, "the message", func() bool { return n.Stats().MessagesReceived == 1 })
	if s := n.Stats(); s.BytesReceived != 11 {
		t.Errorf("BytesReceived %d, want 11", s.BytesReceived)
	}
}

// A client that reads nothing is visible by its queue and the age of its write.
func TestStuckClient(t *testing.T) {
	n := newNode(t, herald.Config{WriteTimeout: 10 * patience, PingInterval: -1})
	n.connect("well")
	ws, _ := n.dial("stuck", nil, 4<<10)
	if ws == nil {
		t.Fatal("refused")
	}
	await(t, "its Conn", func() bool { return n.conn("stuck") != nil })
	c := n.conn("stuck")
	message := herald.Binary(make([]byte, 256<<10))
	// A write that takes long may still end, so all conditions must hold at once.
	await(t, "a write that waits, and a queue behind it", func() bool {
		own := c.Stats()
		if own.Queued < 8 {
			c.Send(message)
		}
		s := n.Stats()
		return own.WritingFor > 100*time.Millisecond && s.LongestWrite >= own.WritingFor &&
			own.Queued >= 1 && s.LongestQueue == own.Queued && own.QueuedBytes >= 256<<10
	})
	if well := n.conn("well").Stats(); well.Queued != 0 || well.WritingFor != 0 {
		t.Errorf("the other has %+v", well)
	}
}

// Proofs, leases and gaps have an age. Calls of the Registry have a duration.
func TestAges(t *testing.T) {
	n := newNode(t, herald.Config{ProbeInterval: 10 * time.Millisecond, Lease: time.Second, SendTimeout: patience})
	await(t, "a proof, and no gap", func() bool {
		s := n.Stats()
		return s.BusRoundTrip > 0 && s.OpenGaps == 0 && s.OpenGapFor == 0 && s.BusRoundTrips.Sum >= s.BusRoundTrip && s.RegistryCalls.Sum >= s.RegistryRoundTrip
	})
	s := n.Stats()
	if s.ProofAge <= 0 || s.LeaseAge <= 0 || s.RegistryRoundTrip <= 0 || s.RegistryCalls.Count == 0 || s.BusRoundTrips.Count == 0 {
		t.Errorf("%+v", s)
	}
	n.bus.Cut()
	await(t, "a gap", func() bool { s := n.Stats(); return s.OpenGaps == 1 && s.OpenGapFor > 0 })
	await(t, "an old proof", func() bool { return n.Stats().ProofAge > 200*time.Millisecond })
	if err := n.Send(t.Context(), herald.User("a"), herald.Text("lost")); err == nil || n.Stats().SendErrors != 1 {
		t.Errorf("Send: %v, SendErrors is %d", err, n.Stats().SendErrors)
	}
	n.bus.Heal()
	await(t, "the end of the gap", func() bool { s := n.Stats(); return s.OpenGaps == 0 && s.OpenGapFor == 0 })
	if s := n.Stats(); s.Gaps == 0 || s.GapFor <= 0 {
		t.Errorf("Gaps %d, GapFor %v", s.Gaps, s.GapFor)
	}
	before := n.Stats().RegistryErrors
	n.registry.Cut()
	await(t, "errors of the Registry", func() bool { return n.Stats().RegistryErrors > before })
	await(t, "an old lease", func() bool { return n.Stats().LeaseAge > time.Second })
	n.registry.Heal()
	await(t, "a new lease", func() bool { return n.Stats().LeaseAge < 500*time.Millisecond })
}
