package redisregistry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// plantings has, for each type, a function that stores a value of it under a key.
var plantings = map[string]func(ctx context.Context, rdb *redis.Client, key string) error{
	"string": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.Set(ctx, key, "x", 0).Err()
	},
	"list": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.RPush(ctx, key, "x", "y").Err()
	},
	"hash": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.HSet(ctx, key, "x", "y").Err()
	},
	"set": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.SAdd(ctx, key, "x").Err()
	},
	"zset": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.ZAdd(ctx, key, redis.Z{Score: 1, Member: "x"}).Err()
	},
	"stream": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"x", "y"}}).Err()
	},
}

// If a key has the wrong type, no method of the Registry stops working. The lease
// may be lost with the key.
func TestRedisRegistryWrongTypes(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	for kind, right := range map[string]string{
		"nodes": "hash", "dying": "hash", "gone": "zset", "clock": "string", "generation": "string",
		"t:u0": "hash", "t:gall": "hash", "i:LEASE": "set", "i:DEAD": "set",
		"watched": "string", "w:gall": "string",
	} {
		for wrong, plant := range plantings {
			if wrong == right {
				continue
			}
			t.Run(strings.ReplaceAll(kind, ":", "_")+"/"+wrong, func(t *testing.T) {
				rdb.FlushAll(t.Context())
				methods := []string{"Add", "Remove", "Watch", "Sessions", "Online", "Check", "KeepAlive", "KeepAlive of a new lease", "Nodes", "Sweep", "Offline", "Entries", "Release", "New"}
				for _, method := range methods {
					wrongType(t, rdb, method, kind, plant)
				}
			})
		}
	}
}

func wrongType(t *testing.T, rdb *redis.Client, method, kind string, plant func(context.Context, *redis.Client, string) error) {
	t.Helper()
	r := redisRegistry(t, rdb)
	defer r.Close()
	ctx := t.Context()
	entries := someEntries("n", 2)
	dead := takeLease(t, r, "dead", time.Hour)
	mustAdd(t, r, dead, someEntries("dead", 1)...)
	if _, err := r.KeepAlive(ctx, nodeOfLease(dead), 0); err != nil {
		t.Fatal(err)
	}
	lease := takeLease(t, r, "n", time.Hour)
	mustAdd(t, r, lease, entries...)
	if _, err := r.Watch(ctx, lease, time.Hour, "gall"); err != nil {
		t.Fatal(err)
	}
	kind = strings.Replace(kind, "LEASE", fmt.Sprintf("%d:n", lease.Generation), 1)
	kind = strings.Replace(kind, "DEAD", fmt.Sprintf("%d:dead", dead.Generation), 1)
	key := "herald:{0}:" + kind
	rdb.Del(ctx, key)
	if err := plant(ctx, rdb, key); err != nil {
		t.Fatal(err)
	}
	var err error
	switch method {
	case "Add":
		_, err = r.Add(ctx, lease, entries...)
	case "Remove":
		err = r.Remove(ctx, lease, entries...)
	case "Watch":
		_, err = r.Watch(ctx, lease, time.Hour, "gall")
	case "Sessions":
		_, err = r.Sessions(ctx, lease, "u1", "u0", "gall")
	case "Online":
		_, err = r.Online(ctx, lease, "u1", "u0", "gall")
	case "Check":
		_, err = r.Check(ctx, lease, entries...)
	case "KeepAlive":
		_, err = r.KeepAlive(ctx, nodeOfLease(lease), time.Hour)
	case "KeepAlive of a new lease":
		_, err = r.KeepAlive(ctx, herald.Node{ID: "n"}, time.Hour)
	case "Nodes":
		_, _, err = r.Nodes(ctx)
	case "Sweep":
		err = r.Sweep(ctx, dead)
	case "Offline":
		_, err = r.Offline(ctx, 0)
	case "Entries":
		_, _, err = r.Entries(ctx, lease, "")
	case "Release":
		err = r.Release(ctx, lease)
	case "New":
		var another *herald.RedisRegistry
		if another, err = herald.NewRedisRegistry(rdb, nil); err == nil {
			another.Close()
		}
	}
	if err != nil && !errors.Is(err, herald.ErrLeaseLost) {
		t.Errorf("%s: %v", method, err)
	}
	// A lease that is taken afterwards holds all entries that are added under it.
	lease = takeLease(t, r, "n", time.Hour)
	mustAdd(t, r, lease, entries...)
	if missing, err := r.Check(ctx, lease, entries...); err != nil || len(missing) > 0 {
		t.Errorf("after %s: %d of the new lease are missing (%v)", method, len(missing), err)
	}
	for _, topic := range []string{"u0", "u1"} {
		sessions, err := r.Sessions(ctx, lease, topic)
		if err != nil || len(sessions[0]) != 1 {
			t.Errorf("after %s: sessions of %s are %v (%v)", method, topic, sessions, err)
		}
	}
}

