package natsbus_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// startCluster starts servers that know each other.
func startCluster(t *testing.T, n int) []*servertest.Server {
	t.Helper()
	routes := make([]string, n)
	for i := range routes {
		routes[i] = "nats://" + servertest.FreeAddr(t)
	}
	servers := make([]*servertest.Server, n)
	for i := range servers {
		servers[i] = servertest.NATS(t, "--cluster_name", "test", "--cluster", routes[i], "--routes", strings.Join(routes, ","))
	}
	awaitCluster(t, servers)
	return servers
}

// awaitCluster waits until each of the servers names the others.
func awaitCluster(t *testing.T, servers []*servertest.Server) {
	t.Helper()
	for _, s := range servers {
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			nc, err := nats.Connect(s.Addr)
			if err != nil {
				t.Fatal(err)
			}
			known := len(nc.Servers())
			nc.Close()
			if known == len(servers) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a server knows %d of %d", known, len(servers))
			}
		}
	}
}

// A Bus that knows one server of a cluster goes to another when that dies.
func TestCluster(t *testing.T) {
	servers := startCluster(t, 3)
	options := quick()
	a, b := open(t, servers[0].Addr, options), open(t, servers[1].Addr, options)
	a.subscribe("topic")
	a.publishAgain("topic", "own")
	a.awaitPacket("own")
	await(t, a, b, "before")

	servers[0].Kill()
	a.awaitKind(herald.EventRestored, 1)
	await(t, a, b, "after")
	await(t, b, a, "back")
	a.awaitHealthy()
	if n := b.count(herald.EventDown, ""); n > 0 {
		t.Errorf("%d gaps of the Bus at another server", n)
	}

	// The one that died comes back, the others go.
	servers[0].Restart()
	awaitCluster(t, servers)
	servers[1].Kill()
	servers[2].Kill()
	b.awaitKind(herald.EventRestored, 1)
	a.awaitKind(herald.EventRestored, 2)
	await(t, a, b, "end")
	await(t, b, a, "end back")
}

// await subscribes to, and publishes from, until the data has come: another
// server hears of a subscription a moment later.
func await(t *testing.T, to, from *rig, data string) {
	t.Helper()
	to.subscribe("topic")
	for deadline := time.Now().Add(patience); to.count(herald.EventPacket, data) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q did not arrive", data)
		}
		if err := from.try("topic", data); err != nil && !errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown) {
			t.Fatal(err)
		}
	}
}

// Of several servers the first that can be reached is taken, and both links
// go to the same.
func TestServers(t *testing.T) {
	servers := []*servertest.Server{servertest.NATS(t), servertest.NATS(t)} // that do not know each other
	dead := servertest.FreeAddr(t)
	urls := fmt.Sprintf("%s, nats://%s, nats://%s", dead, servers[0].Addr, servers[1].Addr)
	for range 10 {
		a := open(t, urls, quick())
		a.subscribe("topic")
		a.publish("topic", "x")
		a.awaitPacket("x")
		a.Reset()
		a.awaitKind(herald.EventRestored, 1)
		a.publishAgain("topic", "y")
		a.awaitPacket("y")
		a.Close()
	}
	options := quick()
	options.NATS = []nats.Option{nats.DontRandomize()}
	a, b := open(t, urls, options), open(t, servers[0].Addr, options)
	b.subscribe("topic")
	a.publish("topic", "first")
	b.awaitPacket("first")
}

// The death of the publishing link alone loses nothing that was taken, and is
// no gap.
func TestPublisherKilled(t *testing.T) {
	server := servertest.NATS(t)
	proxy := netproxy.Start(t, server.Addr)
	a := open(t, proxy.Addr, quick())
	a.subscribe("topic")
	for i := range 5 {
		proxy.Find("PUB ").Cut()
		a.publishAgain("topic", fmt.Sprint(i))
		a.awaitPacket(fmt.Sprint(i))
	}
	if n := a.count(herald.EventDown, ""); n > 0 {
		t.Errorf("%d gaps", n)
	}
}

// Other software may publish with headers: they are no part of the packet.
func TestHeaders(t *testing.T) {
	server := servertest.NATS(t)
	options := quick()
	a := open(t, server.Addr, options)
	a.subscribe("topic")
	nc, err := nats.Connect(server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	err = errors.Join(
		nc.PublishMsg(&nats.Msg{Subject: options.Prefix + ".topic", Header: nats.Header{"Key": {"value"}}, Reply: "reply", Data: []byte("data")}),
		nc.PublishRequest(options.Prefix+".topic", "reply", []byte("more")))
	if err != nil {
		t.Fatal(err)
	}
	a.awaitPacket("data")
	a.awaitPacket("more")
}

// A user's dialer is used, and a Bus that is being connected can be closed.
func TestCloseWhileConnecting(t *testing.T) {
	server := servertest.NATS(t)
	proxy := netproxy.Start(t, server.Addr)
	options := quick()
	options.NATS = []nats.Option{nats.Timeout(time.Hour), nats.Dialer(&net.Dialer{})}
	a := open(t, proxy.Addr, options)
	proxy.Blackhole(true)
	proxy.Cut()
	a.awaitKind(herald.EventDown, 1)
	before := len(proxy.Pairs())
	for deadline := time.Now().Add(patience); len(proxy.Pairs()) == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not connect again")
		}
	}
	closed := make(chan struct{})
	go func() {
		a.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("Close waits for a server that says nothing")
	}
}
