package probetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/netproxy"
)

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// fromQuery believes the query.
func fromQuery(r *http.Request) (herald.Identity, error) {
	q := r.URL.Query()
	return herald.Identity{User: q.Get("user"), Platform: q.Get("platform"), Device: q.Get("device")}, nil
}

// dial connects a client that reads nothing.
func dial(t *testing.T, node *heraldtest.Node, query string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(within(t, patience), node.URL+"/?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// reads makes the client read, and thereby answer pings, until the test ends. It
// fails the test if a message arrives.
func reads(t *testing.T, ws *websocket.Conn) {
	done := make(chan bool)
	go func() {
		defer close(done)
		if _, data, err := ws.Read(context.Background()); err == nil {
			t.Errorf("the client got %q", data)
		}
	}()
	t.Cleanup(func() {
		ws.CloseNow()
		<-done
	})
}

// probe sends a probe, and returns the result, and its traces by device.
func probe(t *testing.T, hub *herald.Hub, to herald.Target, patience time.Duration) (herald.ProbeResult, map[string]herald.ProbedConn) {
	t.Helper()
	result, err := hub.Probe(within(t, patience), to)
	if err != nil {
		t.Fatal(err)
	}
	byDevice := make(map[string]herald.ProbedConn)
	for _, c := range result.Conns {
		byDevice[c.Session.Device] = c
	}
	return result, byDevice
}

// soon is the patience for probes that will get no answer.
const soon = 300 * time.Millisecond

// A probe reaches all connections of a user, but never the client's own code.
func TestProbeArrives(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Authenticate: fromQuery, SendTimeout: patience})
	for i, device := range []string{"a", "b", "c"} {
		reads(t, dial(t, cluster.Nodes[i%2], "user=anna&device="+device))
	}
	reads(t, dial(t, cluster.Nodes[0], "user=bert"))
	accepted(t, cluster, 4)
	hub := cluster.Nodes[1].Hub
	result, byDevice := probe(t, hub, herald.User("anna"), patience)
	if len(result.Conns) != 3 || result.Listed <= 0 || result.Sent < result.Listed {
		t.Errorf("%+v", result)
	}
	for _, device := range []string{"a", "b", "c"} {
		c := byDevice[device]
		if c.Outcome != herald.ProbeAnswered || c.Reached <= 0 || c.Answered < c.Reached || c.Session.User != "anna" {
			t.Errorf("%s: %+v", device, c)
		}
	}
	await(t, "the counters", func() bool { // they move a moment after the answer
		s := hub.Stats()
		return s.Queued == 0 && s.Delivered == 1 && s.Written == 1 && s.Dropped == 0
	})
	if result, _ := probe(t, hub, herald.User("nobody"), patience); len(result.Conns) != 0 || result.Sent != 0 {
		t.Errorf("to nobody: %+v", result)
	}
	if _, err := hub.Probe(t.Context(), herald.Everyone()); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("to everyone: %v", err)
	}
}

// A probe goes to each user in a packet of its own. If a node has reported on the
// first packet, that says nothing about the others.
func TestProbeUsers(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Authenticate: fromQuery, SendTimeout: patience})
	reads(t, dial(t, cluster.Nodes[0], "user=anna&device=a"))
	slow := dial(t, cluster.Nodes[0], "user=bert&device=b")
	accepted(t, cluster, 2)
	hub := cluster.Nodes[1].Hub
	done := make(chan herald.ProbeResult, 1)
	ctx := within(t, patience)
	go func() {
		result, err := hub.Probe(ctx, herald.User("anna", "bert"))
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	await(t, "the answer of one of two", func() bool {
		conns, err := hub.Inspect(ctx, herald.User("anna", "bert"))
		return err == nil && len(conns) == 2 && conns[0].Stats.Unconfirmed == 0 && conns[1].Stats.Unconfirmed == 1
	})
	reads(t, slow)
	result := <-done
	if len(result.Conns) != 2 {
		t.Fatalf("%+v", result)
	}
	for _, c := range result.Conns {
		if c.Outcome != herald.ProbeAnswered {
			t.Errorf("%+v", c)
		}
	}
}

