package resumetest_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// BenchmarkResume measures what it costs when a client comes back that has missed
// many messages of 128 bytes: the CPU time of this process, which has the node and
// the client, that of Redis, and the number of scripts that Redis runs.
func BenchmarkResume(b *testing.B) {
	for _, missed := range []int{20, 200, 2000} {
		b.Run(fmt.Sprint(missed), func(b *testing.B) {
			rdb := redistest.Start(b).Client()
			n := newNode(b, herald.Config{Redis: rdb})
			from, err := n.Position(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			var senders sync.WaitGroup
			for i := range 20 {
				senders.Go(func() {
					for range missed / 20 {
						if err := n.Send(b.Context(), herald.User("a"), herald.Text(strings.Repeat(fmt.Sprint(i%10), 128))); err != nil {
							b.Error(err)
						}
					}
				})
			}
			senders.Wait()
			redisCPU, scripts := spent(b, rdb)
			own := servertest.OwnCPUTime(b)
			for b.Loop() {
				d := newDevice(b, n, "user=a", from)
				for got := 0; got < missed; {
					if _, ok := d.next().(heraldclient.Message); ok {
						got++
					}
				}
				d.Close()
			}
			per := func(v float64) float64 { return v / float64(b.N) }
			own = servertest.OwnCPUTime(b) - own
			cpu, ran := spent(b, rdb)
			b.ReportMetric(per(float64(own.Microseconds())), "µs-cpu/resume")
			b.ReportMetric(per((cpu-redisCPU)*1e6), "redis-µs/resume")
			b.ReportMetric(per(ran-scripts), "scripts/resume")
		})
	}
}

// spent returns the CPU time of Redis in seconds, and the number of scripts that it
// has run.
func spent(b *testing.B, rdb *redis.Client) (cpu, scripts float64) {
	b.Helper()
	text, err := rdb.InfoMap(b.Context(), "cpu", "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	number := func(text string) (n float64) {
		if _, err := fmt.Sscan(text, &n); err != nil {
			b.Fatal(err)
		}
		return n
	}
	_, calls, _ := strings.Cut(text["Commandstats"]["cmdstat_evalsha"], "calls=")
	calls, _, _ = strings.Cut(calls, ",")
	return number(text["CPU"]["used_cpu_user"]) + number(text["CPU"]["used_cpu_sys"]), number(calls)
}
