package redisbus_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// classic makes servers behave as if they did not know sharded Pub/Sub, like those
// of Redis 6.2.
var classic = []string{"--rename-command", "SPUBLISH", "", "--rename-command", "SSUBSCRIBE", "", "--rename-command", "SUNSUBSCRIBE", ""}

// prefixes numbers the Prefixes of tests that share a Cluster.
var prefixes atomic.Int64

// openCluster opens a RedisBus on a Cluster.
func openCluster(t testing.TB, client *redis.ClusterClient, prefix string) *herald.RedisBus {
	t.Helper()
	bus, err := herald.NewRedisBus(client, &herald.RedisOptions{Prefix: prefix, ProbeInterval: time.Second / 10, ProbeTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

// onCluster returns a network on a Cluster that other tests use too.
func onCluster(t testing.TB, client *redis.ClusterClient, interrupt func()) heraldtest.BusNetwork {
	prefix := fmt.Sprint("test", prefixes.Add(1))
	return heraldtest.BusNetwork{
		Open:      func() herald.Bus { return openCluster(t, client, prefix) },
		Other:     func() herald.Bus { return openCluster(t, client, prefix+"x") },
		Interrupt: interrupt,
	}
}

func TestRedisBusOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
	client := cluster.Client()
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		return onCluster(t, client, func() {
			for _, n := range cluster.Nodes {
				killClients(t, n.Addr, "normal", "pubsub")
			}
		})
	})
}

// Every master is killed and comes back.
func TestRedisBusOnClusterKilled(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	client := cluster.Client()
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		cluster.AwaitOK() // a new Cluster takes some time
		return onCluster(t, client, func() { restart(cluster.Nodes) })
	})
}

func TestRedisBusOnClassicCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3, classic...)
	client := cluster.Client()
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		return onCluster(t, client, func() {
			for _, n := range cluster.Nodes {
				killClients(t, n.Addr, "normal", "pubsub")
			}
		})
	})
}

// restart kills nodes and starts them again, all at once.
func restart(nodes []*redistest.Node) {
	for _, n := range nodes {
		n.Kill()
	}
	var starting sync.WaitGroup
	for _, n := range nodes {
		starting.Go(n.Restart)
	}
	starting.Wait()
}

// commands returns how often a server has received each command.
func commands(t testing.TB, n *redistest.Node) map[string]int {
	t.Helper()
	stats, err := n.Admin().Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for line := range strings.Lines(stats) {
		var calls int
		name, rest, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		if n, _ := fmt.Sscanf(rest, "calls=%d,", &calls); n == 1 {
			counts[name] = calls
		}
	}
	return counts
}

// An idle Bus tests two connections to each master with four commands, however many
// partitions the master has.
func TestRedisBusClusterIdle(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	openCluster(t, cluster.Client(), "")
	began := time.Now()
	before := make([]map[string]int, len(cluster.Nodes))
	for i, n := range cluster.Nodes {
		before[i] = commands(t, n)
	}
	for i, n := range cluster.Nodes {
		var now map[string]int
		proofs := 0
		eventually(t, "ten proofs", func() bool {
			now = commands(t, n)
			proofs = now["hello"] - before[i]["hello"]
			return proofs >= 10
		})
		if most := 2 + 2*int(time.Since(began)/(time.Second/10)); proofs > most {
			t.Errorf("%d proofs within %v, want %d at most", proofs, time.Since(began), most)
		}
		for _, command := range []string{"cluster|info", "ssubscribe", "spublish", "get"} {
			most := proofs + 1
			if command == "get" {
				most = 0
			}
			if n := now[command] - before[i][command]; n > most {
				t.Errorf("%d times %s, want %d at most", n, command, most)
			}
		}
	}
}
