package driver_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/driver"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/memlog"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// The promise of TestRandom holds on real servers, in real time.
func TestRandomOnRedis(t *testing.T) {
	w := &world{t: t, length: 4 * time.Second, hasty: true}
	// A command whose answer was lost is not repeated.
	connect := func(addr string) *redis.Client {
		rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
		t.Cleanup(func() { rdb.Close() })
		return rdb
	}
	var servers [partitions]*redis.Client
	for i := range servers {
		servers[i] = connect(redistest.Start(t, "--enable-debug-command", "yes").Addr)
	}
	limits := store.Limits{Segment: 16, Age: 4_000, Bytes: 1 << 20}
	for n := range w.hubs {
		w.hubs[n] = newHubOn(t, func(partition int, push func(driver.Event)) link {
			return newRedisLink(connect(servers[partition].Options().Addr), n, limits, push)
		}, nil)
	}
	w.running.Store(true)
	w.run(time.Second, w.mild, func() { w.roughRedis(servers) })
	had, tolds := 0, 0
	for _, p := range w.phones {
		had, tolds = had+len(p.had), tolds+p.tolds
	}
	t.Logf("%d messages sent, %d received, %d times told", len(w.sent), had, tolds)
	if had == 0 {
		t.Error("that proves nothing")
	}
}

// roughRedis makes everything go wrong.
func (w *world) roughRedis(servers [partitions]*redis.Client) {
	ctx := context.Background()
	for w.running.Load() {
		someTime(400 * time.Millisecond)
		rdb := servers[rand.IntN(partitions)]
		l := w.hubs[rand.IntN(hubs)].links[rand.IntN(partitions)]
		do := func(args ...any) {
			if err := rdb.Do(ctx, args...).Err(); err != nil {
				w.t.Error(err)
			}
		}
		switch rand.IntN(10) {
		case 0: // as if the server had been away
			do("DEBUG", "CHANGE-REPL-ID")
			do("CLIENT", "KILL", "TYPE", "pubsub")
		case 1:
			do("FLUSHALL")
		case 2:
			do("DEL", "k:t")
		case 3:
			do("DEL", "k:s:0", "k:s:1")
		case 4:
			l.Deafen()
			someTime(time.Second)
			l.Cut(0)
		case 5:
			do("CONFIG", "SET", "maxmemory", "1")
			someTime(time.Second)
			do("CONFIG", "SET", "maxmemory", "0")
		case 6:
			l.Break(memlog.Faults{Forget: true})
			someTime(500 * time.Millisecond)
			l.Break(memlog.Faults{Delay: rand.N(time.Second) + 1})
		case 7:
			// Nothing depends on this Forget, so its error does not matter.
			_ = l.(*redisLink).Forget(ctx, history.Point{}, topics[:1])
		case 8:
			do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		default:
			l.Break(memlog.Faults{})
		}
	}
}
