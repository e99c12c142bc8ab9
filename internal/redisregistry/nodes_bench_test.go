package redisregistry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// BenchmarkNodes measures the list of nodes, which each node asks for every third
// of a lease.
func BenchmarkNodes(b *testing.B) {
	server := redistest.Start(b)
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint("nodes=", n), func(b *testing.B) {
			rdb := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer rdb.Close()
			if err := rdb.FlushAll(b.Context()).Err(); err != nil {
				b.Fatal(err)
			}
			r, err := herald.NewRedisRegistry(rdb, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			for i := range n {
				if _, err := r.KeepAlive(b.Context(), herald.Node{ID: fmt.Sprint("node-", i)}, time.Hour); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			own, others := servertest.OwnCPUTime(b), servertest.CPUTime(b, server.PID())
			for range b.N {
				if nodes, _, err := r.Nodes(b.Context()); err != nil || len(nodes) != n {
					b.Fatal(len(nodes), err)
				}
			}
			b.ReportMetric(float64((servertest.OwnCPUTime(b)-own).Microseconds())/float64(b.N), "node-cpu-µs/op")
			b.ReportMetric(float64((servertest.CPUTime(b, server.PID())-others).Microseconds())/float64(b.N), "redis-cpu-µs/op")
		})
	}
}
