package resumetest_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func TestHistoryInMemory(t *testing.T) {
	heraldtest.TestHistory(t, func(testing.TB) heraldtest.HistoryNetwork {
		network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
		var buses []*heraldtest.FaultyBus
		return heraldtest.HistoryNetwork{
			Config: func() herald.Config {
				bus := heraldtest.NewFaultyBus(network)
				buses = append(buses, bus)
				return herald.Config{Bus: bus.MemoryBus, Registry: registry.Handle()}
			},
			Interrupt: func() {
				for _, bus := range buses {
					bus.Cut()
				}
				for _, bus := range buses {
					bus.Heal()
				}
			},
		}
	})
}

// A miniredis has no INFO replication, so herald cannot notice its restart.
func TestHistoryOnMiniredis(t *testing.T) {
	heraldtest.TestHistory(t, func(t testing.TB) heraldtest.HistoryNetwork {
		server := miniredis.NewMiniRedis()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		return heraldtest.HistoryNetwork{
			Config: func() herald.Config {
				rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
				t.Cleanup(func() { rdb.Close() })
				return herald.Config{Redis: rdb}
			},
			Interrupt: func() {
				server.Close()
				if err := server.Restart(); err != nil {
					t.Fatal(err)
				}
			},
			Lose: server.FlushAll,
		}
	})
}

func TestHistoryOnRedis(t *testing.T) {
	server := redistest.Start(t)
	onRedis(t, func(testing.TB) redis.UniversalClient { return server.Client() }, func() []*redis.Client { return []*redis.Client{server.Client()} })
}

func TestHistoryOnSentinel(t *testing.T) {
	set := redistest.StartSentinels(t)
	onRedis(t, func(testing.TB) redis.UniversalClient { return set.Client() }, func() []*redis.Client { return []*redis.Client{set.Master().Client()} })
}

// onRedis runs the whole suite on a Redis. Each subtest has a Prefix of its own,
// unless its fault concerns the whole server.
func onRedis(t *testing.T, client func(testing.TB) redis.UniversalClient, masters func() []*redis.Client) {
	var prefixes atomic.Int64
	heraldtest.TestHistory(t, func(t testing.TB) heraldtest.HistoryNetwork {
		prefix := "suite" + strconv.FormatInt(prefixes.Add(1), 10)
		admins := masters()
		do := func(args ...any) {
			t.Helper()
			for _, admin := range admins {
				if err := admin.Do(context.Background(), args...).Err(); err != nil {
					t.Fatalf("%v: %v", args, err)
				}
			}
		}
		return heraldtest.HistoryNetwork{
			Config: func() herald.Config { return herald.Config{Redis: client(t), Prefix: prefix} },
			Interrupt: func() {
				do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
				do("CLIENT", "KILL", "TYPE", "pubsub")
			},
			Refuse: func() (allow func()) {
				do("CONFIG", "SET", "maxmemory", "1")
				return func() { do("CONFIG", "SET", "maxmemory", "0") }
			},
			Lose: func() { do("FLUSHALL") },
		}
	})
}

func TestHistoryOnCluster(t *testing.T) {
	set := redistest.StartCluster(t, 3, 0)
	onRedis(t, func(testing.TB) redis.UniversalClient { return set.Client() }, func() (masters []*redis.Client) {
		for _, n := range set.Nodes {
			masters = append(masters, n.Admin())
		}
		return masters
	})
}
