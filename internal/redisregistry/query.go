package redisregistry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/places"
)

// Sessions implements herald.Registry.Sessions.
func (r *Registry) Sessions(ctx context.Context, lease Lease, topics ...string) ([][]Session, error) {
	topics = slices.Clone(topics)
	return call(ctx, r, "sessions", func(store shardStore) ([][]Session, error) {
		all := make([][]Session, 0, len(topics))
		for batch := range slices.Chunk(topics, maxBatch) {
			sessions, err := r.sessions(ctx, store, lease, batch)
			if err != nil {
				return nil, err
			}
			all = append(all, sessions...)
		}
		return all, nil
	})
}

// sessions is one round trip of Sessions.
func (r *Registry) sessions(ctx context.Context, store shardStore, lease Lease, topics []string) ([][]Session, error) {
	look := newLook(r, store)
	replies := make([]*redis.MapStringStringCmd, len(topics))
	for i, topic := range topics {
		s := r.shardOf(topic)
		look.at(ctx, s)
		replies[i] = look.pipe.on(s).HGetAll(ctx, r.shards[s].topicKey(topic))
	}
	if _, err := look.exec(ctx); err != nil {
		return nil, err
	}
	hashes := make([]map[string]string, len(topics))
	for i, reply := range replies {
		hashes[i] = reply.Val()
	}
	return r.living(ctx, store, look, lease, topics, hashes)
}

// living returns, for each topic, the sessions of its hash whose lease lives, as the
// look has seen it. The asker's own lease has to live, too.
func (r *Registry) living(ctx context.Context, store shardStore, look *look, lease Lease, topics []string, hashes []map[string]string) ([][]Session, error) {
	found := make([][]heldSession, len(topics))
	doubt := false
	for i, hash := range hashes {
		s := r.shardOf(topics[i])
		strange := 0
		for id, value := range hash {
			session, generation, ok := decodeValue(id, value)
			if !ok && !isOfOtherFormat(value) {
				strange++
			}
			if h := (heldSession{session, generation}); ok && r.listed(s, h.lease()) {
				found[i] = append(found[i], h)
				doubt = doubt || !r.seen.alive(h.lease())
			}
		}
		r.strays.note(strange, r.shards[s].topicKey(topics[i]))
	}
	if err := r.settle(ctx, store, look, lease, doubt); err != nil {
		return nil, err
	}
	all := make([][]Session, len(topics))
	for i := range found {
		for _, h := range found[i] {
			if r.seen.alive(h.lease()) {
				all[i] = append(all[i], h.Session)
			}
		}
	}
	return all, nil
}

// Online implements herald.Registry.Online.
func (r *Registry) Online(ctx context.Context, lease Lease, topics ...string) ([]bool, error) {
	topics = slices.Clone(topics)
	return call(ctx, r, "online", func(store shardStore) ([]bool, error) {
		online := make([]bool, 0, len(topics))
		for batch := range slices.Chunk(topics, maxBatch) {
			some, err := r.online(ctx, store, lease, batch)
			if err != nil {
				return nil, err
			}
			online = append(online, some...)
		}
		return online, nil
	})
}

// online is one round trip of Online. It decodes only the part of a session that
// tells its lease.
func (r *Registry) online(ctx context.Context, store shardStore, lease Lease, topics []string) ([]bool, error) {
	look := newLook(r, store)
	values := make([]*redis.StringSliceCmd, len(topics))
	for i, topic := range topics {
		s := r.shardOf(topic)
		look.at(ctx, s)
		values[i] = look.pipe.on(s).HVals(ctx, r.shards[s].topicKey(topic))
	}
	if _, err := look.exec(ctx); err != nil {
		return nil, err
	}
	live := func(i int) bool {
		return slices.ContainsFunc(values[i].Val(), func(value string) bool {
			l, ok := decodeHolder(value)
			return ok && r.holds(r.shardOf(topics[i]), l)
		})
	}
	online := make([]bool, len(topics))
	doubt := false
	for i := range topics {
		online[i] = live(i)
		doubt = doubt || !online[i] && len(values[i].Val()) > 0
	}
	if err := r.settle(ctx, store, look, lease, doubt); err != nil {
		return nil, err
	}
	for i := range topics {
		online[i] = online[i] || live(i)
	}
	return online, nil
}

// A look reads the leases of shards, together with what else is asked there.
type look struct {
	r     *Registry
	pipe  *shardPipe
	asked int64 // on clock
	nodes []*redis.ScanCmd
	times []*redis.TimeCmd

	records []map[string]string // by shard: the lease records, by node
}

func newLook(r *Registry, store shardStore) *look {
	return &look{
		r: r, pipe: newShardPipe(store), asked: clock.Now(),
		nodes:   make([]*redis.ScanCmd, len(r.shards)),
		times:   make([]*redis.TimeCmd, len(r.shards)),
		records: make([]map[string]string, len(r.shards)),
	}
}

// at makes shard s part of the look.
func (l *look) at(ctx context.Context, s int) {
	if l.nodes[s] == nil {
		// In this order no lease was renewed later than the time.
		l.nodes[s] = l.pipe.on(s).HScan(ctx, l.r.shards[s].nodesKey(), 0, "", 2*maxRecords)
		l.times[s] = l.pipe.on(s).Time(ctx)
	}
}

// exec asks, notes what was seen, and returns what [shardPipe.exec] does.
func (l *look) exec(ctx context.Context) (servers []string, err error) {
	if servers, err = l.pipe.exec(ctx); err != nil {
		return servers, err
	}
	for s, nodes := range l.nodes {
		if nodes == nil {
			continue
		}
		if l.records[s], err = l.r.records(ctx, l.pipe.store, s, nodes); err != nil {
			return servers, err
		}
		l.r.seen.look(s, l.records[s], l.times[s].Val(), l.asked)
	}
	return servers, nil
}

