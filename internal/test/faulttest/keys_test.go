package faulttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// Some of the Registry's keys are lost while the node lives. The loss is found by
// comparing few entries, repaired, counted, and logged once.
func TestKeysLost(t *testing.T) {
	t.Parallel()
	testKeysLost(t, 3_000, 3*time.Second)
}

// BenchmarkKeysLost has so many connections that a walk over all of them would be
// too slow.
func BenchmarkKeysLost(b *testing.B) {
	for b.Loop() {
		testKeysLost(b, 15_000, 15*time.Second)
	}
}

func testKeysLost(t testing.TB, conns int, lease time.Duration) {
	server := redistest.Start(t)
	rdb := server.Client()
	shared, err := herald.NewRedisRegistry(rdb, nil)
	if err != nil {
		t.Fatal(err)
	}
	registry := &watchedRegistry{RedisRegistry: shared}
	n := startNodes(t, single(server), 1, herald.Config{Lease: lease, Registry: registry})[0]
	c := crowd{users: names("user", conns), groups: conns / 100}
	began := time.Now()
	n.crowd(c.users, c.group)
	if !await(t, "all registered", func() error { return c.right(n) }) {
		return
	}
	t.Logf("%d connections after %v", conns, time.Since(began).Round(time.Millisecond))
	random := rand.New(rand.NewPCG(1, 2))
	for _, loss := range []struct {
		what string
		keys func() []string
	}{
		{"1,000 topics", func() []string {
			topics := keys(t, rdb, "herald:*:t:*")
			random.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
			return topics[:1_000]
		}},
		{"the index", func() []string { return keys(t, rdb, "herald:*:i:*") }},
		{"the nodes", func() []string { return keys(t, rdb, "herald:*:nodes") }},
		{"everything", func() []string { return keys(t, rdb, "herald:*") }},
	} {
		n.survives(t, c, registry, loss.what, func() error { return rdb.Del(t.Context(), loss.keys()...).Err() })
	}
	n.survives(t, c, registry, "the lease", func() error {
		return rdb.HDel(t.Context(), keys(t, rdb, "herald:*:nodes")[0], n.NodeID()).Err()
	})
	await(t, "one index for the one node", func() error {
		if indexes := keys(t, rdb, "herald:*:i:*"); len(indexes) != 1 {
			return fmt.Errorf("%q", indexes)
		}
		return nil
	})
	for _, user := range c.users {
		if online, offline := told([]*node{n}, user); offline > 0 {
			t.Errorf("%s, who was online all the time: OnOnline was told %d times, OnOffline %d", user, online, offline)
			break
		}
	}
}

// A watchedRegistry counts the entries that were compared, and those that were by the
// time when one was missing last.
type watchedRegistry struct {
	*herald.RedisRegistry
	compared, missed atomic.Int64
}

func (r *watchedRegistry) Check(ctx context.Context, lease herald.Lease, entries ...herald.Entry) ([]herald.Entry, error) {
	missing, err := r.RedisRegistry.Check(ctx, lease, entries...)
	if n := r.compared.Add(int64(len(entries))); len(missing) > 0 {
		r.missed.Store(n)
	}
	return missing, err
}

// survives makes lose lose some keys, and waits until everything is right again.
func (n *node) survives(t testing.TB, c crowd, registry *watchedRegistry, what string, lose func() error) {
	t.Helper()
	logged, mended := len(n.log.lines(0)), n.Stats().Mended
	began, before := time.Now(), registry.compared.Load()
	if err := lose(); err != nil {
		t.Fatal(err)
	}
	if awaitFor(t, max(patience, 25*n.lease), what+" lost", func() error {
		time.Sleep(n.lease / 50) // asking about so many users is work
		return c.right(n)
	}) {
		t.Logf("%s lost: right again %s later", what, n.leases(began))
	}
	// In a lease all are compared, which finds a loss. Then all are compared once more,
	// and what is missing twice.
	if compared, most := registry.missed.Load()-before, int64(4*len(c.users)); compared > most {
		t.Errorf("%s lost: %d entries were compared until none was missing, want at most %d", what, compared, most)
	}
	await(t, what+" lost: a count and a warning", func() error {
		if n.Stats().Mended == mended || len(n.log.lines(logged)) == 0 {
			return errors.New("nothing was counted as mended, or nothing logged")
		}
		return nil
	})
	t.Logf("%s lost: %d mended", what, n.Stats().Mended-mended)
	if lines := n.log.lines(logged); len(lines) != 1 {
		t.Errorf("%s lost: %d warnings, want one: %q", what, len(lines), lines)
	}
}

// A crowd is a set of users with one connection each. Each user is in one of the
// groups.
type crowd struct {
	users  []string
	groups int
}

func (c crowd) group(i int) string { return fmt.Sprint("group", i%c.groups) }

