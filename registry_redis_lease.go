package herald

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// KeepAlive implements [Registry.KeepAlive].
func (r *RedisRegistry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (int64, error) {
	return redisCall(ctx, r, "keep alive", func(store redisStore) (int64, error) {
		if node.Generation == 0 {
			return r.takeLease(ctx, store, node, ttl)
		}
		replies, err := r.keepLease(ctx, store, renewScript, 0, node, ttl)
		if err != nil {
			return 0, err
		}
		for _, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return 0, ErrLeaseLost
			}
		}
		return node.Generation, nil
	})
}

// takeLease takes a new lease in the first shard, which makes its generation,
// and then in the others.
func (r *RedisRegistry) takeLease(ctx context.Context, store redisStore, node Node, ttl time.Duration) (int64, error) {
	first := r.shards[0]
	reply, err := runOne(ctx, store, takeScript, scriptCall{
		keys: []string{first.nodesKey(), first.dyingKey(), first.generationKey()},
		args: leaseArgs(node, ttl),
	})
	if err != nil {
		return 0, err
	}
	if node.Generation, err = reply.Int64(); err != nil {
		return 0, err
	}
	_, err = r.keepLease(ctx, store, takeScript, 1, node, ttl)
	return node.Generation, err
}

// keepLease runs take.lua or renew.lua in every shard from one on.
func (r *RedisRegistry) keepLease(ctx context.Context, store redisStore, s luaScript, from int, node Node, ttl time.Duration) ([]*redis.Cmd, error) {
	calls := make([]scriptCall, 0, len(r.shards))
	for i := from; i < len(r.shards); i++ {
		call := scriptCall{shard: i, keys: []string{r.shards[i].nodesKey()}, args: leaseArgs(node, ttl)}
		if s == takeScript {
			call.keys = append(call.keys, r.shards[i].dyingKey())
		}
		calls = append(calls, call)
	}
	return runScript(ctx, store, s, calls)
}

func leaseArgs(node Node, ttl time.Duration) []any {
	return []any{node.ID, node.Generation, ttl.Microseconds(), node.Conns, node.Version}
}

// Release implements [Registry.Release].
func (r *RedisRegistry) Release(ctx context.Context, lease Lease) error {
	_, err := redisCall(ctx, r, "release", func(store redisStore) ([]*redis.Cmd, error) {
		calls := make([]scriptCall, len(r.shards))
		for i := range calls {
			calls[i] = r.releaseCall(i, lease)
		}
		return runScript(ctx, store, releaseScript, calls)
	})
	return err
}

func (r *RedisRegistry) releaseCall(shard int, lease Lease) scriptCall {
	s := r.shards[shard]
	return scriptCall{
		shard: shard,
		keys:  []string{s.nodesKey(), s.dyingKey(), s.indexKey(lease)},
		args:  []any{lease.Node, lease.Generation},
	}
}

// Nodes implements [Registry.Nodes]. The time is the latest of all masters'.
func (r *RedisRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	type answer struct {
		nodes []Node
		now   time.Time
	}
	a, err := redisCall(ctx, r, "nodes", func(store redisStore) (a answer, err error) {
		lists := make([]leaseList, len(r.shards))
		pipe := newShardPipe(store)
		for i, s := range r.shards {
			on := pipe.on(i)
			// In this order: a lease that becomes a dying one meanwhile is seen,
			// and none was renewed later than now.
			lists[i] = leaseList{on.HGetAll(ctx, s.nodesKey()), on.HGetAll(ctx, s.dyingKey()), on.Time(ctx)}
		}
		if _, err := pipe.exec(ctx); err != nil {
			return answer{}, err
		}
		a.nodes, a.now = mergeLeases(lists)
		return a, nil
	})
	return a.nodes, a.now, err
}

// A leaseList is what a shard has of leases.
type leaseList struct {
	nodes, dying *redis.MapStringStringCmd
	time         *redis.TimeCmd
}

// mergeLeases returns every lease once, ordered by id and generation, with the
// latest time. Its record is that of the first shard that has it: while nothing
// goes wrong all are of one clock, and a lease that nobody renews has the same
// Renewed each time. Alive is a lease that one shard at least believes, and
// that none is sweeping.
func mergeLeases(lists []leaseList) (nodes []Node, now time.Time) {
	type state struct {
		Node
		believed, dying bool
	}
	merged := make(map[Lease]*state)
	see := func(n Node) *state {
		s := merged[n.Lease()]
		if s == nil {
			s = &state{Node: n}
			merged[n.Lease()] = s
		}
		return s
	}
	for _, list := range lists {
		at := list.time.Val()
		if at.After(now) {
			now = at
		}
		present := make(map[Lease]bool)
		for id, record := range list.nodes.Val() {
			if n, ok := decodeNode(id, record); ok {
				present[n.Lease()] = true
				s := see(n)
				s.believed = s.believed || at.Before(n.Renewed.Add(n.TTL))
			}
		}
		for field, record := range list.dying.Val() {
			_, id, _ := strings.Cut(field, ":")
			if n, ok := decodeNode(id, record); ok {
				s := see(n)
				s.dying = s.dying || !present[n.Lease()] // else since a moment ago
			}
		}
	}
	for _, s := range merged {
		s.Alive = s.believed && !s.dying
		nodes = append(nodes, s.Node)
	}
	slices.SortFunc(nodes, compareNodes)
	return nodes, now
}

