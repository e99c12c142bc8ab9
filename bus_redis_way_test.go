package herald

import (
	"fmt"
	"testing"
)

func TestMovedTo(t *testing.T) {
	for _, test := range []struct{ said, from, want string }{
		{"MOVED 1 10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"},
		{"MOVED 1 ::1:6379", "[::1]:6378", "[::1]:6379"},
		{"MOVED 1 node-2:6379", "10.0.0.1:6379", "node-2:6379"},
		{"MOVED 1 :6379", "10.0.0.1:6378", "10.0.0.1:6379"},
		{"MOVED 1 ?:6379", "10.0.0.1:6378", "10.0.0.1:6379"},
		{"MOVED 1 10.0.0.2:0", "10.0.0.1:6379", "10.0.0.2:6379"},
		{"MOVED 1 127.0.0.1:6379", "10.0.0.1:6378", "10.0.0.1:6379"},
		{"MOVED 1 127.0.0.1:6379", "127.0.0.1:6378", "127.0.0.1:6379"},
		{"MOVED 1 127.0.0.1:6379", "", "127.0.0.1:6379"},
		{"MOVED 1", "10.0.0.1:6379", ""},
		{"MOVED 1 nowhere", "10.0.0.1:6379", ""},
		{"ASK 1 10.0.0.2:6379", "10.0.0.1:6379", ""},
		{"CLUSTERDOWN The cluster is down", "10.0.0.1:6379", ""},
	} {
		if got := movedTo(test.said, test.from); got != test.want {
			t.Errorf("%q from %s: got %q, want %q", test.said, test.from, got, test.want)
		}
	}
}

// The topics of many users, and of few, spread over the partitions.
func TestShardOfSpreads(t *testing.T) {
	const n = 16_000
	for _, format := range []string{"u%d", "u%08d", "guser-%x", "u%d@example.com"} {
		var counts [16]int
		for i := range n {
			counts[shardOf(fmt.Sprintf(format, i), len(counts))]++
		}
		for shard, count := range counts {
			if count < n/16/2 || count > n/16*2 {
				t.Errorf("%q: %d of %d topics in partition %d", format, count, n, shard)
			}
		}
	}
	if got := testing.AllocsPerRun(100, func() { shardOf("a topic of some length, longer than what fits on the stack", 16) }); got > 0 {
		t.Errorf("%v allocations", got)
	}
}
