package redisregistry

import (
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
)

// sightings are what this process has seen of leases: which renewal was the last, and
// when that was by the monotonic clock of this process. So a lease runs out if nobody
// has renewed it for its TTL, even if the clocks of servers step.
type sightings struct {
	mu     sync.Mutex
	shards []shardSightings
}

// shardSightings are those of one shard.
type shardSightings struct {
	asked int64 // on clock: when the last look was
	seen  map[Lease]renewal
}

// A renewal is the last one of a lease in one shard.
type renewal struct {
	renewed time.Time // the stamp, by the server's clock
	at      int64     // on clock: when that was, as far as we know
	first   int64     // on clock: when the stamp was first seen
	ttl     time.Duration
	record  string
}

func newSightings(shards int) *sightings {
	return &sightings{shards: make([]shardSightings, shards)}
}

// look notes the lease records of a shard, by node. now is the server's time, and
// asked is when it was asked, on clock. A slow answer makes no lease older.
func (s *sightings) look(shard int, records map[string]string, now time.Time, asked int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, answered := s.shards[shard], clock.Now()
	if asked < before.asked { // a later look came first
		return
	}
	seen := make(map[Lease]renewal, len(records))
	for id, record := range records {
		n := decodeNode(id, record)
		if n.Err != nil {
			continue
		}
		age := now.Sub(n.Renewed)
		old, known := before.seen[n.lease()]
		v := renewal{record: record, renewed: n.Renewed, ttl: n.TTL, at: answered - int64(min(age, n.TTL)), first: answered}
		switch {
		case known && old.record == record:
			v.at, v.first = old.at, old.first
		case known: // renewed since the last look, whatever the stamp says
			v.at = min(max(v.at, before.asked), answered)
		case age < 0: // a stamp from the future does not count as a renewal
			v.at = answered - int64(n.TTL)
		}
		seen[n.lease()] = v
	}
	s.shards[shard] = shardSightings{asked, seen}
}

// in returns what was last seen of a lease in a shard.
func (s *sightings) in(shard int, l Lease) (renewal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.shards[shard].seen[l]
	return v, ok
}

// alive reports whether the lease has been renewed, in any shard, for less than
// its TTL: a node that cannot renew in one shard lives all the same.
func (s *sightings) alive(l Lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock.Now()
	for _, shard := range s.shards {
		if v, ok := shard.seen[l]; ok && now-v.at < int64(v.ttl) {
			return true
		}
	}
	return false
}

// silent reports whether the lease may be swept: it is not alive, and if its stamp is
// from the future, and so says nothing about that, it has been watched for its TTL.
// now is the time of each shard's server.
func (s *sightings) silent(l Lease, now []time.Time) bool {
	if s.alive(l) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := clock.Now()
	for i, shard := range s.shards {
		if v, ok := shard.seen[l]; ok && v.renewed.After(now[i]) && at-v.first < int64(v.ttl) {
			return false
		}
	}
	return true
}
