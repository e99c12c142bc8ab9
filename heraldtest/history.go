package heraldtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A HistoryNetwork is a broker that keeps messages, or a part of one, that nobody
// else uses.
type HistoryNetwork struct {
	// Config returns the Config of another node, with Redis, or Bus and Registry.
	// TestHistory sets Retention and whatever else it needs.
	Config func() herald.Config

	// Interrupt breaks every link of the nodes once; they can reconnect, and what
	// was kept is there still. If it is nil the subtest that needs it is skipped.
	Interrupt func()

	// Refuse has the broker refuse to keep anything more, while it still passes on
	// what is not to be kept, until allow is called. If it is nil the subtest that
	// needs it is skipped.
	Refuse func() (allow func())

	// Lose has the broker forget all that it keeps. If it is nil the subtest that
	// needs it is skipped.
	Lose func()
}

// TestHistory tries to break each of the numbered promises that a Hub with a
// Config.Retention makes (docs/delivery.md lists them), in a subtest that is named
// after it. newNetwork is called once for each. A subtest fails if what it awaits
// does not come within 30 s.
func TestHistory(t *testing.T, newNetwork func(t testing.TB) HistoryNetwork) {
	for _, p := range historyPromises {
		t.Run(p.name, func(t *testing.T) { p.try(t, newNetwork(t)) })
	}
}

type historyPromise struct {
	name, text string
	test       func(*historySuite)
	fault      historyFault // that it needs
}

type historyFault func(HistoryNetwork) (field string, given bool)

func interrupts(n HistoryNetwork) (string, bool) { return "Interrupt", n.Interrupt != nil }
func refuses(n HistoryNetwork) (string, bool)    { return "Refuse", n.Refuse != nil }
func loses(n HistoryNetwork) (string, bool)      { return "Lose", n.Lose != nil }

func (p historyPromise) try(t *testing.T, network HistoryNetwork) {
	if network.Config == nil {
		t.Fatal("HistoryNetwork.Config must be set")
	}
	if p.fault != nil {
		if field, given := p.fault(network); !given {
			t.Skipf("NOT TRIED: promise %s: HistoryNetwork.%s is nil", p.name, field)
		}
	}
	p.test(&historySuite{T: t, network: network, promise: fmt.Sprintf("promise %s: %s", p.name, p.text)})
}

var historyPromises = []historyPromise{
	{"1 Resume", "what was sent while a client was away comes when it is back, on any node: in order for each topic, once, and before what the topic is sent then", testResume, nil},
	{"2 Cut again", "a welcome names the positions that the client gave, and a connection that ends meanwhile costs nothing", testCutAgain, nil},
	{"3 Fresh clients", "a client that never got a message can come back too", testFresh, nil},
	{"4 Quiet clients", "a client to which nothing is sent gets a mark now and then, so that its position does not get too old", testQuiet, nil},
	{"5 Sent meanwhile", "what is sent while a client comes back is not lost, does not come twice, and does not overtake what was missed", testMeanwhile, nil},
	{"6 Long backlogs", "a client that has missed more than its queue holds is not closed for that, even if it is slow", testBacklog, nil},
	{"7 Groups", "a client that joins a group in OnConnect gets what the group was sent after the client's position; if it joins later, what is sent from then on", testGroups, nil},
	{"8 Lost groups", "what was sent to a group to which the client no longer belongs does not come", testLostGroup, nil},
	{"9 Filters", "Except, ExceptUser and On hold for what was missed; Except for the connections before this one too", testFilters, nil},
	{"10 Not kept", "what is Volatile, Unkept or to a Connection is delivered and never comes later", testNotKept, nil},
	{"11 Copies", "a Send to several groups comes once, live or later", testCopies, nil},
	{"12 Position", "a client that begins at Hub.Position gets all that was sent after it, and nothing before", testPosition, nil},
	{"13 Unknown positions", "a client whose position is unknown, or in the future, is told, and gets what is sent from then on", testUnknownPositions, nil},
	{"14 Retention", "what is older than Retention goes, and a client that lacks it is told", testRetention, nil},
	{"15 RetentionBytes", "what is above RetentionBytes goes, the oldest first, and a client that lacks it is told", testRetentionBytes, nil},
	{"16 DropOldest", "if a full queue drops messages, the client is told in their place", testDropOldest, nil},
	{"17 Previous", "OnConnect knows whether the client has come back, and from which of its own connections", testPrevious, nil},
	{"18 Malformed queries", "a query that is not as PROTOCOL.md says is refused with 400", testQueries, nil},
	{"19 Text with @", "text that begins with @ reaches the application as the client meant it; what is malformed ends the connection", testAt, nil},
	{"20 Probes", "a probe is answered while OnMessage runs", testProbes, nil},
	{"21 Plain clients", "a client that does not speak the protocol gets bare messages, and after an interruption what was sent meanwhile: in order, once, without a Gap", testPlain, interrupts},
	{"22 Refusals", "a Send whose message cannot be kept returns ErrBusDown and is not delivered. One that is not to be kept is delivered all the same", testRefused, refuses},
	{"23 Losses", "if what was kept is lost, clients are told, and what is sent from then on is kept", testLost, loses},
	{"24 Restarts", "when a node shuts down, its clients come back to another node, or to a new one, and lose nothing", testRestart, nil},
	{"25 Forget", "nobody gets what is forgotten any more, and a client that lacks it is told. Others lack nothing", testForget, nil},
}

