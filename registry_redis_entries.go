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

// Add implements [Registry.Add]: one script an Entry, in pipelines. The
// Node of a Session is the lease's.
func (r *RedisRegistry) Add(ctx context.Context, lease Lease, entries ...Entry) ([]Added, error) {
	calls := make([]scriptCall, len(entries))
	for i, e := range entries {
		calls[i] = r.addCall(lease, e)
	}
	return redisCall(ctx, r, "add", func(c *redis.Client) ([]Added, error) {
		replies, err := runScript(ctx, c, addScript, calls)
		if err != nil {
			return nil, err
		}
		added := make([]Added, len(replies))
		for i, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return nil, ErrLeaseLost
			}
			if added[i], err = decodeAdded(reply); err != nil {
				return nil, err
			}
		}
		return added, nil
	})
}

func (r *RedisRegistry) addCall(lease Lease, e Entry) scriptCall {
	s := e.Session
	s.Node = lease.Node
	since := ""
	if !s.Since.IsZero() {
		since = strconv.FormatInt(s.Since.UnixMicro(), 10)
	}
	call := scriptCall{
		keys: []string{r.nodesKey(), r.indexKey(lease), r.goneKey()},
		args: []any{lease.Node, lease.Generation, s.ID, since, s.User, encodeBody(s), e.UserTopic != ""},
	}
	for _, p := range e.places() {
		call.keys = append(call.keys, r.topicKey(p.topic))
		call.args = append(call.args, p.member())
	}
	return call
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
	calls := make([]scriptCall, len(entries))
	for i, e := range entries {
		calls[i] = scriptCall{
			keys: []string{r.goneKey()},
			args: []any{r.shard + "i:", e.Session.ID, e.UserTopic != ""},
		}
		for _, p := range e.places() {
			calls[i].keys = append(calls[i].keys, r.topicKey(p.topic))
			calls[i].args = append(calls[i].args, p.member())
		}
	}
	_, err := redisCall(ctx, r, "remove", func(c *redis.Client) ([]*redis.Cmd, error) {
		return runScript(ctx, c, removeScript, calls)
	})
	return err
}

// Sessions implements [Registry.Sessions].
func (r *RedisRegistry) Sessions(ctx context.Context, topics ...string) ([][]Session, error) {
	topics = slices.Clone(topics)
	return redisCall(ctx, r, "sessions", func(c *redis.Client) ([][]Session, error) {
		all := make([][]Session, 0, len(topics))
		for batch := range slices.Chunk(topics, redisBatch) {
			sessions, err := r.sessions(ctx, c, batch)
			if err != nil {
				return nil, err
			}
			all = append(all, sessions...)
		}
		return all, nil
	})
}

// sessions is one round trip of Sessions.
func (r *RedisRegistry) sessions(ctx context.Context, c *redis.Client, topics []string) ([][]Session, error) {
	pipe := c.Pipeline()
	now := pipe.Time(ctx)
	nodes := pipe.HGetAll(ctx, r.nodesKey())
	hashes := make([]*redis.MapStringStringCmd, len(topics))
	for i, topic := range topics {
		hashes[i] = pipe.HGetAll(ctx, r.topicKey(topic))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	live := make(map[Lease]bool)
	for id, record := range nodes.Val() {
		if n, ok := decodeNode(id, record); ok {
			live[n.Lease()] = now.Val().Before(n.Renewed.Add(n.TTL))
		}
	}
	all := make([][]Session, len(topics))
	for i, hash := range hashes {
		for id, value := range hash.Val() {
			s, generation, ok := decodeValue(id, value)
			if ok && live[Lease{s.Node, generation}] {
				all[i] = append(all[i], s)
			}
		}
		slices.SortFunc(all[i], compareSessions)
	}
	return all, nil
}

// entriesPage is about how many members of an index a page of Entries has.
const entriesPage = 200

// Entries implements [Registry.Entries]. A cursor is one of SSCAN.
func (r *RedisRegistry) Entries(ctx context.Context, lease Lease, cursor string) ([]Entry, string, error) {
	at, err := strconv.ParseUint(cursor, 10, 64)
	if cursor != "" && err != nil {
		return nil, "", fmt.Errorf("%w: cursor %q: must be one that Entries returned", ErrInvalid, cursor)
	}
	type page struct {
		entries []Entry
		next    string
	}
	p, err := redisCall(ctx, r, "entries", func(c *redis.Client) (page, error) {
		members, next, err := c.SScan(ctx, r.indexKey(lease), at, "", entriesPage).Result()
		if err != nil {
			return page{}, err
		}
		entries, err := r.readPlaces(ctx, c, lease, members)
		p := page{entries: entries}
		if next != 0 {
			p.next = strconv.FormatUint(next, 10)
		}
		return p, err
	})
	return p.entries, p.next, err
}

// readPlaces returns the entries that lie where the members of the lease's
// index say.
func (r *RedisRegistry) readPlaces(ctx context.Context, c *redis.Client, lease Lease, members []string) ([]Entry, error) {
	slices.Sort(members) // SSCAN may repeat one
	var entries []Entry
	at := make(map[string]int) // id to index in entries
	for batch := range slices.Chunk(slices.Compact(members), redisBatch) {
		places := make([]place, len(batch))
		values := make([]*redis.StringCmd, len(batch))
		pipe := c.Pipeline()
		for i, member := range batch {
			places[i], _ = decodePlace(member)
			values[i] = pipe.HGet(ctx, r.topicKey(places[i].topic), places[i].id)
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		for i, p := range places {
			s, generation, ok := decodeValue(p.id, values[i].Val())
			if !ok || generation != lease.Generation || s.Node != lease.Node {
				continue
			}
			j, known := at[p.id]
			if !known {
				j = len(entries)
				at[p.id] = j
				entries = append(entries, Entry{Session: s})
			}
			if p.user {
				entries[j].UserTopic = p.topic
			} else {
				entries[j].Topics = append(entries[j].Topics, p.topic)
			}
		}
	}
	return entries, nil
}
