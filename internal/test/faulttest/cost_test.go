package faulttest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// These benchmarks measure what presence costs Redis, by its own figures:
//
//	go test -run '^$' -bench Cost ./internal/test/faulttest

// idleWindow is how long idle connections are watched: several leases.
const idleWindow = 30 * time.Second

func BenchmarkCostIdle(b *testing.B) {
	for _, c := range []struct {
		name        string
		nodes, each int
		user        func(node, i int) string
	}{
		{"10 nodes with 100 of one user", 10, 100, func(int, int) string { return "one" }},
		{"10 nodes with 100 users of one each", 10, 100, func(node, i int) string { return fmt.Sprint(node, ".", i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			server := redistest.Start(b)
			rdb := server.Client()
			nodes := startNodes(b, single(server), c.nodes, defaults)
			for node, n := range nodes {
				users := make([]string, c.each)
				for i := range users {
					users[i] = c.user(node, i)
				}
				n.crowd(users, nil)
			}
			before := redisCPU(b, rdb)
			for b.Loop() {
				<-time.After(idleWindow)
			}
			used := redisCPU(b, rdb) - before
			b.ReportMetric(100*used.Seconds()/b.Elapsed().Seconds(), "%core")
		})
	}
}

// defaults are a Hub's own settings. Those of this package are shorter.
var defaults = herald.Config{Lease: 15 * time.Second, ProbeInterval: time.Second, OfflineDelay: 5 * time.Second, HandshakeRate: -1}

func BenchmarkCostAdd(b *testing.B) {
	for _, admit := range []bool{false, true} {
		for _, sessions := range []int{1, 100, 1_000} {
			b.Run(fmt.Sprintf("admit=%v/sessions=%d", admit, sessions), func(b *testing.B) {
				config := defaults
				if admit {
					config.Admit = herald.MaxPerUser(2_000)
				}
				server := redistest.Start(b, "--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000")
				rdb := server.Client()
				nodes := startNodes(b, single(server), 2, config)
				nodes[0].crowd(slices.Repeat([]string{"guest"}, sessions), nil)
				var costs []time.Duration
				for b.Loop() {
					costs = append(costs, handshakeCost(b, rdb, nodes[1], "guest"))
				}
				slices.Sort(costs)
				b.ReportMetric(float64(costs[len(costs)/2].Microseconds()), "µs/add")
			})
		}
	}
}

// handshakeCost connects a user once more and closes that connection. It returns
// how long Redis worked for the connecting.
func handshakeCost(b *testing.B, rdb *redis.Client, n *node, user string) (sum time.Duration) {
	b.Helper()
	if err := rdb.Do(b.Context(), "SLOWLOG", "RESET").Err(); err != nil {
		b.Fatal(err)
	}
	c, err := n.handshake(user, http.Header{"Platform": {deaf}})
	if err != nil {
		b.Fatal(err)
	}
	log, err := rdb.SlowLogGet(b.Context(), -1).Result()
	if err != nil {
		b.Fatal(err)
	}
	for _, command := range log {
		isScript := strings.HasPrefix(strings.ToUpper(command.Args[0]), "EVAL")
		if isScript && slices.ContainsFunc(command.Args, func(arg string) bool { return strings.HasSuffix(arg, user) }) {
			sum += command.Duration
		}
	}
	c.close()
	await(b, "the end", func() error {
		if n.has(user) > 0 {
			return fmt.Errorf("%d connections", n.has(user))
		}
		return nil
	})
	return sum
}

func BenchmarkCostOnline(b *testing.B) {
	for _, users := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			server := redistest.Start(b)
			rdb := server.Client()
			n := startNodes(b, single(server), 1, defaults)[0]
			who := names("user", users)
			n.crowd(who, nil)
			b.ReportAllocs()
			before := redisCPU(b, rdb)
			for b.Loop() {
				if err := n.allOnline(true, who...); err != nil {
					b.Fatal(err)
				}
			}
			cpu := redisCPU(b, rdb) - before
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "redis-µs/op")
		})
	}
}

// redisCPU returns the CPU time that the server has used.
func redisCPU(t testing.TB, rdb *redis.Client) time.Duration {
	t.Helper()
	seconds := infoNumber(t, rdb, "cpu", "used_cpu_user") + infoNumber(t, rdb, "cpu", "used_cpu_sys")
	return time.Duration(seconds * float64(time.Second))
}