// right returns an error unless all users are online and in their groups.
func (c crowd) right(n *node) error {
	if err := n.allOnline(true, c.users...); err != nil {
		return err
	}
	sessions, err := n.Sessions(context.Background(), herald.Group(c.names()...))
	if err == nil && len(sessions) != len(c.users) {
		err = fmt.Errorf("%d sessions in the groups, of %d", len(sessions), len(c.users))
	}
	return err
}

func (c crowd) names() []string {
	groups := make([]string, c.groups)
	for i := range groups {
		groups[i] = c.group(i)
	}
	return groups
}

// keys returns the keys that match a pattern.
func keys(t testing.TB, rdb *redis.Client, pattern string) []string {
	t.Helper()
	found, err := rdb.Keys(t.Context(), pattern).Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// A node dies, and its index is lost before it is swept. Its entries vanish at the
// latest when their users come again. These come online and go offline as usual.
func TestIndexOfTheDeadLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	nodes := startNodes(t, single(server), 2, herald.Config{})
	asker, dead := nodes[0], nodes[1]
	users := names("user", 3)
	for _, user := range users {
		dead.connect(user)
	}
	dead.kill()
	for _, index := range keys(t, rdb, "herald:*:i:*") {
		if strings.Contains(index, dead.NodeID()) {
			rdb.Del(t.Context(), index)
		}
	}
	await(t, "the dead node's users offline", func() error { return asker.allOnline(false, users...) })
	await(t, "the end of the sweep", func() error {
		// In this order, because a lease moves from nodes to dying. As long as it
		// is in either, its entries are not yet strays.
		for _, kind := range []string{"nodes", "dying"} {
			for _, key := range keys(t, rdb, "herald:*:"+kind) {
				leases, err := rdb.HKeys(t.Context(), key).Result()
				if err != nil {
					return err
				}
				if slices.ContainsFunc(leases, func(l string) bool { return strings.HasSuffix(l, dead.NodeID()) }) {
					return fmt.Errorf("%s: %q", key, leases)
				}
			}
		}
		return nil
	})
	for _, user := range users {
		asker.connect(user).close()
		await(t, "OnOnline and OnOffline of "+user, func() error {
			if online, offline := told(nodes[:1], user); online != 1 || offline == 0 {
				return fmt.Errorf("told %d and %d times", online, offline)
			}
			return nil
		})
	}
	await(t, "no entry", func() error {
		if left := keys(t, rdb, "herald:*:t:*"); len(left) > 0 {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
}

// Redis evicts herald's keys under the pressure of other data. Nobody stays
// offline, and New has already warned.
func TestEviction(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory-policy", "allkeys-random")
	rdb := server.Client()
	n := startNodes(t, single(server), 1, herald.Config{})[0]
	if lines := n.log.lines(0); !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "allkeys-random") }) {
		t.Errorf("New has not warned of the policy: %q", lines)
	}
	logged := len(n.log.lines(0))
	c := crowd{users: names("user", 600), groups: 6}
	n.crowd(c.users, c.group)
	await(t, "all registered", func() error { return c.right(n) })
	used := infoNumber(t, rdb, "memory", "used_memory")
	if err := rdb.ConfigSet(t.Context(), "maxmemory", fmt.Sprint(int(used)+2<<20)).Err(); err != nil {
		t.Fatal(err)
	}
	least, longest := len(c.users), time.Duration(0)
	zero := time.Now()
	filler := strings.Repeat("x", 1024)
	for i := range 2_000 {
		if err := rdb.Set(t.Context(), fmt.Sprint("filler", i), filler, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if i%10 > 0 {
			continue
		}
		time.Sleep(testLease / 100) // the pressure goes on for two leases
		count := 0
		online, err := n.Online(t.Context(), c.users...)
		for _, on := range online {
			if on {
				count++
			}
		}
		if least = min(least, count); count > 0 || err != nil {
			zero = time.Now()
		}
		longest = max(longest, time.Since(zero))
	}
	t.Logf("%.0f keys evicted; at the worst %d of %d users online; none for %v at the longest",
		infoNumber(t, rdb, "stats", "evicted_keys"), least, len(c.users), longest.Round(time.Millisecond))
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "all right again", func() error { return c.right(n) })
	if n.Stats().Mended == 0 {
		t.Error("nothing was counted as mended")
	}
	if len(n.log.lines(logged)) == 0 {
		t.Error("nothing was logged")
	}
}

// infoNumber returns a field of INFO.
func infoNumber(t testing.TB, rdb *redis.Client, section, field string) float64 {
	t.Helper()
	info, err := rdb.Info(t.Context(), section).Result()
	if err != nil {
		t.Fatal(err)
	}
	var n float64
	_, rest, _ := strings.Cut(info, "\r\n"+field+":")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("INFO %s: %s: %v", section, field, err)
	}
	return n
}
