package hubtest

import (
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// clusterBroker returns a Redis Cluster, which also has the Registry. Its Restart
// is fault.
func clusterBroker(cluster *redistest.Cluster, fault func()) Broker {
	client := cluster.Client()
	return Broker{
		NewBus:      func() (herald.Bus, error) { return herald.NewRedisBus(client, nil) },
		NewRegistry: func() (herald.Registry, error) { return herald.NewRedisRegistry(client, nil) },
		Restart:     fault,
		PIDs: func() (pids []int) {
			for _, n := range cluster.Nodes {
				pids = append(pids, n.PID())
			}
			return pids
		},
	}
}

// redisClusterBroker returns a Cluster of three masters and three replicas. Restart
// restarts all at once.
func redisClusterBroker(t testing.TB) Broker {
	cluster := redistest.StartCluster(t, 3, 3, redistest.NeverFailed...)
	return clusterBroker(cluster, func() {
		for _, n := range cluster.Nodes {
			n.Kill()
		}
		var starting sync.WaitGroup
		for _, n := range cluster.Nodes {
			starting.Go(n.Restart)
		}
		starting.Wait()
	})
}

func TestRedisCluster(t *testing.T) { Test(t, redisClusterBroker) }

func BenchmarkRedisCluster(b *testing.B) { BenchmarkNodes(b, redisClusterBroker) }

// A slot that carries messages to users moves to another master under load, and
// back.
func TestRedisClusterMigration(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 3, redistest.NeverFailed...)
	slot := cluster.Slot("{66}")
	from := cluster.MasterOf(slot)
	testRestart(t, clusterBroker(cluster, func() {
		for _, to := range cluster.Nodes[:3] {
			cluster.Migrate(slot, to)
		}
		cluster.Migrate(slot, from)
	}))
}

// The master that serves a third of the users dies under load, and its replica
// takes over.
func TestRedisClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 3)
	slot := cluster.Slot("{66}")
	master := cluster.MasterOf(slot)
	testRestart(t, clusterBroker(cluster, func() {
		start := time.Now()
		master.Kill()
		cluster.AwaitFailover(slot, master)
		t.Logf("the replica took over after %v", time.Since(start))
	}))
}