// A probe says for each connection why it did not arrive there.
func TestProbeEnds(t *testing.T) {
	release := make(chan bool)
	held := make(chan bool, 1)
	cluster := heraldtest.NewCluster(t, 2, herald.Config{
		Authenticate: fromQuery, SendTimeout: patience, Lease: time.Hour, // nothing is repaired meanwhile
		DropOldest: true, QueueMessages: 8, QueueBytes: 16 << 20, WriteTimeout: time.Hour, PingInterval: time.Hour,
		OnConnect: func(ctx context.Context, c *herald.Conn) error {
			if c.Session().Device == "held" {
				held <- true
				<-release
			}
			return nil
		},
	})
	here, there := cluster.Nodes[0], cluster.Nodes[1]
	reads(t, dial(t, there, "user=anna&device=well&platform=ios"))
	silent := dial(t, there, "user=anna&device=silent&platform=ios")
	dial(t, there, "user=anna&device=none")
	dial(t, there, "user=anna&device=held&platform=ios")
	t.Cleanup(func() { close(release) })
	<-held
	dial(t, there, "user=anna&device=full&platform=ios")
	accepted(t, cluster, 4)
	conns, err := here.Hub.Inspect(within(t, patience), herald.User("anna"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if c.Session.Device != "full" {
			continue
		}
		to := herald.Connection(c.Session.ID)
		for range 64 { // more than fit into the kernel's buffers
			if err := here.Hub.Send(within(t, patience), to, herald.Binary(make([]byte, 512<<10))); err != nil {
				t.Fatal(err)
			}
		}
		await(t, "a full queue", func() bool {
			conns, err := here.Hub.Inspect(within(t, patience), to)
			return err == nil && conns[0].Stats.Dropped > 0 && conns[0].Stats.Queued == 8 && there.Hub.Stats().Delivered == 64
		})
	}
	nodes, err := here.Hub.Nodes(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.ID == there.Hub.NodeID() {
			stray := herald.Session{ID: n.ID + ".999", User: "anna", Device: "gone", Platform: "ios"}
			if _, err := there.Registry.Add(t.Context(), n.Lease(), herald.Entry{Session: stray, UserTopic: "uanna"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for took := soon; ; took *= 2 { // the node may need more time for its report
		_, byDevice := probe(t, here.Hub, herald.User("anna").On("ios"), took)
		wrong := ""
		for device, want := range map[string]herald.ProbeOutcome{
			"silent": herald.ProbeUnanswered, "none": herald.ProbeLeftOut, "held": herald.ProbeHeld, "full": herald.ProbeFull, "gone": herald.ProbeGone,
		} {
			if got := byDevice[device]; got.Outcome != want || got.Answered != 0 {
				wrong += fmt.Sprintf("%s: %+v, want %s\n", device, got, want)
			}
		}
		if wrong == "" {
			break
		}
		if took > patience {
			t.Fatal(wrong)
		}
	}

	type result struct {
		result herald.ProbeResult
		err    error
	}
	pinged := make(chan bool, 1)
	leaves, _, err := websocket.Dial(within(t, patience), there.URL+"/?user=anna&device=leaves&platform=ios", &websocket.DialOptions{
		OnPingReceived: func(context.Context, []byte) bool {
			pinged <- true
			return false // so that it does not answer
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	reads(t, leaves)
	accepted(t, cluster, 5)
	done := make(chan result, 1)
	ctx := within(t, patience)
	go func() {
		got, err := here.Hub.Probe(ctx, herald.User("anna").On("ios"))
		done <- result{got, err}
	}()
	<-pinged // the probe has reached its node
	leaves.CloseNow()
	silent.CloseNow()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	byDevice := make(map[string]herald.ProbedConn)
	for _, c := range r.result.Conns {
		byDevice[c.Session.Device] = c
	}
	if c := byDevice["leaves"]; c.Outcome != herald.ProbeLost {
		t.Errorf("the client has gone: %+v", c)
	}
	if c := byDevice["well"]; c.Outcome != herald.ProbeAnswered {
		t.Errorf("a client that is well: %+v", c)
	}

	there.Bus.Cut()
	if _, byDevice := probe(t, here.Hub, herald.User("anna").On("ios"), soon); byDevice["well"].Outcome != herald.ProbeUnheard || byDevice["well"].Reached != 0 {
		t.Errorf("its node is cut off: %+v", byDevice["well"])
	}
	there.Bus.Heal()
	here.Bus.Cut()
	here.AwaitHealth(herald.ErrBusDown)
	got, err := here.Hub.Probe(within(t, patience), herald.User("anna"))
	if !errors.Is(err, herald.ErrBusDown) || len(got.Conns) == 0 || got.Conns[0].Outcome != herald.ProbeUnsent && got.Conns[0].Outcome != herald.ProbeLeftOut {
		t.Errorf("this node is cut off: %+v, %v", got, err)
	}
}

// A connection whose socket takes long to close is closing until then, and gone
// afterwards.
func TestProbeClosing(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Authenticate: fromQuery, SendTimeout: patience})
	here, there := cluster.Nodes[0], cluster.Nodes[1]
	server := httptest.NewUnstartedServer(there.Hub)
	slow := netproxy.Linger(server.Listener)
	server.Listener = slow
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(slow.Let)
	slowly := &heraldtest.Node{Hub: there.Hub, URL: strings.Replace(server.URL, "http", "ws", 1)}
	ws := dial(t, slowly, "user=anna&device=closing")
	accepted(t, cluster, 1)
	ws.CloseNow()
	<-slow.Closing
	if _, byDevice := probe(t, here.Hub, herald.User("anna"), patience); byDevice["closing"].Outcome != herald.ProbeClosing || byDevice["closing"].Reached == 0 {
		t.Errorf("%+v", byDevice)
	}
	slow.Let()
	await(t, "the end of the session", func() bool {
		sessions, err := here.Hub.Sessions(within(t, patience), herald.User("anna"))
		return err == nil && len(sessions) == 0
	})
}

// A client that can come back answers probes between its messages, and loses
// nothing.
func TestProbeWithRetention(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Retention: time.Minute, SendTimeout: patience, DropOldest: true, QueueMessages: 8})
	client := cluster.ConnectHistory(0, herald.Identity{User: "anna"})
	hub := cluster.Nodes[1].Hub
	outcome := make(chan herald.ProbeResult, 1)
	failed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		result, err := hub.Probe(ctx, herald.User("anna"))
		outcome <- result
		failed <- errors.Join(err, hub.Send(ctx, herald.User("anna"), herald.Text("after it")))
	}()
	client.Expect("after it")
	result := <-outcome
	if err := <-failed; err != nil || len(result.Conns) != 1 || result.Conns[0].Outcome != herald.ProbeAnswered {
		t.Fatalf("%+v, %v", result, err)
	}
}

// olderRegistry lists all nodes but one as being of version 1.
type olderRegistry struct {
	herald.Registry
	newer *string
}

func (r olderRegistry) Nodes(ctx context.Context) ([]herald.Node, time.Time, error) {
	nodes, now, err := r.Registry.Nodes(ctx)
	for i := range nodes {
		if nodes[i].ID != *r.newer {
			nodes[i].Version = 1
		}
	}
	return nodes, now, err
}

// Nodes of an older version would take a question for a loss, so they are neither
// asked nor probed. A node that has just started is not taken for one.
func TestOlderNode(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	newer := ""
	open := func(r herald.Registry) *heraldtest.Node {
		h, err := herald.New(herald.Config{Bus: network.Bus(), Registry: r, Authenticate: fromQuery, SendTimeout: patience, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Shutdown(context.Background()) })
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return &heraldtest.Node{Hub: h, URL: strings.Replace(server.URL, "http", "ws", 1)}
	}
	node := open(registry)
	old := node.Hub
	asker := open(olderRegistry{registry, &newer}).Hub
	newer = asker.NodeID()
	dial(t, node, "user=anna&platform=ios")
	await(t, "the older node's client", func() bool { return old.Stats().Accepted == 1 })

	for _, r := range asker.Reports(within(t, patience)) {
		if (r.Err != nil) != (r.Node == old.NodeID()) {
			t.Errorf("%+v", r)
		}
	}
	result, err := asker.Probe(within(t, patience), herald.User("anna"))
	if err != nil || len(result.Conns) != 1 || result.Conns[0].Outcome != herald.ProbeOlder || result.Sent != 0 {
		t.Errorf("%+v, %v", result, err)
	}

	third := open(registry)
	newer = third.Hub.NodeID()
	reads(t, dial(t, third, "user=anna&platform=web"))
	reads(t, dial(t, third, "user=bert"))
	await(t, "clients", func() bool { return third.Hub.Stats().Accepted == 2 })
	result, err = asker.Probe(within(t, patience), herald.User("bert"))
	if err != nil || len(result.Conns) != 1 || result.Conns[0].Outcome != herald.ProbeAnswered {
		t.Errorf("to a node that has come just now: %+v, %v", result, err)
	}
	result, err = asker.Probe(within(t, patience), herald.User("anna").On("web"))
	if err != nil || len(result.Conns) != 2 || result.Conns[0].Outcome != herald.ProbeLeftOut || result.Conns[1].Outcome != herald.ProbeUnsent || result.Sent != 0 {
		t.Errorf("the older node's connection is left out: %+v, %v", result, err)
	}
	if s := old.Stats(); s.Malformed != 0 || s.Gaps != 0 {
		t.Errorf("the older node: %+v", s)
	}
}
