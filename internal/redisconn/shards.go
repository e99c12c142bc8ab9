package redisconn

import (
	"hash/fnv"
	"strconv"
)

// Tags are the hash tags of the shards of the Registry, and of the partitions of
// the Bus, on a Cluster. One of their slots lies in the middle of each sixteenth of
// all slots, so that masters that share the slots evenly share the shards evenly.
// Nodes must agree on Tags and on ShardOf.
var Tags = []string{"0", "66", "48", "18", "3", "65", "140", "19", "2", "64", "141", "106", "1", "67", "49", "107"}

// ShardOf returns which of n shards or partitions a topic belongs to.
func ShardOf(topic string, n int) int {
	if n == 1 {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(topic))
	return int(h.Sum32() % uint32(n))
}

// AgreedNumber returns the number that value says nodes have agreed on, or 0 if no
// node can have written it.
func AgreedNumber(value string) int {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
