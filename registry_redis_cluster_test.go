package herald_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/redistest"
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
	r, err := herald.NewRedisRegistry(c.Client(), &herald.RedisOptions{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestRedisRegistryOnCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
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
	return all
}

func TestRedisRegistryOnClusterSpreads(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	r := clusterRegistry(t, cluster, "")
	must := clusterKeys(t, cluster, 3)
	if want := []string{"herald:{0}:shards"}; !slices.Equal(must, want) {
		t.Fatalf("at first there are %q, want %q", must, want)
	}
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 3000)
	mustAdd(t, r, lease, entries...)
	for _, n := range cluster.Nodes {
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

	// All can be removed, swept and released.
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

	// A node whose client is of one server would be alone.
	single := cluster.MasterOf(cluster.Slot("{0}")).Admin()
	if _, err := herald.NewRedisRegistry(single, nil); !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), "16 shards") {
		t.Errorf("a client of one master: %v, want ErrInvalid that tells of 16 shards", err)
	}
}

func TestRedisRegistryOnClusterDenied(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	for _, n := range cluster.Nodes {
		if err := n.Admin().Do(t.Context(), "ACL", "SETUSER", "u", "on", ">p", "~herald:*", "+@all").Err(); err != nil {
			t.Fatal(err)
		}
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
	// On one master alone.
	if err := cluster.Nodes[1].Admin().Do(t.Context(), "ACL", "SETUSER", "u", "-hlen").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "HLEN") {
		t.Errorf("error is %v, want one that names HLEN", err)
	}
}