// historyPatience is how long anything may take.
const historyPatience = 30 * time.Second

// A historySuite runs one subtest.
type historySuite struct {
	*testing.T
	network HistoryNetwork
	promise string

	visitors int
}

// failf fails the subtest and quotes the promise.
func (s *historySuite) failf(format string, args ...any) {
	s.Helper()
	s.Fatalf("%s\n\t%s", fmt.Sprintf(format, args...), s.promise)
}

func (s *historySuite) ok(err error) {
	s.Helper()
	if err != nil {
		s.failf("%v", err)
	}
}

// A historyNode is a Hub behind a server.
type historyNode struct {
	*herald.Hub
	s        *historySuite
	server   *httptest.Server
	messages chan string // that clients sent

	mu   sync.Mutex
	gaps []herald.Gap
	met  map[string]*herald.Conn // the newest of each visitor, by the Identity's Device
}

// node starts a node. set, if it is not nil, changes its Config.
func (s *historySuite) node(set func(c *herald.Config)) *historyNode {
	s.Helper()
	n := &historyNode{s: s, messages: make(chan string, 100), met: make(map[string]*herald.Conn)}
	c := s.network.Config()
	c.Retention = time.Minute
	c.SendTimeout, c.HandshakeTimeout = historyPatience, historyPatience
	c.HandshakeRatePerUser = -1
	c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	c.OnMessage = func(_ context.Context, _ *herald.Conn, m herald.Message) { n.messages <- m.String() }
	if set != nil {
		set(&c)
	}
	c.Authenticate = func(r *http.Request) (herald.Identity, error) {
		q := r.URL.Query()
		return herald.Identity{User: q.Get("user"), Device: q.Get("device"), Platform: q.Get("platform"), Groups: q["group"]}, nil
	}
	onConnect := c.OnConnect
	c.OnConnect = func(ctx context.Context, conn *herald.Conn) error {
		n.mu.Lock()
		n.met[conn.Identity().Device] = conn
		n.mu.Unlock()
		if onConnect != nil {
			return onConnect(ctx, conn)
		}
		return nil
	}
	c.OnGap = func(g herald.Gap) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaps = append(n.gaps, g)
	}
	hub, err := herald.New(c)
	s.ok(err)
	n.Hub = hub
	n.server = httptest.NewServer(hub)
	s.Cleanup(func() { n.stop() })
	return n
}

// stop shuts the node down. Clients that do not answer are waited for a second.
func (n *historyNode) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n.Shutdown(ctx)
	n.server.Close()
}

// send sends texts to the target.
func (n *historyNode) send(target herald.Target, texts ...string) {
	n.s.Helper()
	for _, text := range texts {
		n.s.ok(n.Send(n.s.Context(), target, herald.Text(text)))
	}
}

// conn returns the node's end of a visitor's connection.
func (n *historyNode) conn(v *visitor) *herald.Conn {
	n.s.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.met[v.device]
	if c == nil {
		n.s.failf("OnConnect has not run for the connection of %s", v.device)
	}
	return c
}

// noGap checks that no Gap was told.
func (n *historyNode) noGap() {
	n.s.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.gaps) > 0 {
		n.s.failf("a Gap was told: %+v", n.gaps)
	}
}

// await waits until done.
func (s *historySuite) await(what string, done func() bool) {
	s.Helper()
	for deadline := time.Now().Add(historyPatience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.failf("%s: not within %v", what, historyPatience)
		}
	}
}

// texts returns n texts.
func texts(what string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(what, " ", i)
	}
	return all
}
