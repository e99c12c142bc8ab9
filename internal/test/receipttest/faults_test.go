package receipttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// callsEnv sets the number of calls of TestKilledNodes. For each 500 calls a node
// is killed.
const callsEnv = "HERALD_DELIVER_CALLS"

// Nodes are killed over and over while calls wait for their receipts.
func TestKilledNodes(t *testing.T) {
	calls := 500
	if text := os.Getenv(callsEnv); text != "" {
		var err error
		if calls, err = strconv.Atoi(text); err != nil || calls < 500 {
			t.Fatalf("%s=%q: want a number from 500", callsEnv, text)
		}
	}
	t.Run("Redis", func(t *testing.T) {
		server := redistest.Start(t)
		killNodes(t, calls, 0, []string{server.Addr}, func(dial dialer) redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: dial})
		})
	})
	t.Run("Cluster", func(t *testing.T) {
		cluster := redistest.StartCluster(t, 3, 0, redistest.NeverFailed...)
		killNodes(t, calls, time.Second, cluster.Addrs(), func(dial dialer) redis.UniversalClient {
			return redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Dialer: dial})
		})
	})
}

// A dialer connects to a server by its address.
type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// killNodes makes calls, each of which waits for receipts for the time wait, and
// kills a node for each 500 of them. Each node has links of its own to the servers.
func killNodes(t *testing.T, calls int, wait time.Duration, servers []string, client func(dialer) redis.UniversalClient) {
	nodes := 0
	start := func() *node {
		links := make(map[string]*netproxy.Proxy)
		for _, addr := range servers {
			links[addr] = netproxy.Start(t, addr)
		}
		rdb := client(func(ctx context.Context, network, addr string) (net.Conn, error) {
			link := links[addr]
			if link == nil {
				return nil, fmt.Errorf("no server has address %s", addr)
			}
			var d net.Dialer
			return d.DialContext(ctx, network, link.Addr)
		})
		t.Cleanup(func() { rdb.Close() })
		nodes++
		n := startNode(t, false, herald.Config{Name: fmt.Sprint("n", nodes), Redis: rdb, Lease: lease})
		n.links = slices.Collect(maps.Values(links))
		return n
	}
	(&trial{nodes: []*node{start(), start(), start()}, calls: calls, wait: wait, kills: calls / 500, revive: start}).run(t)
}

// lease is short, because these tests take several leases, but long enough for a
// busy machine.
const lease = 2 * time.Second

// kill makes the node dead to the others at once, as kill -9 does.
func (n *node) kill() {
	for _, link := range n.links {
		link.Blackhole(true)
		link.Cut()
	}
	n.mu.Lock()
	clients := n.clients
	n.mu.Unlock()
	for _, c := range clients {
		c.Close()
	}
}

// A client of a WebSocket library that knows nothing of herald gives receipts while
// it reads.
func TestCoder(t *testing.T) {
	nodes := startNodes(t, 2, false, herald.Config{}, nil)
	dial := func(user string) *websocket.Conn {
		t.Helper()
		conn, err := nodes[1].dial()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		ws, _, err := websocket.Dial(within(t, patience), "ws://"+conn.RemoteAddr().String()+"/?user="+user, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		if _, _, err := ws.Read(within(t, patience)); err != nil { // its id
			t.Fatal(err)
		}
		return ws
	}
	reads := dial("reads")
	dial("asleep")
	read := make(chan string, 1)
	go func() {
		_, b, _ := reads.Read(context.Background())
		read <- string(b)
		reads.Read(context.Background())
	}()
	d := nodes[0].deliver(within(t, patience), herald.User("reads"), herald.Text("m"))
	if got := <-read; got != "m" || d.ReceivedTotal != 1 || d.MissedTotal != 0 {
		t.Errorf("read %q, and %+v", got, d)
	}
	if d := nodes[0].deliver(within(t, time.Second), herald.User("asleep"), herald.Text("m")); d.ReceivedTotal != 0 || d.MissedTotal != 1 {
		t.Errorf("nobody reads: %+v", d)
	}
}

// While the Bus is cut, nothing is sent. If it loses a message or the report of its
// receipt, the message counts as missed when the call ends.
func TestBusFaults(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	var buses []*heraldtest.FaultyBus
	nodes := startNodes(t, 2, false, herald.Config{ProbeInterval: -1}, func(c *herald.Config) {
		bus := heraldtest.NewFaultyBus(network)
		buses = append(buses, bus)
		c.Bus, c.Registry = bus, registry
	})
	c := nodes[1].connect("user=u", honest)
	for i, bus := range []*heraldtest.FaultyBus{buses[1], buses[0]} {
		bus.Lose(true)
		text := fmt.Sprint("lost by ", i)
		require(t, text, nodes[0].deliver(within(t, 2*time.Second), herald.User("u"), herald.Text(text)), nil, []*client{c})
		if c.has(text) != (i == 1) {
			t.Errorf("%s: it has come: %v", text, i == 0)
		}
		bus.Heal()
		require(t, "healed", nodes[0].deliver(within(t, patience), herald.User("u"), herald.Text("healed")), []*client{c}, nil)
	}
	buses[0].Cut()
	if _, err := nodes[0].Deliver(within(t, patience), herald.User("u"), herald.Text("cut")); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("while the Bus is cut: %v", err)
	}
	buses[0].Heal()
}
