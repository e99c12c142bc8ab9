package herald

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Add implements [Registry.Add]: one script for each shard of an Entry, in
// pipelines. The Node of a Session is the lease's.
func (r *RedisRegistry) Add(ctx context.Context, lease Lease, entries ...Entry) ([]Added, error) {
	plan := r.planAdd(lease, entries)
	return redisCall(ctx, r, "add", func(store redisStore) ([]Added, error) {
		replies, err := runScript(ctx, store, addScript, plan.now)
		if err != nil {
			return nil, err
		}
		added := make([]Added, len(entries))
		for i, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return nil, ErrLeaseLost
			}
			if i >= len(entries) { // of a further shard
				continue
			}
			if added[i], err = decodeAdded(reply); err != nil {
				return nil, err
			}
		}
		for i, call := range plan.then {
			call.args[addSince] = added[plan.of[i]].Since.UnixMicro()
		}
		replies, err = runScript(ctx, store, addScript, plan.then)
		if err != nil {
			return nil, err
		}
		for _, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return nil, ErrLeaseLost
			}
		}
		return added, nil
	})
}

// An addPlan is what Add runs. The first calls of now are those of each
// Entry's first shard, which answer for it.
type addPlan struct {
	now  []scriptCall
	then []scriptCall // in further shards, with the Since that the first gave
	of   []int        // by index of then: the Entry
}

// addSince is the place of Since in the arguments of add.lua.
const addSince = 3

func (r *RedisRegistry) planAdd(lease Lease, entries []Entry) addPlan {
	plan := addPlan{now: make([]scriptCall, len(entries))}
	for i, e := range entries {
		s := e.Session
		s.Node = lease.Node
		since := ""
		if !s.Since.IsZero() {
			since = strconv.FormatInt(s.Since.UnixMicro(), 10)
		}
		body := encodeBody(s)
		for n, part := range r.parts(e) {
			shard := r.shards[part.shard]
			isUser := n == 0 && e.UserTopic != ""
			call := scriptCall{
				shard: part.shard,
				keys:  []string{shard.nodesKey(), shard.indexKey(lease), shard.goneKey()},
				args:  []any{lease.Node, lease.Generation, s.ID, since, s.User, body, isUser},
			}
			for _, p := range part.places {
				call.keys = append(call.keys, shard.topicKey(p.topic))
				call.args = append(call.args, p.member())
			}
			switch {
			case n == 0:
				plan.now[i] = call
			case since != "":
				plan.now = append(plan.now, call)
			default:
				plan.then = append(plan.then, call)
				plan.of = append(plan.of, i)
			}
		}
	}
	return plan
}

// A part of an Entry is what lies in one shard.
type part struct {
	shard  int
	places []place
}

// parts returns the parts of an Entry, that of the user's topic first, with
// that topic first. An Entry without topics has one all the same.
func (r *RedisRegistry) parts(e Entry) []part {
	places := e.places()
	if len(places) == 0 {
		return []part{{}}
	}
	if len(r.shards) == 1 {
		return []part{{places: places}}
	}
	var parts []part
	for _, p := range places {
		shard := r.shardOf(p.topic)
		i := slices.IndexFunc(parts, func(p part) bool { return p.shard == shard })
		if i < 0 {
			i = len(parts)
			parts = append(parts, part{shard: shard})
		}
		parts[i].places = append(parts[i].places, p)
	}
	return parts
}

// decodeAdded decodes the answer of add.lua.
func decodeAdded(reply *redis.Cmd) (Added, error) {
	parts, err := reply.Slice()
	if err != nil {
		return Added{}, err
	}
	if len(parts) != 3 {
		return Added{}, fmt.Errorf("answer of %d parts", len(parts))
	}
	text, _ := parts[0].(string)
	since, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return Added{}, err
	}
	a := Added{Since: time.UnixMicro(since), Online: parts[1] == "1"}
	older, _ := parts[2].([]any)
	for i := 0; i+1 < len(older); i += 2 {
		id, _ := older[i].(string)
		value, _ := older[i+1].(string)
		if s, _, ok := decodeValue(id, value); ok {
			a.Older = append(a.Older, s)
		}
	}
	slices.SortFunc(a.Older, compareSessions)
	return a, nil
}

// Remove implements [Registry.Remove].
func (r *RedisRegistry) Remove(ctx context.Context, lease Lease, entries ...Entry) error {
	var calls []scriptCall
	for _, e := range entries {
		for n, part := range r.parts(e) {
			shard := r.shards[part.shard]
			isUser := n == 0 && e.UserTopic != ""
			call := scriptCall{
				shard: part.shard,
				keys:  []string{shard.goneKey(), shard.indexKey(lease)},
				args:  []any{string(shard) + "i:", e.Session.ID, isUser},
			}
			for _, p := range part.places {
				call.keys = append(call.keys, shard.topicKey(p.topic))
				call.args = append(call.args, p.member())
			}
			calls = append(calls, call)
		}
	}
	_, err := redisCall(ctx, r, "remove", func(store redisStore) ([]*redis.Cmd, error) {
		return runScript(ctx, store, removeScript, calls)
	})
	return err
}

// Sessions implements [Registry.Sessions].
func (r *RedisRegistry) Sessions(ctx context.Context, topics ...string) ([][]Session, error) {
	topics = slices.Clone(topics)
	return redisCall(ctx, r, "sessions", func(store redisStore) ([][]Session, error) {
		all := make([][]Session, 0, len(topics))
		for batch := range slices.Chunk(topics, redisBatch) {
			sessions, err := r.sessions(ctx, store, batch)
			if err != nil {
				return nil, err
			}
			all = append(all, sessions...)
		}
		return all, nil
	})
}

// sessions is one round trip of Sessions.
func (r *RedisRegistry) sessions(ctx context.Context, store redisStore, topics []string) ([][]Session, error) {
	pipe := newShardPipe(store)
	now := make([]*redis.TimeCmd, len(r.shards)) // of the shards that are asked
	nodes := make([]*redis.MapStringStringCmd, len(r.shards))
	hashes := make([]*redis.MapStringStringCmd, len(topics))
	shardOf := make([]int, len(topics))
	for i, topic := range topics {
		s := r.shardOf(topic)
		shardOf[i] = s
		if now[s] == nil {
			now[s] = pipe.on(s).Time(ctx)
			nodes[s] = pipe.on(s).HGetAll(ctx, r.shards[s].nodesKey())
		}
		hashes[i] = pipe.on(s).HGetAll(ctx, r.shards[s].topicKey(topic))
	}
	if _, err := pipe.exec(ctx); err != nil {
		return nil, err
	}
	live := make([]map[Lease]bool, len(r.shards))
	for s, cmd := range nodes {
		if cmd == nil {
			continue
		}
		live[s] = make(map[Lease]bool)
		for id, record := range cmd.Val() {
			if n, ok := decodeNode(id, record); ok {
				live[s][n.Lease()] = now[s].Val().Before(n.Renewed.Add(n.TTL))
			}
		}
	}
	all := make([][]Session, len(topics))
	for i, hash := range hashes {
		for id, value := range hash.Val() {
			session, generation, ok := decodeValue(id, value)
			if ok && live[shardOf[i]][Lease{session.Node, generation}] {
				all[i] = append(all[i], session)
			}
		}
		slices.SortFunc(all[i], compareSessions)
	}
	return all, nil
}
