package redisbus_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A restart of Redis is one gap, however long it takes to subscribe to all topics
// again. A link that is still being set up is not taken for deaf.
func TestRedisBusManyTopicsRestart(t *testing.T) {
	server := redistest.Start(t)
	topics := make([]string, 18_000)
	for i := range topics {
		topics[i] = fmt.Sprint("topic", i)
	}
	var all []*bustest.Recorder
	for range 3 {
		bus := openRedis(t, server.Addr, 0, quick)
		if err := bus.Subscribe(t.Context(), topics...); err != nil {
			t.Fatal(err)
		}
		all = append(all, bustest.Record(t, bus))
	}
	server.Kill()
	server.Restart()
	for _, r := range all {
		r.Await("the end of the gap", func() bool { return len(r.Gaps()) > 0 && r.Healthy() })
	}
	// Probes that were published while the links were set up could still time out.
	probes := 0
	probe := server.Client().PSubscribe(t.Context(), "herald:{0}!*")
	defer probe.Close()
	for range probe.Channel() {
		if probes++; probes == 100 {
			break
		}
	}
	for i, r := range all {
		for _, gap := range r.Gaps() {
			if strings.Contains(gap.Err.Error(), "did not hand it over") {
				t.Errorf("Bus %d dropped a healthy link: %v", i, gap.Err)
			}
		}
	}
}
