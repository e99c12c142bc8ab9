package main

import (
	"fmt"
	"slices"
)

// longLatency is how many messages of a round -latency sends, 1,000 a second. In the
// full run there are too few for the 99.9th percentile to tell contestants apart.
const longLatency = 20_000

// latencies compares how long messages take that come one by one.
func latencies(rounds int, only string) error {
	kinds, err := choose(only, contestants)
	if err != nil {
		return err
	}
	kinds = installed(kinds)
	seen, err := inTurns(kinds, rounds, false, func(kind string, size sizes, redis *redisServer) (figures, error) {
		r := &round{kind: kind, sizes: size, redis: redis, seen: make(figures)}
		defer r.close()
		if err := r.open(r.count(), false); err != nil {
			return nil, err
		}
		err := r.latency("latency", longLatency, 1000)
		return r.seen, err
	})
	if err != nil {
		return err
	}
	fmt.Print(table(compare(medians(seen), slices.Contains(kinds, "herald"))))
	return nil
}
