package redisregistry

import (
	"context"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// strays count what a Registry has met under its prefix that herald cannot have
// written: keys of the wrong type, which it deleted, and values that it cannot read,
// which it skipped. What is met again counts again.
type strays struct {
	mu   sync.Mutex
	n    uint64
	last string // the key of the last one
}

func (s *strays) note(n int, key string) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += uint64(n)
	s.last = key[:min(len(key), 128)]
}

// Unreadable returns how often a stray was met, and in which key the last.
func (r *Registry) Unreadable() (n uint64, last string) {
	r.strays.mu.Lock()
	defer r.strays.mu.Unlock()
	return r.strays.n, r.strays.last
}

// NoteStray counts a Session, under a topic, whose Body its owner cannot read.
func (r *Registry) NoteStray(topic string) {
	r.strays.note(1, r.shards[r.shardOf(topic)].topicKey(topic))
}

// A mendingStore deletes keys of the wrong type when commands meet them, and runs
// these commands again. All keys under a Registry's prefix are its own. What it had
// under such a key is put back like anything else that Redis has lost.
type mendingStore struct {
	shardStore
	strays *strays
}

// mendAttempts is how often commands are run again: the key may be spoilt anew.
const mendAttempts = 3

func (s mendingStore) exec(ctx context.Context, pipes []redis.Pipeliner) (servers []string) {
	servers = s.shardStore.exec(ctx, pipes)
	for range mendAttempts {
		again := s.spoilt(pipes)
		if again == nil {
			break
		}
		s.mend(ctx, again)
		for _, pipe := range again {
			if pipe != nil {
				markUnanswered(pipe.Cmds())
			}
		}
		for shard, server := range s.shardStore.exec(ctx, again) {
			if again[shard] != nil {
				servers[shard] = server
			}
		}
	}
	return servers
}

// spoilt returns the commands that have met a key of the wrong type, by shard,
// or nil.
func (s mendingStore) spoilt(pipes []redis.Pipeliner) (again []redis.Pipeliner) {
	for shard, pipe := range pipes {
		if pipe == nil {
			continue
		}
		for _, cmd := range pipe.Cmds() {
			if !redisconn.IsWrongType(cmd.Err()) || len(keysOf(cmd)) == 0 {
				continue
			}
			if again == nil {
				again = make([]redis.Pipeliner, len(pipes))
			}
			if again[shard] == nil {
				again[shard] = s.Pipeline()
			}
			again[shard].BatchProcess(context.Background(), cmd) // does no I/O
		}
	}
	return again
}

// mend deletes the keys of the wrong type that the commands have met. What fails here
// fails again when they are run.
func (s mendingStore) mend(ctx context.Context, spoilt []redis.Pipeliner) {
	mending := make([]redis.Pipeliner, len(spoilt))
	for shard, pipe := range spoilt {
		if pipe == nil {
			continue
		}
		mending[shard] = s.Pipeline()
		for _, cmd := range pipe.Cmds() {
			keys := keysOf(cmd)
			types := make([]any, len(keys))
			for i, key := range keys {
				types[i] = typeOf(key)
			}
			mending[shard].EvalSha(ctx, mendScript.sha, keys, types...)
		}
		markUnanswered(mending[shard].Cmds())
	}
	s.shardStore.exec(ctx, mending)
	for _, pipe := range mending {
		if pipe == nil {
			continue
		}
		for _, cmd := range pipe.Cmds() {
			mended, _ := cmd.(*redis.Cmd).StringSlice()
			for _, key := range mended {
				s.strays.note(1, key)
			}
		}
	}
}

// keysOf returns the keys of a command that a Registry sends. Some commands have
// none, even if a hostile server says that their key is of the wrong type.
func keysOf(cmd redis.Cmder) []string {
	var keys []any
	switch cmd.Name() {
	case "time", "info":
	case "eval", "evalsha":
		keys = cmd.Args()[3 : 3+cmd.Args()[2].(int)]
	default:
		keys = cmd.Args()[1:2]
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.(string)
	}
	return names
}

// typeOf returns the type that Redis gives a key of a shard.
func typeOf(key string) string {
	_, name, _ := strings.Cut(key, "}:")
	switch name, _, _ = strings.Cut(name, ":"); name {
	case "gone":
		return "zset"
	case "clock", "generation", "shards", "watched", "w":
		return "string"
	case "i":
		return "set"
	}
	return "hash"
}
