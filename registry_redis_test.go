package herald

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/redisregistry"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// clusterRigs starts hubs whose Registry lies on the Cluster.
func clusterRigs(t *testing.T, c *redistest.Cluster, n int) []*rig {
	t.Helper()
	network := NewMemoryNetwork()
	rigs := make([]*rig, n)
	for i := range rigs {
		registry, err := NewRedisRegistry(c.Client(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { registry.Close() })
		rigs[i] = newRig(t, Config{Bus: network.Bus(), Registry: registry, Lease: 6 * time.Second, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	}
	return rigs
}

// allListed waits until every hub lists every user's session.
func allListed(t *testing.T, rigs []*rig, users []string) {
	t.Helper()
	for i, r := range rigs {
		await(t, fmt.Sprintf("all sessions at hub %d", i), func() bool {
			online, err := r.Online(t.Context(), users...)
			if err != nil {
				return false
			}
			for _, on := range online {
				if !on {
					return false
				}
			}
			sessions, err := r.Sessions(t.Context(), Group("all"))
			return err == nil && len(sessions) == len(users) && r.Health() == nil
		})
	}
}

// connectUsers connects users to the hubs in turn.
func connectUsers(rigs []*rig, from, n int) (users []string) {
	for i := from; i < from+n; i++ {
		user := fmt.Sprint("user", i)
		rigs[i%len(rigs)].connect("user=" + user + "&groups=all")
		users = append(users, user)
	}
	return users
}

// shardOf returns what the keys of a topic's shard begin with.
func shardOf(topic string) string {
	return "herald:{" + redisconn.Tags[redisconn.ShardOf(topic, len(redisconn.Tags))] + "}:"
}

// FuzzSession: what Redis holds is not trusted, and what herald writes there
// comes back as it was.
func FuzzSession(f *testing.F) {
	f.Add("0:0:0:0:", "42", "phone", "ios", "k", "v")
	f.Add("99999999999:n", "a\x00b\n", "", "\xff", "", "")
	f.Add("0:0:0:6:1:k1:v3:new", "1:2", "*", "{}", "", ":")
	f.Fuzz(func(t *testing.T, raw, user, device, platform, key, value string) {
		if s, ok := decodeSession(redisregistry.Session{Body: raw}); ok {
			if again, ok := decodeSession(encodeSession(s)); !ok || !reflect.DeepEqual(again, s) {
				t.Fatalf("%q decodes to %+v, which comes back as %+v (%v)", raw, s, again, ok)
			}
		}
		want := Session{
			ID: "n.1", User: user, Device: device, Platform: platform, Node: "n", RemoteAddr: user + key,
			Since: time.UnixMicro(7), Meta: map[string]string{key: value, value: key},
		}
		if got, ok := decodeSession(encodeSession(want)); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v (%v)", want, got, ok)
		}
	})
}

// A master is killed, and what it took last has not reached the replica that
// takes over: the hubs put back what is missing.
func TestHubRegistryFailover(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
	rigs := clusterRigs(t, cluster, 2)
	users := connectUsers(rigs, 0, 200)
	allListed(t, rigs, users)

	// The shard of the group of all.
	slot := cluster.Slot(shardOf(groupTopic("all")))
	master := cluster.MasterOf(slot)
	replica := cluster.ReplicaOf(master)
	for _, setting := range []string{"masteruser", "masterauth"} {
		if err := replica.Admin().ConfigSet(t.Context(), setting, "nobody").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := master.Admin().Do(t.Context(), "CLIENT", "KILL", "TYPE", "replica").Err(); err != nil {
		t.Fatal(err)
	}
	users = append(users, connectUsers(rigs, len(users), 700)...)
	allListed(t, rigs, users)
	master.Kill()
	killed := time.Now()
	cluster.AwaitFailover(slot, master)
	t.Logf("a replica took over after %v", time.Since(killed))
	missing := func() int64 {
		key := shardOf(groupTopic("all")) + "t:" + groupTopic("all")
		return int64(len(users)) - replica.Admin().HLen(context.Background(), key).Val()
	}()
	t.Logf("%d of %d sessions were lost in the shard of their group", missing, len(users))
	allListed(t, rigs, users)
	t.Logf("all sessions are listed after %v", time.Since(killed))
}

// A master without a replica comes back empty.
func TestHubRegistryShardComesBackEmpty(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	rigs := clusterRigs(t, cluster, 2)
	users := connectUsers(rigs, 0, 200)
	allListed(t, rigs, users)
	for i := range cluster.Nodes {
		cluster.Nodes[i].Kill()
		cluster.Nodes[i].Restart()
		cluster.AwaitOK()
		allListed(t, rigs, users)
	}
	// Every place is there, and none twice.
	places := 0
	for _, r := range rigs {
		for _, e := range entriesOf(t, r.Hub) {
			places += len(e.places())
		}
	}
	if places != 2*len(users) {
		t.Errorf("%d places, want %d", places, 2*len(users))
	}
}

// What a hub left that died is swept from every shard.
func TestHubRegistrySweepsAllShards(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	registry, err := NewRedisRegistry(cluster.Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	dead := Node{ID: "dead"}
	if dead.Generation, err = registry.KeepAlive(t.Context(), dead, time.Second); err != nil {
		t.Fatal(err)
	}
	var entries []Entry
	for i := range 300 {
		user := fmt.Sprint("user", i)
		entries = append(entries, Entry{Session: Session{ID: "dead." + user, User: user}, UserTopic: userTopic(user), Topics: []string{groupTopic("all")}})
	}
	if _, err := registry.Add(t.Context(), dead.Lease(), entries...); err != nil {
		t.Fatal(err)
	}
	newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry, Lease: 300 * time.Millisecond})
	await(t, "the sweep of all shards", func() bool {
		for _, n := range cluster.Nodes {
			if keys, err := n.Admin().Keys(t.Context(), "*dead*").Result(); err != nil || len(keys) > 0 {
				return false
			}
		}
		nodes, _, err := registry.Nodes(t.Context())
		return err == nil && len(nodes) == 1
	})
}

// A Redis that may evict any key is told of when the Hub is made.
func TestHubTellsOfEviction(t *testing.T) {
	server := redistest.Start(t)
	for policy, want := range map[string]int{"allkeys-lru": 1, "noeviction": 0, "volatile-lru": 0} {
		if err := server.Client().ConfigSet(t.Context(), "maxmemory-policy", policy).Err(); err != nil {
			t.Fatal(err)
		}
		logger, lines := newLog()
		hub, err := New(Config{Redis: server.Client(), Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		hub.Shutdown(t.Context())
		if got := told(lines, "level=WARN msg=\"herald: this Redis may evict"); got != want {
			t.Errorf("%s is told of %d times, want %d", policy, got, want)
		}
	}
}
