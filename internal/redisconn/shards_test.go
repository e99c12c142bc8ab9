package redisconn

import (
	"fmt"
	"testing"
)

// The topics of many users, and of few, spread over the partitions.
func TestShardOfSpreads(t *testing.T) {
	const n = 16_000
	for _, format := range []string{"u%d", "u%08d", "guser-%x", "u%d@example.com"} {
		var counts [16]int
		for i := range n {
			counts[ShardOf(fmt.Sprintf(format, i), len(counts))]++
		}
		for shard, count := range counts {
			if count < n/16/2 || count > n/16*2 {
				t.Errorf("%q: %d of %d topics in partition %d", format, count, n, shard)
			}
		}
	}
	if got := testing.AllocsPerRun(100, func() { ShardOf("a topic of some length, longer than what fits on the stack", 16) }); got > 0 {
		t.Errorf("%v allocations", got)
	}
}