// oddNumbers lists what somebody else may store in the place of a number.
var oddNumbers = []string{
	"", "abc", "nan", "inf", "-inf", "0x10", "1e400", "1e15", "-1", "0", "1.5", " 7 ",
	"9007199254740991", "9007199254740992", "9223372036854775807", "-9223372036854775808",
	strings.Repeat("9", 400), "-" + strings.Repeat("9", 400), strings.Repeat("7", 1<<20),
}

func short(s string) string { return fmt.Sprintf("%.20q", s) }

// serverTime is the time of the server.
func serverTime(t *testing.T, rdb *redis.Client) time.Time {
	t.Helper()
	now, err := rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// addSane adds an entry. That must succeed, and Since must be neither in the future
// nor after the time that Nodes returns.
func addSane(t *testing.T, r herald.Registry, rdb *redis.Client, lease herald.Lease, e herald.Entry) herald.Added {
	t.Helper()
	added, err := r.Add(t.Context(), lease, e)
	if err != nil {
		t.Errorf("Add: %.200v", err)
		return herald.Added{}
	}
	if at := added[0].Since; at.After(serverTime(t, rdb).Add(time.Hour)) || at.UnixMicro() < 0 {
		t.Errorf("Since is %v", at)
	}
	if _, now, err := r.Nodes(t.Context()); err != nil || now.Before(added[0].Since) {
		t.Errorf("Nodes answers the time %v (%v), before the Since %v", now, err, added[0].Since)
	}
	return added[0]
}

// Whatever stands in the place of the clock or of a Since, a session that is then
// added has a Since that is not in the future.
func TestRedisRegistryOddSince(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	lease := takeLease(t, r, "n", time.Hour)
	const hash = "herald:{0}:t:u0"
	for _, odd := range oddNumbers {
		t.Run(short(odd), func(t *testing.T) {
			rdb.Set(t.Context(), "herald:{0}:clock", odd, 0)
			rdb.Del(t.Context(), hash)
			addSane(t, r, rdb, lease, someEntries("n", 1)[0])
			for _, clock := range []string{"there", "lost"} {
				for _, id := range []string{"n.0", "n.1"} {
					if clock == "lost" {
						rdb.Del(t.Context(), "herald:{0}:clock")
					}
					rdb.Del(t.Context(), hash)
					rdb.HSet(t.Context(), hash, id, fmt.Sprintf("1 %d %s 0 1:n1:00:0:0:0:", lease.Generation, odd))
					addSane(t, r, rdb, lease, someEntries("n", 1)[0])
				}
			}
			// It also fails neither the entries that are added with it, nor the
			// question for Admit.
			rdb.Del(t.Context(), hash)
			rdb.HSet(t.Context(), hash, "n.0", fmt.Sprintf("1 %d %s 0 1:n1:00:0:0:0:", lease.Generation, odd))
			entries := someEntries("n", 3)
			for i := range entries {
				entries[i].Older = 10
			}
			mustAdd(t, r, lease, entries...)
			if sessions, err := r.Sessions(t.Context(), lease, "u0", "u1"); err != nil || len(sessions[0]) != 1 || len(sessions[1]) != 1 {
				t.Errorf("sessions are %v (%v)", sessions, err)
			}
		})
	}
}

// Whatever stands in the place of the last generation, a node gets one that it has
// never had.
func TestRedisRegistryOddGeneration(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	for _, odd := range oddNumbers {
		t.Run(short(odd), func(t *testing.T) {
			had := make(map[int64]bool)
			for range 3 {
				rdb.Set(t.Context(), "herald:{0}:generation", odd, 0)
				for range 2 {
					generation, err := r.KeepAlive(t.Context(), herald.Node{ID: "n"}, time.Hour)
					if err != nil {
						t.Fatalf("KeepAlive: %.200v", err)
					}
					if had[generation] || generation > time.Now().Add(time.Hour).UnixMicro() {
						t.Errorf("generation %d, after %v", generation, had)
					}
					had[generation] = true
					lease := herald.Lease{Node: "n", Generation: generation}
					mustAdd(t, r, lease, someEntries("n", 1)...)
				}
			}
		})
	}
}

// A lease's record with odd numbers stops no node. Nobody is taken to live because
// of it for longer than the longest lease, and all other nodes are listed.
func TestRedisRegistryOddLease(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	takeLease(t, r, "n", time.Hour)
	for field, name := range []string{"format", "generation", "renewed", "ttl", "conns", "version"} {
		for _, odd := range oddNumbers {
			t.Run(name+"/"+short(odd), func(t *testing.T) {
				record := []string{"1", "7", fmt.Sprint(serverTime(t, rdb).Add(-25 * time.Hour).UnixMicro()), "1000000", "3", "1"}
				record[field] = odd
				id := "odd" + name + short(odd) // an id that was never seen before
				rdb.HSet(t.Context(), "herald:{0}:nodes", id, strings.Join(record, " "))
				defer rdb.HDel(t.Context(), "herald:{0}:nodes", id)
				nodes, _, err := r.Nodes(t.Context())
				if err != nil || len(nodes) != 2 || nodes[0].ID != "n" || !nodes[0].Alive {
					t.Fatalf("nodes are %v (%v)", nodes, err)
				}
				if n := nodes[1]; n.Alive || n.TTL < 0 || n.TTL > 24*time.Hour || n.Conns < 0 {
					t.Errorf("the odd one is %+v", n)
				}
				if err := r.Sweep(t.Context(), nodes[1].Lease()); err != nil {
					t.Errorf("Sweep: %v", err)
				}
			})
		}
	}
}

// If somebody stuffs the list of nodes, it does not make every question slower: it
// is removed, and the real nodes take new leases.
func TestRedisRegistryStuffed(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	for _, kind := range []string{"nodes", "dying"} {
		lease := takeLease(t, r, "n", time.Hour)
		mustAdd(t, r, lease, someEntries("n", 1)...)
		key := "herald:{0}:" + kind
		for i := range 3 {
			fields := make([]string, 0, 20_000)
			for j := range cap(fields) / 2 {
				fields = append(fields, fmt.Sprint("stuffing", i, "-", j), "x")
			}
			if err := rdb.HSet(t.Context(), key, fields).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := r.Nodes(t.Context()); err != nil {
			t.Errorf("Nodes: %v", err)
		}
		if n := rdb.HLen(t.Context(), key).Val(); n > 20_000 {
			t.Errorf("%s has %d fields still", kind, n)
		}
		lease = takeLease(t, r, "n", time.Hour)
		mustAdd(t, r, lease, someEntries("n", 1)...)
		nodes, _, err := r.Nodes(t.Context())
		if err != nil || len(nodes) > 2 || !nodes[len(nodes)-1].Alive {
			t.Errorf("after %s was stuffed, nodes are %.300v (%v)", kind, nodes, err)
		}
	}
}

// If the number of shards or partitions is a value that no node can have written, a
// node starts all the same.
func TestRedisNumberOfSomebodyElse(t *testing.T) {
	rdb := redistest.Start(t).Client()
	cluster := redistest.StartCluster(t, 3, 0).Client()
	for name, plant := range map[string]func(rdb redis.Cmdable, key string) error{
		"letters":  func(rdb redis.Cmdable, key string) error { return rdb.Set(t.Context(), key, "abc", 0).Err() },
		"nothing":  func(rdb redis.Cmdable, key string) error { return rdb.Set(t.Context(), key, "", 0).Err() },
		"negative": func(rdb redis.Cmdable, key string) error { return rdb.Set(t.Context(), key, "-1", 0).Err() },
		"a hash":   func(rdb redis.Cmdable, key string) error { return rdb.HSet(t.Context(), key, "x", "y").Err() },
	} {
		t.Run(name, func(t *testing.T) {
			for _, planted := range []error{
				rdb.Del(t.Context(), "herald:{0}:shards").Err(), plant(rdb, "herald:{0}:shards"),
				cluster.Del(t.Context(), "herald:{0}:shards").Err(), cluster.Del(t.Context(), "herald:{partitions}").Err(),
				plant(cluster, "herald:{0}:shards"), plant(cluster, "herald:{partitions}"),
			} {
				if planted != nil {
					t.Fatal(planted)
				}
			}
			for _, client := range []redis.UniversalClient{rdb, cluster} {
				r, err := herald.NewRedisRegistry(client, nil)
				if err != nil {
					t.Fatalf("the Registry: %v", err)
				}
				r.Close()
			}
			for range 2 {
				b, err := herald.NewRedisBus(cluster, nil)
				if err != nil {
					t.Fatalf("the Bus: %v", err)
				}
				b.Close()
			}
			if n := cluster.Get(t.Context(), "herald:{partitions}").Val(); n != "16" {
				t.Errorf("they have agreed on %q partitions", n)
			}
		})
	}
}

// Records and values of another version of herald are not strays: in a rolling
// deploy, nodes write them too.
func TestRedisRegistryOtherVersion(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	rdb.HSet(t.Context(), "herald:{0}:nodes", "later", "2 what ever")
	rdb.HSet(t.Context(), "herald:{0}:t:u42", "later.1", "2 what ever")
	hub, err := herald.New(herald.Config{Redis: rdb, OfflineDelay: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Shutdown(context.Background())
	for _, want := range []uint64{0, 1} {
		nodes, err := hub.Nodes(t.Context())
		sessions, err2 := hub.Sessions(t.Context(), herald.User("42"))
		if err != nil || err2 != nil || len(nodes) != 1 || len(sessions) > 0 {
			t.Errorf("nodes are %v (%v), sessions %v (%v)", nodes, err, sessions, err2)
		}
		if n := hub.Stats().Unreadable; n != want {
			t.Errorf("Unreadable is %d, want %d", n, want)
		}
		rdb.HSet(t.Context(), "herald:{0}:t:u42", "none.1", "none of herald's")
	}
}
