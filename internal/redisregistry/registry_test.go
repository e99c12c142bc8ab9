package redisregistry_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func redisRegistry(t *testing.T, rdb redis.UniversalClient) *herald.RedisRegistry {
	t.Helper()
	r, err := herald.NewRedisRegistry(rdb, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func registryClient(t *testing.T, o redis.Options) *redis.Client {
	c := redis.NewClient(&o)
	t.Cleanup(func() { c.Close() })
	return c
}

func takeLease(t *testing.T, r herald.Registry, node string, ttl time.Duration) herald.Lease {
	t.Helper()
	generation, err := r.KeepAlive(t.Context(), herald.Node{ID: node}, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return herald.Lease{Node: node, Generation: generation}
}

func someEntries(node string, n int) []herald.Entry {
	entries := make([]herald.Entry, n)
	for i := range entries {
		user := fmt.Sprint(i)
		entries[i] = herald.Entry{
			Session:   herald.Session{ID: node + "." + user, User: user},
			UserTopic: "u" + user,
			Topics:    []string{"gall", "g" + user},
		}
	}
	return entries
}

func mustAdd(t *testing.T, r herald.Registry, lease herald.Lease, entries ...herald.Entry) {
	t.Helper()
	if _, err := r.Add(t.Context(), lease, entries...); err != nil {
		t.Fatal(err)
	}
}

func wantSessions(t *testing.T, r herald.Registry, topic string, want int) {
	t.Helper()
	all, err := r.Sessions(t.Context(), herald.Lease{}, topic)
	if err != nil {
		t.Fatal(err)
	}
	if len(all[0]) != want {
		t.Fatalf("%d sessions of %q, want %d", len(all[0]), topic, want)
	}
}

func wantKeys(t *testing.T, c *redis.Client, want ...string) {
	t.Helper()
	keys, err := c.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	if !slices.Equal(keys, want) {
		t.Fatalf("redis holds %q, want %q", keys, want)
	}
}

func TestRedisRegistryRefuses(t *testing.T) {
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{servertest.FreeAddr(t)}})
	defer cluster.Close()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	for _, rdb := range []redis.UniversalClient{ring, nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		_, err := herald.NewRedisRegistry(rdb, nil)
		if !errors.Is(err, herald.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("%T", rdb)) {
			t.Errorf("%T: error is %v, want ErrInvalid that names the type", rdb, err)
		}
	}
	nobody := registryClient(t, redis.Options{Addr: servertest.FreeAddr(t)})
	if _, err := herald.NewRedisRegistry(nobody, &herald.RedisOptions{Prefix: "a{b}"}); !errors.Is(err, herald.ErrInvalid) {
		t.Errorf("prefix with a hash tag: error is %v, want ErrInvalid", err)
	}
	for _, rdb := range []redis.UniversalClient{nobody, cluster} {
		if _, err := herald.NewRedisRegistry(rdb, nil); !errors.Is(err, herald.ErrRegistryDown) {
			t.Errorf("%T: nobody listens: error is %v, want ErrRegistryDown", rdb, err)
		}
	}
}

func TestRedisRegistryDenied(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	for _, test := range []struct {
		rules string
		want  string // "" means no error
	}{
		{"~herald:{0}* +@all", ""},
		{"~herald:{0}* +@hash +@set +@sortedset +@string +@scripting +@keyspace +time", ""},
		{"~herald:{0}* +@all -hset", "HSET"},
		{"~herald:{0}* +@all -zrangebyscore", "ZRANGEBYSCORE"},
		{"~herald:{0}* +@all -sscan", "SSCAN"},
		{"~herald:{0}* +@all -time", "TIME"},
		{"~herald:{0}* +@all -evalsha", "EVALSHA"},
		{"~herald:{0}* +@all -eval", "EVAL"},
		{"~other:* +@all", "keys herald:{0}:* "},
	} {
		if err := admin.Do(t.Context(), slices.Concat([]any{"ACL", "SETUSER", "u", "reset", "on", ">p"}, words(test.rules))...).Err(); err != nil {
			t.Fatal(err)
		}
		r, err := herald.NewRedisRegistry(registryClient(t, redis.Options{Addr: server.Addr, Username: "u", Password: "p"}), nil)
		switch {
		case err == nil:
			r.Close()
			if test.want != "" {
				t.Errorf("%s: no error, want one that names %s", test.rules, test.want)
			}
		case test.want == "" || !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: error is %v, want one that names %q", test.rules, err, test.want)
		}
	}
	wantKeys(t, admin)
}

func words(s string) []any {
	var all []any
	for _, word := range strings.Fields(s) {
		all = append(all, word)
	}
	return all
}

func TestRedisRegistryLeavesTheClientAsItIs(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	before := *rdb.Options()
	r := redisRegistry(t, rdb)
	takeLease(t, r, "n", time.Hour)
	if after := *rdb.Options(); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("options were %v and are %v", before, after)
	}
	if n := rdb.PoolStats().TotalConns; n != 0 {
		t.Errorf("the client has %d connections, want none", n)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := r.Nodes(t.Context()); !errors.Is(err, herald.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the client after Close: %v", err)
	}
}

func TestRedisRegistryDatabases(t *testing.T) {
	server := redistest.Start(t)
	one := redisRegistry(t, registryClient(t, redis.Options{Addr: server.Addr, DB: 1}))
	two := redisRegistry(t, registryClient(t, redis.Options{Addr: server.Addr, DB: 2}))
	lease := takeLease(t, one, "n", time.Hour)
	mustAdd(t, one, lease, someEntries("n", 1)...)
	wantSessions(t, one, "u0", 1)
	wantSessions(t, two, "u0", 0)
	if _, err := two.Add(t.Context(), lease, someEntries("n", 1)...); !errors.Is(err, herald.ErrLeaseLost) {
		t.Fatalf("in the other database: %v, want ErrLeaseLost", err)
	}
}

func TestRedisRegistryLeavesNothing(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	wantKeys(t, rdb)
	must := []string{"herald:{0}:clock", "herald:{0}:generation"}

	dead := takeLease(t, r, "dead", time.Hour)
	mustAdd(t, r, dead, someEntries("dead", 10_000)...)
	if _, err := r.KeepAlive(t.Context(), nodeOfLease(dead), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Sweep(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, rdb, sorted(append(slices.Clone(must), "herald:{0}:gone")...)...)
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
	if users != 10_000 {
		t.Errorf("%d users offline, want 10,000", users)
	}
	wantKeys(t, rdb, must...)

	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 3)
	mustAdd(t, r, lease, entries...)
	if err := r.Remove(t.Context(), lease, entries...); err != nil {
		t.Fatal(err)
	}
	if err := r.Release(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	r.Offline(t.Context(), 0)
	wantKeys(t, rdb, must...)
}

func sorted(keys ...string) []string {
	slices.Sort(keys)
	return keys
}

// Values of somebody else in herald's keys stop no method.
func TestRedisRegistryGarbage(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 2)
	mustAdd(t, r, lease, entries...)
	index := fmt.Sprintf("herald:{0}:i:%d:n", lease.Generation)
	for i, garbage := range []string{"", " ", "x", "1", "1 2", "1 1 2 1 ", "1 1 2 1 x", "1 1 2 1 9:n", "1 1 2 1 1:n99999999999999999999:", "2 9 9 9 9 9", "1 9 9 9 9 9", "\x00\xff"} {
		field := fmt.Sprint("garbage", i)
		rdb.HSet(t.Context(), "herald:{0}:t:u0", field, garbage)
		rdb.HSet(t.Context(), "herald:{0}:t:gall", field, garbage)
		rdb.SAdd(t.Context(), index, garbage, "u"+garbage)
		if garbage != "1 9 9 9 9 9" { // that one is a lease
			rdb.HSet(t.Context(), "herald:{0}:nodes", field, garbage)
			rdb.HSet(t.Context(), "herald:{0}:dying", field, garbage)
		}
	}
	wantSessions(t, r, "u0", 1)
	wantSessions(t, r, "gall", 2)
	mustAdd(t, r, lease, herald.Entry{Session: herald.Session{ID: "n.9", User: "0"}, UserTopic: "u0"})
	wantSessions(t, r, "u0", 2)
	nodes, _, err := r.Nodes(t.Context())
	nodes = slices.DeleteFunc(nodes, func(n herald.Node) bool { return n.Err != nil })
	if err != nil || len(nodes) != 1 {
		t.Errorf("nodes are %v (%v), want one beside those that cannot be understood", nodes, err)
	}
	page, _, err := r.Entries(t.Context(), lease, "")
	if err != nil || len(page) != 3 {
		t.Errorf("entries are %v (%v), want 3", page, err)
	}
	garbageNode := takeLease(t, r, "garbage2", time.Hour)
	if err := r.Release(t.Context(), garbageNode); err != nil {
		t.Error(err)
	}
	if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Sweep(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	users, err := r.Offline(t.Context(), 0)
	if err != nil || !reflect.DeepEqual(users, []string{"1"}) {
		t.Errorf("users offline are %q (%v), want only the one whose hash has no garbage", users, err)
	}
}
