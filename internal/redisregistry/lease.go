package redisregistry

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
)

// KeepAlive implements herald.Registry.KeepAlive.
func (r *Registry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (int64, error) {
	return call(ctx, r, "keep alive", func(store shardStore) (int64, error) {
		if node.Generation == 0 {
			return r.takeLease(ctx, store, node, ttl)
		}
		replies, err := r.keepLease(ctx, store, renewScript, 0, node, ttl)
		if err != nil {
			return 0, err
		}
		for _, reply := range replies {
			if errors.Is(reply.Err(), redis.Nil) {
				return 0, errs.LeaseLost
			}
		}
		return node.Generation, nil
	})
}

// takeLease takes a new lease in the first shard, which makes its generation,
// and then in the others.
func (r *Registry) takeLease(ctx context.Context, store shardStore, node Node, ttl time.Duration) (int64, error) {
	first := r.shards[0]
	reply, err := runOne(ctx, store, takeScript, scriptCall{
		keys: []string{first.nodesKey(), first.dyingKey(), first.generationKey()},
		args: leaseArgs(node, ttl),
	})
	if err != nil {
		return 0, err
	}
	parts, err := reply.Slice()
	if err != nil {
		return 0, err
	}
	if len(parts) != 2 {
		return 0, fmt.Errorf("answer of %d parts", len(parts))
	}
	text, _ := parts[0].(string)
	if node.Generation, err = strconv.ParseInt(text, 10, 64); err != nil {
		return 0, err
	}
	odd, _ := parts[1].(int64)
	r.strays.note(int(odd), first.generationKey())
	if _, err = r.keepLease(ctx, store, takeScript, 1, node, ttl); err != nil {
		return 0, err
	}
	// An index without this member was lost, even if it has been made anew since.
	pipe := newShardPipe(store)
	for i, s := range r.shards {
		pipe.on(i).SAdd(ctx, s.indexKey(node.lease()), "")
		pipe.on(i).PExpire(ctx, s.indexKey(node.lease()), keyLasts)
	}
	_, err = pipe.exec(ctx)
	return node.Generation, err
}

// keepLease runs take.lua or renew.lua in every shard from one on.
func (r *Registry) keepLease(ctx context.Context, store shardStore, s luaScript, from int, node Node, ttl time.Duration) ([]*redis.Cmd, error) {
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

// Release implements herald.Registry.Release.
func (r *Registry) Release(ctx context.Context, lease Lease) error {
	_, err := call(ctx, r, "release", func(store shardStore) ([]*redis.Cmd, error) {
		calls := make([]scriptCall, len(r.shards))
		for i := range calls {
			calls[i] = r.releaseCall(i, lease)
		}
		return runScript(ctx, store, releaseScript, calls)
	})
	return err
}

func (r *Registry) releaseCall(shard int, lease Lease) scriptCall {
	s := r.shards[shard]
	return scriptCall{
		shard: shard,
		keys:  []string{s.nodesKey(), s.dyingKey(), s.indexKey(lease)},
		args:  []any{lease.Node, lease.Generation},
	}
}

// Nodes implements herald.Registry.Nodes. The time is the latest of all masters'.
func (r *Registry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	type answer struct {
		nodes []Node
		now   time.Time
	}
	a, err := call(ctx, r, "nodes", func(store shardStore) (a answer, err error) {
		look := newLook(r, store)
		lists := make([]leaseList, len(r.shards))
		dying := make([]*redis.ScanCmd, len(r.shards))
		for i, s := range r.shards {
			// In this order a lease that is marked as dying meanwhile is seen.
			look.at(ctx, i)
			on := look.pipe.on(i)
			dying[i] = on.HScan(ctx, s.dyingKey(), 0, "", 2*maxRecords)
			lists[i] = leaseList{time: look.times[i], clock: on.Get(ctx, s.clockKey())}
		}
		if _, err := look.exec(ctx); err != nil {
			return answer{}, err
		}
		for i := range lists {
			lists[i].nodes = look.records[i]
			if lists[i].dying, err = r.records(ctx, store, i, dying[i]); err != nil {
				return answer{}, err
			}
		}
		a.nodes, a.now = r.mergeLeases(lists)
		return a, nil
	})
	return a.nodes, a.now, err
}

// A leaseList is the leases of a shard.
type leaseList struct {
	nodes, dying map[string]string
	time         *redis.TimeCmd
	clock        *redis.StringCmd
}

// mergeLeases returns every lease once, and the latest time. A lease has the record
// of the first shard that has it: as long as no shard loses leases, all times are of
// the first one's clock, and Renewed changes only if the lease is renewed. A lease is
// Alive if it has been renewed in time in any shard and none sweeps it.
func (r *Registry) mergeLeases(lists []leaseList) (nodes []Node, now time.Time) {
	merged := make(map[Lease]*Node)
	dying := make(map[Lease]bool)
	see := func(n Node) Lease {
		if merged[n.lease()] == nil {
			merged[n.lease()] = &n
		}
		return n.lease()
	}
	for i, list := range lists {
		if at := r.timeOf(i, list.time.Val(), list.clock); at.After(now) {
			now = at
		}
		present := make(map[Lease]bool)
		strange := 0
		for id, record := range list.nodes {
			n := decodeNode(id, record)
			if present[see(n)] = true; n.Err != nil && !isOfOtherFormat(record) {
				strange++
			}
		}
		r.strays.note(strange, r.shards[i].nodesKey())
		strange = 0
		for field, record := range list.dying {
			generation, id, _ := strings.Cut(field, ":")
			n := decodeNode(id, record)
			if n.Err != nil || generation != strconv.FormatInt(n.Generation, 10) {
				if !isOfOtherFormat(record) {
					strange++
				}
				continue
			}
			l := see(n)
			dying[l] = dying[l] || !present[l] // if present, it was marked between the two scans
		}
		r.strays.note(strange, r.shards[i].dyingKey())
	}
	for l, n := range merged {
		n.Alive = n.Err == nil && !dying[l] && r.seen.alive(l)
		nodes = append(nodes, *n)
	}
	return nodes, now
}

// sweepStep is how many entries a step of Sweep removes. Meanwhile the server serves
// no other client.
const sweepStep = 200

// Sweep implements herald.Registry.Sweep. It goes in steps, each a round trip, so
// its context should allow for the entries of a whole node.
func (r *Registry) Sweep(ctx context.Context, lease Lease) error {
	_, err := call(ctx, r, "sweep", func(store shardStore) (struct{}, error) {
		var none struct{}
		first, record, err := r.sweepable(ctx, store, lease)
		if err != nil || first < 0 {
			return none, err
		}
		marked, err := runOne(ctx, store, markScript, r.markCall(first, lease, record))
		if err != nil {
			return none, err
		}
		if n, err := marked.Int(); err != nil || n == 0 {
			return none, err
		}
		// With that step the lease is lost.
		var others []scriptCall
		for i := range r.shards {
			if i != first {
				others = append(others, r.markCall(i, lease, ""))
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

// markCall marks a lease as dying if it still has this record, or, if record is
// empty, whatever record it has.
func (r *Registry) markCall(shard int, lease Lease, record string) scriptCall {
	s := r.shards[shard]
	return scriptCall{
		shard: shard,
		keys:  []string{s.nodesKey(), s.dyingKey()},
		args:  []any{lease.Node, lease.Generation, record},
	}
}

// sweepable returns the shard that decides whether the lease is lost, and the lease's
// record there. If the lease is dying in a shard already, it is that shard, and no
// record. If the lease has run out, it is the first shard that has it. It is -1 if
// there is nothing to sweep.
func (r *Registry) sweepable(ctx context.Context, store shardStore, lease Lease) (first int, record string, err error) {
	look := newLook(r, store)
	dying := make([]*redis.BoolCmd, len(r.shards))
	for i, s := range r.shards {
		look.at(ctx, i)
		dying[i] = look.pipe.on(i).HExists(ctx, s.dyingKey(), fmt.Sprintf("%d:%s", lease.Generation, lease.Node))
	}
	if _, err := look.exec(ctx); err != nil {
		return -1, "", err
	}
	now := make([]time.Time, len(r.shards))
	for i := range r.shards {
		if dying[i].Val() {
			return i, "", nil
		}
		now[i] = look.times[i].Val()
	}
	if !r.seen.silent(lease, now) {
		return -1, "", nil
	}
	for i := range r.shards {
		if v, ok := r.seen.in(i, lease); ok {
			return i, v.record, nil
		}
	}
	return -1, "", nil
}

// sweepShard removes the entries of a lost lease from a shard, and forgets it.
func (r *Registry) sweepShard(ctx context.Context, store shardStore, shard int, lease Lease) error {
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
			p, ok := decodePlace(member)
			if !ok && member != "" { // it is removed from the index, and nothing else
				r.strays.note(1, s.indexKey(lease))
			}
			call.keys = append(call.keys, s.topicKey(p.Topic))
			call.args = append(call.args, member, p.ID, p.User)
			call.places = append(call.places, p)
		}
		reply, err := runOne(ctx, store, sweepScript, call)
		if err != nil {
			return err
		}
		r.made.noteRemoved([]scriptCall{call}, []*redis.Cmd{reply})
	}
}
