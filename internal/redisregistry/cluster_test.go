package redisregistry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// flush empties a Cluster.
func flush(t testing.TB, c *redistest.Cluster) {
	t.Helper()
	err := c.Client().ForEachMaster(t.Context(), func(ctx context.Context, master *redis.Client) error {
		return master.FlushAll(ctx).Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func clusterRegistry(t testing.TB, c *redistest.Cluster, prefix string) *herald.RedisRegistry {
	t.Helper()
	// Calls that wait for a move end with their context, or at the latest after
	// ReadTimeout.
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ReadTimeout: patience})
	t.Cleanup(func() { rdb.Close() })
	// On a busy machine, the nodes of a healthy Cluster may take each other for
	// dead for a moment.
	var r *herald.RedisRegistry
	eventually(t, "a Registry on the Cluster", func() bool {
		var err error
		if r, err = herald.NewRedisRegistry(rdb, &herald.RedisOptions{Prefix: prefix}); err != nil {
			t.Log(err)
		}
		return err == nil
	})
	t.Cleanup(func() { r.Close() })
	return r
}

// These tests share one Cluster, which keeps its masters: the first three nodes.
func TestRedisRegistryOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
	for _, test := range []struct {
		name string
		test func(*testing.T, *redistest.Cluster)
	}{
		{"Promises", testClusterPromises},
		{"Spreads", testClusterSpreads},
		{"Denied", testClusterDenied},
		{"Forgets", testClusterForgets},
		{"FinishesASweep", testClusterFinishesASweep},
		{"Moves", testClusterMoves},
		{"MovesInAWalk", testClusterMovesInAWalk},
		{"StuckMove", testClusterStuckMove},
	} {
		flush(t, cluster)
		t.Run(test.name, func(t *testing.T) { test.test(t, cluster) })
	}
}

func testClusterPromises(t *testing.T, cluster *redistest.Cluster) {
	heraldtest.TestRegistry(t, func(t testing.TB) heraldtest.RegistryStore {
		flush(t, cluster)
		return heraldtest.RegistryStore{
			Open:  func() herald.Registry { return clusterRegistry(t, cluster, "") },
			Other: func() herald.Registry { return clusterRegistry(t, cluster, "herald2") },
		}
	})
}

// keysOf returns the keys that a master holds.
func keysOf(t testing.TB, n *redistest.Node) []string {
	t.Helper()
	keys, err := n.Admin().Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// clusterKeys returns all keys of a Cluster whose masters are its first nodes.
func clusterKeys(t testing.TB, c *redistest.Cluster, masters int) []string {
	t.Helper()
	var all []string
	for _, n := range c.Nodes[:masters] {
		all = append(all, keysOf(t, n)...)
	}
	slices.Sort(all)
	return slices.DeleteFunc(all, func(key string) bool { return strings.HasSuffix(key, ":clock") }) // each shard has one, for ever
}

func testClusterSpreads(t *testing.T, cluster *redistest.Cluster) {
	r := clusterRegistry(t, cluster, "")
	must := clusterKeys(t, cluster, 3)
	if want := []string{"herald:{0}:shards"}; !slices.Equal(must, want) {
		t.Fatalf("at first there are %q, want %q", must, want)
	}
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 3000)
	mustAdd(t, r, lease, entries...)
	for _, n := range cluster.Nodes[:3] {
		topics := 0
		for _, key := range keysOf(t, n) {
			if strings.Contains(key, "}:t:") {
				topics++
			}
		}
		t.Logf("%s has %d topics", n.Addr, topics)
		if topics < 6000/5 || topics > 6000/2 {
			t.Errorf("%s has %d of some 6,000 topics: they are not spread", n.Addr, topics)
		}
	}
	shards := make(map[string]bool)
	for _, key := range clusterKeys(t, cluster, 3) {
		tag, _, _ := strings.Cut(strings.TrimPrefix(key, "herald:{"), "}")
		shards[tag] = true
	}
	if len(shards) != 16 {
		t.Errorf("keys lie in the shards %v, want 16", shards)
	}

	// All entries can be removed, swept and released.
	must = []string{"herald:{0}:generation", "herald:{0}:shards"}
	if err := r.Remove(t.Context(), lease, entries[:1000]...); err != nil {
		t.Fatal(err)
	}
	if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Sweep(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	users := 0
	for {
		batch, err := r.Offline(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) == 0 {
			break
		}
		users += len(batch)
	}
	if users != len(entries) {
		t.Errorf("%d users offline, want %d", users, len(entries))
	}
	if keys := clusterKeys(t, cluster, 3); !slices.Equal(keys, must) {
		t.Errorf("the sweep leaves %q, want %q", keys, must)
	}
	if err := r.Release(t.Context(), takeLease(t, r, "n", time.Hour)); err != nil {
		t.Fatal(err)
	}
	if keys := clusterKeys(t, cluster, 3); !slices.Equal(keys, must) {
		t.Errorf("the release leaves %q, want %q", keys, must)
	}

	// A node whose client is for a single server would be alone.
	single := cluster.MasterOf(cluster.Slot("{0}")).Admin()
	if _, err := herald.NewRedisRegistry(single, nil); !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), "16 shards") {
		t.Errorf("a client of one master: %v, want ErrInvalid that tells of 16 shards", err)
	}
}