// maxRecords is how many leases a shard may have. HSCAN, which counts fields and
// values, returns that many in one reply.
const maxRecords = 10_000

// records returns the lease records that a scan has found. A hash that somebody has
// stuffed with more than maxRecords is deleted, like a key of the wrong type: real
// nodes put their leases back.
func (r *Registry) records(ctx context.Context, store shardStore, shard int, scan *redis.ScanCmd) (map[string]string, error) {
	fields, next := scan.Val()
	if next != 0 {
		key := scan.Args()[1].(string)
		r.strays.note(1, key)
		pipe := newShardPipe(store)
		pipe.on(shard).Unlink(ctx, key)
		_, err := pipe.exec(ctx)
		return nil, err
	}
	records := make(map[string]string, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		records[fields[i]] = fields[i+1]
	}
	return records, nil
}

// look looks at all shards.
func (r *Registry) look(ctx context.Context, store shardStore) (*look, error) {
	l := newLook(r, store)
	for s := range r.shards {
		l.at(ctx, s)
	}
	_, err := l.exec(ctx)
	return l, err
}

// listed reports whether a shard has the lease, as it was last seen.
func (r *Registry) listed(shard int, l Lease) bool {
	_, ok := r.seen.in(shard, l)
	return ok
}

// holds reports whether a shard has the lease, and it lives.
func (r *Registry) holds(shard int, l Lease) bool {
	return r.listed(shard, l) && r.seen.alive(l)
}

// settle looks at all shards if there is doubt who lives. It returns ErrLeaseLost if
// the asker's own lease is not held in a shard that was asked.
func (r *Registry) settle(ctx context.Context, store shardStore, asked *look, lease Lease, doubt bool) error {
	own := lease != Lease{}
	if (doubt || own && !r.seen.alive(lease)) && len(r.shards) > 1 {
		if _, err := r.look(ctx, store); err != nil {
			return err
		}
	}
	for s, nodes := range asked.nodes {
		if own && nodes != nil && !r.holds(s, lease) {
			return fmt.Errorf("%w: it is not held, so that others may not be: who asks cannot tell who has gone", errs.LeaseLost)
		}
	}
	return nil
}

// Check returns, by index of entries, which of their places have lost what was
// added there.
func (r *Registry) Check(ctx context.Context, lease Lease, entries [][]places.Place) ([][]places.Place, error) {
	calls, checked := r.planCheck(lease, entries)
	return call(ctx, r, "check", func(store shardStore) ([][]places.Place, error) {
		replies, err := runScript(ctx, store, checkScript, calls)
		if err != nil {
			return nil, err
		}
		lost := make([][]places.Place, len(entries))
		for n, reply := range replies {
			missing, err := reply.Int64Slice()
			if errors.Is(err, redis.Nil) {
				return nil, errs.LeaseLost
			}
			if err != nil {
				return nil, err
			}
			for _, m := range missing {
				if m < 1 || m > int64(len(checked[n])) {
					return nil, fmt.Errorf("answer %d of %d", m, len(checked[n]))
				}
				p := checked[n][m-1]
				lost[p.entry] = append(lost[p.entry], p.Place)
			}
		}
		return lost, nil
	})
}

// checkStep is how many places one run of check.lua compares. Meanwhile the server
// serves no other client.
const checkStep = 200

// An entryPlace is a place, and the index of the entry that should be there.
type entryPlace struct {
	places.Place
	entry int
}

// planCheck returns what Check runs: at least one script in each shard, because each
// has an index that may be lost.
func (r *Registry) planCheck(lease Lease, entries [][]places.Place) (calls []scriptCall, checked [][]entryPlace) {
	byShard := make([][]entryPlace, len(r.shards))
	for i, all := range entries {
		for _, p := range all {
			s := r.shardOf(p.Topic)
			byShard[s] = append(byShard[s], entryPlace{p, i})
		}
	}
	for s, all := range byShard {
		for first := true; first || len(all) > 0; first = false {
			n := min(len(all), checkStep)
			call := scriptCall{
				shard: s,
				keys:  []string{r.shards[s].indexKey(lease)},
				args:  []any{lease.Generation, keyLasts.Milliseconds()},
			}
			for _, p := range all[:n] {
				call.keys = append(call.keys, r.shards[s].topicKey(p.Topic))
				call.args = append(call.args, p.ID)
			}
			calls, checked = append(calls, call), append(checked, all[:n])
			all = all[n:]
		}
	}
	return calls, checked
}

// timeOf returns the Registry's time in a shard: that of the server, but not before
// any Since that was given. Those that this process has seen count even if the
// shard's clock was lost, or set back by others.
func (r *Registry) timeOf(shard int, server time.Time, clock *redis.StringCmd) time.Time {
	most := server.Add(clockTrust)
	if clock.Val() != "" {
		last, err := clock.Int64()
		if err != nil || !time.UnixMicro(last).Before(most) {
			r.strays.note(1, r.shards[shard].clockKey())
		} else {
			r.latest[shard].note(last)
		}
	}
	if at := time.UnixMicro(r.latest[shard].Load()); at.After(server) && at.Before(most) {
		return at
	}
	return server
}

// A latest is the latest Since, in microseconds, that is known for a shard.
type latest struct{ atomic.Int64 }

func (l *latest) note(since int64) {
	for {
		known := l.Load()
		if since <= known || l.CompareAndSwap(known, since) {
			return
		}
	}
}

// clockTrust is how far a clock may be ahead of the server's time and still be
// believed; lua/add.lua has it, too.
const clockTrust = 366 * 24 * time.Hour
