package watchtest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// BenchmarkChange measures what it costs Redis, in CPU time and commands, if a user of
// five groups comes and goes while no group is watched, another group is, or one of the
// five is.
//
//	go test -run '^$' -bench Change -benchtime 5000x ./internal/test/watchtest
func BenchmarkChange(b *testing.B) {
	for _, watched := range []string{"nothing", "another", "g1"} {
		b.Run("watched="+watched, func(b *testing.B) {
			server := redistest.Start(b)
			rdb := server.Client()
			r, err := herald.NewRedisRegistry(rdb, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			ctx := b.Context()
			generation, err := r.KeepAlive(ctx, herald.Node{ID: "n"}, time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			lease := herald.Lease{Node: "n", Generation: generation}
			if watched != "nothing" {
				if _, err := r.Watch(ctx, lease, time.Hour, watched); err != nil {
					b.Fatal(err)
				}
			}
			e := herald.Entry{Session: herald.Session{ID: "n.1", User: "42"}, UserTopic: "u42", Topics: []string{"g1", "g2", "g3", "g4", "g5"}}
			cpu, commands := redisCost(b, rdb)
			for b.Loop() {
				if _, err := r.Add(ctx, lease, e); err != nil {
					b.Fatal(err)
				}
				if err := r.Remove(ctx, lease, e); err != nil {
					b.Fatal(err)
				}
			}
			cpuAfter, commandsAfter := redisCost(b, rdb)
			b.ReportMetric(float64((cpuAfter-cpu).Nanoseconds())/1e3/float64(b.N), "redis-µs/op")
			b.ReportMetric((commandsAfter-commands)/float64(b.N), "commands/op")
		})
	}
}

// redisCost returns the CPU time that the server has used, and the number of
// commands that it has run.
func redisCost(b *testing.B, rdb *redis.Client) (cpu time.Duration, commands float64) {
	b.Helper()
	text, err := rdb.Info(b.Context(), "cpu", "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "used_cpu_user", name == "used_cpu_sys":
			seconds, _ := strconv.ParseFloat(value, 64)
			cpu += time.Duration(seconds * float64(time.Second))
		case strings.HasPrefix(name, "cmdstat_"):
			var calls float64
			fmt.Sscanf(value, "calls=%g", &calls)
			commands += calls
		}
	}
	return cpu, commands
}
