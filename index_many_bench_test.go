package herald

import (
	"fmt"
	"testing"
	"time"
)

// A Conn that belongs to many groups, each with another Conn: what joining,
// leaving and going cost each, and for how long others wait for the index.
func BenchmarkManyGroups(b *testing.B) {
	conns := benchHub(b).users(b, 2)
	for _, n := range []int{1, 10, 100, 1_000, 50_000} {
		groups := make([]string, n)
		for i := range groups {
			groups[i] = fmt.Sprint("group ", i)
		}
		b.Run(fmt.Sprint("groups=", n), func(b *testing.B) {
			x := newIndex()
			x.add(conns[1], 0, 0)
			x.joinGroups(conns[1], groups, 0)
			stop, waited := make(chan struct{}), make(chan time.Duration)
			go func() {
				var worst time.Duration
				var found []*Conn
				for {
					select {
					case <-stop:
						waited <- worst
						return
					default:
					}
					begun := time.Now()
					found = x.appendConns(found[:0], topicEveryone)
					worst = max(worst, time.Since(begun))
					time.Sleep(100 * time.Microsecond)
				}
			}()
			for b.Loop() {
				x.add(conns[0], 0, 0)
				x.joinGroups(conns[0], groups, 0)
				x.remove(conns[0])
			}
			close(stop)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/group")
			b.ReportMetric(float64((<-waited).Microseconds()), "us-waited")
		})
	}
}