func testClusterDenied(t *testing.T, cluster *redistest.Cluster) {
	rules := func(n *redistest.Node, rules ...any) {
		t.Helper()
		if err := n.Admin().Do(t.Context(), append([]any{"ACL", "SETUSER", "u"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range cluster.Nodes {
		rules(n, "on", ">p", "~herald:*", "+@all")
	}
	open := func() (*herald.RedisRegistry, error) {
		rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Username: "u", Password: "p"})
		t.Cleanup(func() { rdb.Close() })
		return herald.NewRedisRegistry(rdb, nil)
	}
	r, err := open()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	// The rules concern only one master.
	rules(cluster.Nodes[1], "-hlen")
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "HLEN") {
		t.Errorf("error is %v, want one that names HLEN", err)
	}
	for _, n := range cluster.Nodes {
		rules(n, "-cluster")
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "find the masters") || !strings.Contains(err.Error(), "cluster") || errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("error is %v, want one that tells of CLUSTER", err)
	}
}

// inShard runs a command on the keys of a shard.
func inShard(t testing.TB, c *redistest.Cluster, tag, command, key string, args ...any) *redis.Cmd {
	t.Helper()
	key = "herald:{" + tag + "}:" + key
	cmd := c.MasterOf(c.Slot(key)).Admin().Do(t.Context(), slices.Concat([]any{command, key}, args)...)
	if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return cmd
}

func wantNode(t testing.TB, r herald.Registry, lease herald.Lease, alive bool) herald.Node {
	t.Helper()
	nodes, _, err := r.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Lease() == lease {
			if n.Alive != alive {
				t.Fatalf("node is %+v, want Alive %v", n, alive)
			}
			return n
		}
	}
	t.Fatalf("%v is not among the nodes %v", lease, nodes)
	return herald.Node{}
}

// Some shards have forgotten a lease, as after a failover that lost the last
// writes.
func testClusterForgets(t *testing.T, cluster *redistest.Cluster) {
	r := clusterRegistry(t, cluster, "")
	entries := someEntries("n", 300)
	renew := func(lease herald.Lease) error {
		_, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour)
		return err
	}
	for _, tag := range []string{"0", "49"} {
		t.Run("one, "+tag, func(t *testing.T) {
			flush(t, cluster)
			lease := takeLease(t, r, "n", time.Hour)
			mustAdd(t, r, lease, entries...)
			inShard(t, cluster, tag, "HDEL", "nodes", "n")
			wantNode(t, r, lease, true)
			if err := r.Sweep(t.Context(), lease); err != nil { // by mistake
				t.Fatal(err)
			}
			wantNode(t, r, lease, true)
			if _, err := r.Add(t.Context(), lease, entries...); !errors.Is(err, herald.ErrLeaseLost) {
				t.Errorf("add: %v, want ErrLeaseLost", err)
			}
			if err := renew(lease); !errors.Is(err, herald.ErrLeaseLost) {
				t.Errorf("keep alive: %v, want ErrLeaseLost", err)
			}
			next := takeLease(t, r, "n", time.Hour)
			mustAdd(t, r, next, entries...)
			wantNode(t, r, lease, false)
			wantNode(t, r, next, true)
			wantSessions(t, r, "gall", len(entries))
			if err := r.Sweep(t.Context(), lease); err != nil {
				t.Fatal(err)
			}
			wantSessions(t, r, "gall", len(entries))
			if got := walk(t, r, next, func() {}); len(got) != 3*len(entries) {
				t.Errorf("%d places, want %d", len(got), 3*len(entries))
			}
		})
	}
	t.Run("all but one", func(t *testing.T) {
		flush(t, cluster)
		lease := takeLease(t, r, "n", time.Hour)
		mustAdd(t, r, lease, entries...)
		if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for _, tag := range clusterShards[:15] {
			inShard(t, cluster, tag, "HDEL", "nodes", "n")
		}
		wantNode(t, r, lease, false)
		if err := r.Sweep(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		nodes, _, err := r.Nodes(t.Context())
		if err != nil || len(nodes) != 0 {
			t.Errorf("nodes after the sweep are %v: %v", nodes, err)
		}
		if got := walk(t, r, lease, func() {}); len(got) != 0 {
			t.Errorf("%d places are left", len(got))
		}
	})
}

// Somebody has begun a sweep that reached only one shard.
func testClusterFinishesASweep(t *testing.T, cluster *redistest.Cluster) {
	r := clusterRegistry(t, cluster, "")
	for _, tag := range []string{"0", "49"} {
		flush(t, cluster)
		lease := takeLease(t, r, "n", time.Hour)
		entries := someEntries("n", 300)
		mustAdd(t, r, lease, entries...)
		record, err := inShard(t, cluster, tag, "HGET", "nodes", "n").Text()
		if err != nil {
			t.Fatal(err)
		}
		inShard(t, cluster, tag, "HDEL", "nodes", "n")
		inShard(t, cluster, tag, "HSET", "dying", fmt.Sprintf("%d:n", lease.Generation), record)
		wantNode(t, r, lease, false)
		if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour); !errors.Is(err, herald.ErrLeaseLost) {
			t.Errorf("keep alive: %v, want ErrLeaseLost", err)
		}
		if err := r.Sweep(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		nodes, _, err := r.Nodes(t.Context())
		if err != nil || len(nodes) != 0 {
			t.Errorf("nodes after the sweep are %v: %v", nodes, err)
		}
		users := make(map[string]bool)
		for range 2 {
			some, err := r.Offline(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range some {
				users[u] = true
			}
		}
		if len(users) != len(entries) {
			t.Errorf("%d users offline, want %d", len(users), len(entries))
		}
	}
}
