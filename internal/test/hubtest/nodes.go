package hubtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/servertest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

const (
	benchUsers   = 64 // with one device each
	benchSenders = 64 // on all hubs together
	benchPayload = 100
	benchFrame   = benchPayload + 2 // with its header (RFC 6455 section 5.2)
)

// BenchmarkNodes sends b.N messages to users on other nodes than the sender's,
// with 2, 4, 8 and 16 nodes, which have 64 users and 64 senders in all. It
// reports the CPU time for each message: hubs-cpu-ns/op is that of this process,
// which has all hubs, their clients, which throw away what they read, and a
// broker in memory; broker-cpu-ns/op is that of the broker's own processes.
func BenchmarkNodes(b *testing.B, newBroker func(t testing.TB) Broker) {
	benchmark(b, newBroker(b), 0)
}

// BenchmarkKept is BenchmarkNodes for Hubs with a Retention.
func BenchmarkKept(b *testing.B, newBroker func(t testing.TB) Broker) {
	benchmark(b, newBroker(b), 5*time.Minute)
}

func benchmark(b *testing.B, broker Broker, retention time.Duration) {
	if broker.NewRegistry == nil {
		broker.NewRegistry = redisRegistries(b)
	}
	config := calm
	config.QueueBytes, config.QueueMessages, config.Retention = 256<<20, 1<<20, retention
	for _, n := range []int{2, 4, 8, 16} {
		b.Run(fmt.Sprint("nodes=", n), func(b *testing.B) { benchmarkNodes(b, broker, n, config) })
	}
}

func benchmarkNodes(b *testing.B, broker Broker, n int, config herald.Config) {
	c := newCluster(b, broker, n, config, nil)
	var arrived arrivals
	arrived.expect(int64(b.N) * benchFrame)
	for i := range benchUsers {
		arrived.drain(c, c.nodes[i%n], load.UserName(i))
	}
	message := herald.Text(strings.Repeat("x", benchPayload))
	var sent atomic.Int64
	var sending sync.WaitGroup
	runtime.GC()
	own, others := servertest.OwnCPUTime(b), servertest.CPUTime(b, broker.pids()...)
	b.ResetTimer()
	for s := range benchSenders {
		node := s % n
		sending.Go(func() {
			for i := sent.Add(1) - 1; i < int64(b.N); i = sent.Add(1) - 1 {
				user := int(i % benchUsers)
				if user%n == node {
					user = (user + 1) % benchUsers
				}
				if err := c.nodes[node].Send(context.Background(), herald.User(load.UserName(user)), message); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	sending.Wait()
	arrived.wait(c)
	b.StopTimer()
	own, others = servertest.OwnCPUTime(b)-own, servertest.CPUTime(b, broker.pids()...)-others
	b.ReportMetric(float64(own.Nanoseconds())/float64(b.N), "hubs-cpu-ns/op")
	if len(broker.pids()) > 0 {
		b.ReportMetric(float64(others.Nanoseconds())/float64(b.N), "broker-cpu-ns/op")
	}
}

// arrivals counts the bytes that all clients receive.
type arrivals struct {
	want int64
	got  atomic.Int64
	all  chan struct{} // closed when all of them have come
}

func (a *arrivals) expect(bytes int64) { a.want, a.all = bytes, make(chan struct{}) }

// drain connects a client whose received bytes are counted and thrown away.
func (a *arrivals) drain(c *cluster, n *node, user string) {
	c.Helper()
	conn, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		c.Fatal(err)
	}
	var reading sync.WaitGroup
	c.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	if _, _, err := wsraw.Handshake(conn, "/?"+url.Values{"user": {user}}.Encode(), nil); err != nil {
		c.Fatalf("connect %s: %v", user, err)
	}
	reading.Go(func() {
		buf := make([]byte, 16<<10)
		for {
			n, err := conn.Read(buf)
			if n > 0 && a.got.Add(int64(n)) == a.want {
				close(a.all)
			}
			if err != nil {
				return
			}
		}
	})
}

// wait waits until all bytes have arrived.
func (a *arrivals) wait(c *cluster) {
	c.Helper()
	select {
	case <-a.all:
	case <-time.After(patience):
		for _, n := range c.nodes {
			c.Logf("gaps of %s:%s", n.NodeID(), load.Describe(n.gapsSoFar()))
		}
		c.Fatalf("%d of %d bytes arrived within %v of the last Send", a.got.Load(), a.want, patience)
	}
}