// compareNodes orders by id, then by generation.
func compareNodes(a, b Node) int {
	if c := strings.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return cmp.Compare(a.Generation, b.Generation)
}

// sweepStep is how many entries a step of Sweep removes while no other
// client of the server is served.
const sweepStep = 200

// Sweep implements [Registry.Sweep]. It goes in steps, each a round trip, so
// its context should allow for the entries of a whole node.
func (r *RedisRegistry) Sweep(ctx context.Context, lease Lease) error {
	_, err := redisCall(ctx, r, "sweep", func(store redisStore) (struct{}, error) {
		var none struct{}
		first, err := r.sweepable(ctx, store, lease)
		if err != nil || first < 0 {
			return none, err
		}
		marked, err := runOne(ctx, store, markScript, r.markCall(first, lease, false))
		if err != nil {
			return none, err
		}
		if n, err := marked.Int(); err != nil || n == 0 {
			return none, err
		}
		// That was the one step in which the lease is lost.
		var others []scriptCall
		for i := range r.shards {
			if i != first {
				others = append(others, r.markCall(i, lease, true))
			}
		}
		if _, err := runScript(ctx, store, markScript, others); err != nil {
			return none, err
		}
		for i := range r.shards {
			if err := r.sweepShard(ctx, store, i, lease); err != nil {
				return none, err
			}
		}
		return none, nil
	})
	return err
}

func (r *RedisRegistry) markCall(shard int, lease Lease, lost bool) scriptCall {
	s := r.shards[shard]
	return scriptCall{
		shard: shard,
		keys:  []string{s.nodesKey(), s.dyingKey()},
		args:  []any{lease.Node, lease.Generation, lost},
	}
}

// sweepable returns the shard that decides whether the lease is lost: one
// where it is dying already, or, where it has run out in all, the first that
// has it. It returns -1 where there is nothing to sweep.
func (r *RedisRegistry) sweepable(ctx context.Context, store redisStore, lease Lease) (int, error) {
	if len(r.shards) == 1 {
		return 0, nil
	}
	pipe := newShardPipe(store)
	records := make([]*redis.StringCmd, len(r.shards))
	dying := make([]*redis.BoolCmd, len(r.shards))
	now := make([]*redis.TimeCmd, len(r.shards))
	for i, s := range r.shards {
		on := pipe.on(i)
		records[i] = on.HGet(ctx, s.nodesKey(), lease.Node)
		dying[i] = on.HExists(ctx, s.dyingKey(), fmt.Sprintf("%d:%s", lease.Generation, lease.Node))
		now[i] = on.Time(ctx)
	}
	if _, err := pipe.exec(ctx); err != nil {
		return -1, err
	}
	first, believed := -1, false
	for i := range r.shards {
		if dying[i].Val() {
			return i, nil
		}
		n, ok := decodeNode(lease.Node, records[i].Val())
		if !ok || n.Lease() != lease {
			continue
		}
		if first < 0 {
			first = i
		}
		believed = believed || now[i].Val().Before(n.Renewed.Add(n.TTL))
	}
	if believed {
		return -1, nil
	}
	return first, nil
}

// sweepShard removes the entries of a lost lease from a shard, and forgets it.
func (r *RedisRegistry) sweepShard(ctx context.Context, store redisStore, shard int, lease Lease) error {
	s := r.shards[shard]
	for {
		pipe := newShardPipe(store)
		found := pipe.on(shard).SRandMemberN(ctx, s.indexKey(lease), sweepStep)
		if _, err := pipe.exec(ctx); err != nil {
			return err
		}
		if len(found.Val()) == 0 {
			_, err := runOne(ctx, store, releaseScript, r.releaseCall(shard, lease))
			return err
		}
		call := scriptCall{
			shard: shard,
			keys:  []string{s.goneKey(), s.indexKey(lease)},
			args:  []any{lease.Generation},
		}
		for _, member := range found.Val() {
			p, _ := decodePlace(member) // what is none of herald's leaves the index only
			call.keys = append(call.keys, s.topicKey(p.topic))
			call.args = append(call.args, member, p.id, p.user)
		}
		if _, err := runOne(ctx, store, sweepScript, call); err != nil {
			return err
		}
	}
}

// offlineBatch is the most users that one call of Offline takes from a shard.
const offlineBatch = 1000

// Offline implements [Registry.Offline], at most 1,000 users of a shard a call.
// Where one shard fails and another has users due, it returns these.
func (r *RedisRegistry) Offline(ctx context.Context, delay time.Duration) ([]string, error) {
	return redisCall(ctx, r, "offline", func(store redisStore) ([]string, error) {
		calls := make([]scriptCall, len(r.shards))
		for i, s := range r.shards {
			calls[i] = scriptCall{shard: i, keys: []string{s.goneKey()}, args: []any{delay.Microseconds(), offlineBatch}}
		}
		replies, err := runScript(ctx, store, offlineScript, calls)
		var users []string
		for _, reply := range replies {
			if some, err := reply.StringSlice(); err == nil {
				users = append(users, some...)
			}
		}
		if len(users) > 0 { // they have been taken: the next call meets the error
			return users, nil
		}
		return nil, err
	})
}
