package redisregistry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Change is herald.Change.
type Change struct {
	Topic   string
	Number  int64
	Session Session // of one who left it has the ID alone
	Left    bool
}

// Watched is herald.Watched.
type Watched struct {
	Number   int64
	Sessions []Session
}

// Watch implements herald.WatchRegistry.Watch: one script for each topic.
func (r *Registry) Watch(ctx context.Context, lease Lease, ttl time.Duration, topics ...string) ([]Watched, error) {
	topics = slices.Clone(topics)
	lasts := max(min(ttl, keyLasts).Milliseconds(), 1)
	return call(ctx, r, "watch", func(store shardStore) ([]Watched, error) {
		all := make([]Watched, 0, len(topics))
		for batch := range slices.Chunk(topics, maxBatch) {
			some, err := r.watch(ctx, store, lease, lasts, batch)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
		return all, nil
	})
}

// watch is one round trip of Watch.
func (r *Registry) watch(ctx context.Context, store shardStore, lease Lease, lasts int64, topics []string) ([]Watched, error) {
	look := newLook(r, store)
	replies := make([]*redis.Cmd, len(topics))
	for i, topic := range topics {
		s := r.shardOf(topic)
		keys := []string{r.shards[s].watchedKey(), r.shards[s].markKey(topic), r.shards[s].topicKey(topic)}
		replies[i] = look.pipe.on(s).EvalSha(ctx, watchScript.sha, keys, lasts)
	}
	// Last, so that the leases of all sessions that the scripts return are seen.
	for _, topic := range topics {
		look.at(ctx, r.shardOf(topic))
	}
	if _, err := look.exec(ctx); err != nil {
		return nil, err
	}
	all := make([]Watched, len(topics))
	hashes := make([]map[string]string, len(topics))
	for i, reply := range replies {
		var odd int64
		var err error
		if all[i].Number, hashes[i], odd, err = decodeWatched(reply); err != nil {
			return nil, err
		}
		r.strays.note(int(odd), r.shards[r.shardOf(topics[i])].markKey(topics[i]))
	}
	sessions, err := r.living(ctx, store, look, lease, topics, hashes)
	for i := range sessions {
		all[i].Sessions = sessions[i]
	}
	return all, err
}

// decodeWatched decodes the answer of watch.lua.
func decodeWatched(reply *redis.Cmd) (number int64, hash map[string]string, odd int64, err error) {
	if err := watchScript.check(reply); err != nil {
		return 0, nil, 0, err
	}
	parts, err := reply.Slice()
	if err != nil {
		return 0, nil, 0, err
	}
	if len(parts) != 3 {
		return 0, nil, 0, fmt.Errorf("answer of %d parts", len(parts))
	}
	text, _ := parts[0].(string)
	if number, err = strconv.ParseInt(text, 10, 64); err != nil {
		return 0, nil, 0, err
	}
	fields, _ := parts[1].([]any)
	hash = make(map[string]string, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		id, _ := fields[i].(string)
		value, _ := fields[i+1].(string)
		hash[id] = value
	}
	odd, _ = parts[2].(int64)
	return number, hash, odd, nil
}

// changes are those that calls of this Registry have made and Changes has not
// returned yet.
type changes struct {
	mu   sync.Mutex
	list []Change
}

// MaxChanges is how many changes wait for Changes at most. More are lost, and
// watchers notice the hole.
const MaxChanges = 1 << 14

// Changes implements herald.WatchRegistry.Changes.
func (r *Registry) Changes() []Change {
	r.made.mu.Lock()
	defer r.made.mu.Unlock()
	list := r.made.list
	r.made.list = nil
	return list
}

// noteAdded notes the changes in the answers of add.lua.
func (c *changes) noteAdded(calls []scriptCall, replies []*redis.Cmd) {
	for i, reply := range replies {
		parts, _ := reply.Val().([]any)
		if len(parts) != 6 {
			continue
		}
		text, _ := parts[0].(string)
		since, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue
		}
		made, _ := parts[5].([]any)
		c.note(calls[i], made, func(change *Change) {
			change.Session = calls[i].session
			change.Session.Since = time.UnixMicro(since)
		})
	}
}

// noteRemoved notes the changes in the answers of remove.lua and sweep.lua.
func (c *changes) noteRemoved(calls []scriptCall, replies []*redis.Cmd) {
	for i, reply := range replies {
		made, _ := reply.Val().([]any)
		c.note(calls[i], made, func(change *Change) { change.Left = true })
	}
}

// note notes changes in the form in which scripts answer them.
func (c *changes) note(call scriptCall, made []any, complete func(*Change)) {
	for i := 0; i+1 < len(made); i += 2 {
		at, _ := made[i].(int64)
		text, _ := made[i+1].(string)
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil || at < 1 || at > int64(len(call.places)) {
			continue
		}
		p := call.places[at-1]
		change := Change{Topic: p.Topic, Number: number, Session: Session{ID: p.ID}}
		complete(&change)
		c.mu.Lock()
		if len(c.list) < MaxChanges {
			c.list = append(c.list, change)
		}
		c.mu.Unlock()
	}
}
