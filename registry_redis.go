package herald

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// A RedisRegistry keeps the Registry in hashes of Redis, from version 6.2 on:
// of a single server, of one that Sentinel watches, or of a Cluster. It needs
// no module. Keys of topics expire after a day without a living node that has
// entries in them, so that nothing stays for ever, whatever was lost.
//
// It does not trust what it reads back. A value that is not herald's is skipped,
// as if it were not there, and no error says so. While such a value lies in a
// user's hash, that user is not reported offline, nor online again. All keys that
// begin with the prefix and ":{" are herald's own; one of another type is deleted.
// Stats.Unreadable counts both. Nor does it trust the server. An answer that is no
// RESP, or is nested more than 16 times, is ErrRegistryDown. So is one of more
// than 512 MiB or a million sessions, together with the others of up to 500
// topics that are asked for at once.
//
// # On a Cluster
//
// The topics are spread by their hash over sixteen shards, each in a slot of
// its own, so that any number of masters up to sixteen shares the work. Each
// shard is a whole Registry, with the leases of all nodes and the entries under
// its topics. So what one call does in several shards is several steps:
//
//   - Add places an Entry in the shard of its UserTopic, or of its first topic,
//     and then in the others, with the same Since. If Since is set, it does so in
//     all at the same time. A reader may meanwhile see the Session under the user
//     and not yet under a group. If a later shard says that the lease is lost, so
//     does Add, although the first has added. Nobody sees that for long, because
//     the node then takes a new lease, which every shard puts before the old one.
//   - KeepAlive takes a lease in the first shard, and then in the others. It
//     renews in all at the same time. If one shard has forgotten the lease it is
//     lost for all, so that a master that came back empty gets its entries again.
//     If a shard does not answer the error is ErrRegistryDown, and the others are
//     renewed.
//   - An entry is believed while its own shard has the lease and any shard has
//     seen it renewed. In the same way a node is Alive, unless a shard is sweeping
//     it. It is listed until the last shard has forgotten it. Its Renewed is that
//     of the first shard.
//   - Sweep does nothing while any shard believes the lease. Then one shard
//     decides, in one step, and all others follow.
//
// Nodes, KeepAlive, Offline, Sweep and Release ask all shards. While one shard has
// no master they return ErrRegistryDown.
//
// Each shard goes by the time of its own master. Nodes returns the latest of
// these times, so that every Session that is there has a Since before it. So if
// the clocks differ, Hub.Disconnect may close a connection that came after the
// call, by no more than the difference. Let masters agree within a second.
//
// While a slot is moved to another master key by key, its shard goes on being
// read, and leases are renewed. Calls that add or remove wait for the end of the
// move, as long as their contexts let them.
type RedisRegistry struct {
	prefix string
	shards []redisShard
	seen   *sightings
	steps  clockSteps
	strays strays
	latest []latest // by shard
	open   func() redisStore
	master *redisconn.Master // nil without Sentinels
	cancel context.CancelFunc

	mu    sync.Mutex
	store redisStore // nil after Close
	calls sync.WaitGroup
}

// A redisShard begins the keys of a shard. It has one hash tag, so that a script
// may use all of them on a Cluster.
type redisShard string

func newShards(prefix string, tags ...string) []redisShard {
	shards := make([]redisShard, len(tags))
	for i, tag := range tags {
		shards[i] = redisShard(prefix + ":{" + tag + "}:")
	}
	return shards
}

func (s redisShard) nodesKey() string         { return string(s) + "nodes" }
func (s redisShard) dyingKey() string         { return string(s) + "dying" }
func (s redisShard) goneKey() string          { return string(s) + "gone" }
func (s redisShard) clockKey() string         { return string(s) + "clock" }
func (s redisShard) generationKey() string    { return string(s) + "generation" } // in the first shard alone
func (s redisShard) shardsKey() string        { return string(s) + "shards" }     // in the first shard alone
func (s redisShard) topicKey(t string) string { return string(s) + "t:" + t }
func (s redisShard) indexKey(l Lease) string {
	return fmt.Sprintf("%si:%d:%s", string(s), l.Generation, l.Node)
}

// shardOf returns the index of the shard that a topic belongs to.
func (r *RedisRegistry) shardOf(topic string) int { return redisconn.ShardOf(topic, len(r.shards)) }

// NewRedisRegistry returns a Registry in the Redis of rdb, which is a
// *redis.Client, from NewClient or NewFailoverClient, or a
// *redis.ClusterClient: an error names any other type. On a single server it
// lies in rdb's database. The Registry opens connections of its own, with
// rdb's options, and leaves rdb as it is. With Sentinel, rdb must stay open as
// long as the Registry.
//
// It asks each master once, for at most the ReadTimeout of rdb, whether it may
// do all that it will need; the error names what is denied. Errors wrap
// ErrRegistryDown if Redis could not be reached or refuses to serve, in its own
// words. So do the errors of the methods, also if a command is denied later.
//
// Behind Sentinels it listens to what each of them publishes on
// __sentinel__:hello. If no majority of those that it has heard names its server
// for longer than ProbeTimeout (at least 5 s), that server may have been replaced,
// and all methods return ErrRegistryDown.
func NewRedisRegistry(rdb redis.UniversalClient, opts *RedisOptions) (*RedisRegistry, error) {
	options, err := opts.conn().WithDefaults()
	if err != nil {
		return nil, err
	}
	client, cluster, err := redisconn.ClientOf(rdb)
	if err != nil {
		return nil, err
	}
	r := &RedisRegistry{}
	var master *redisconn.Master
	tags := redisconn.Tags[:1]
	if cluster != nil {
		own := redisconn.ClusterOptions(cluster.Options())
		tags = redisconn.Tags
		r.open = func() redisStore { return newClusterStore(own, r.shards) }
	} else {
		own := redisconn.ClientOptions(client.Options())
		master = redisconn.NewMaster(client.Options(), options.ProbeTimeout)
		r.open = func() redisStore { return newSingleStore(own) }
		if master != nil {
			r.open = func() redisStore { return newSentinelStore(*own) }
		}
	}
	r.prefix, r.shards = options.Prefix, newShards(options.Prefix, tags...)
	r.seen = newSightings(len(r.shards))
	r.steps.shards = make([]clockOffset, len(r.shards))
	r.latest = make([]latest, len(r.shards))
	r.store = r.open()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	if err := r.probe(ctx); err != nil {
		r.Close()
		return nil, err
	}
	if r.master = master; master != nil {
		if err := master.Open(ctx); err != nil {
			r.Close()
			return nil, fmt.Errorf("redis registry: %w", err)
		}
		r.calls.Go(func() { r.followMaster(ctx) })
	}
	return r, nil
}

// Close ends the calls that are under way, which then answer ErrClosed as
// later ones do, and waits for them. It may be called twice.
func (r *RedisRegistry) Close() error {
	r.mu.Lock()
	store := r.store
	r.store = nil
	r.mu.Unlock()
	r.cancel()
	var err error
	if store != nil {
		err = store.Close()
	}
	r.calls.Wait()
	return err
}

// redisCall runs f, which may go on after ctx is done, because go-redis does not
// notice that a context is cancelled while it waits for an answer. The result of f
// is lost then. f must not touch what the caller owns.
func redisCall[T any](ctx context.Context, r *RedisRegistry, what string, f func(redisStore) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("redis registry: %s: %w", what, err)
	}
	r.mu.Lock()
	store := r.store
	if store == nil {
		r.mu.Unlock()
		return none, ErrClosed
	}
	done := make(chan result, 1)
	r.calls.Go(func() {
		var value T
		err := r.doubt(store) // before f, too: what Offline takes is gone
		if err == nil {
			value, err = f(mendingStore{store, &r.strays})
		}
		if isReadOnly(err) {
			r.reconnect(store)
		}
		if err == nil {
			err = r.doubt(store)
		}
		done <- result{value, err}
	})
	r.mu.Unlock()

	select {
	case res := <-done:
		if res.err == nil {
			return res.value, nil
		}
		return none, fmt.Errorf("redis registry: %s: %w", what, r.cause(ctx, res.err))
	case <-ctx.Done():
		return none, fmt.Errorf("redis registry: %s: %w", what, ctx.Err())
	}
}

// reconnect puts a new client in the place of one whose server is no longer the
// master. The other connections of the old client would go on reading stale data
// there.
func (r *RedisRegistry) reconnect(old redisStore) {
	r.mu.Lock()
	if r.store != old {
		r.mu.Unlock()
		return
	}
	r.store = r.open()
	r.mu.Unlock()
	old.Close()
}

// cause says what err means for the caller.
func (r *RedisRegistry) cause(ctx context.Context, err error) error {
	if errors.Is(err, ErrLeaseLost) {
		return err
	}
	// The deadline of ctx is also one of the connection, and may strike there
	// first.
	var timeout net.Error
	if deadline, ok := ctx.Deadline(); ok && errors.As(err, &timeout) && timeout.Timeout() && !time.Now().Before(deadline) {
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	r.mu.Lock()
	closed := r.store == nil
	r.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if reply, ok := errors.AsType[redis.Error](err); ok && !redisconn.IsRefusal(reply.Error()) && !isMoving(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRegistryDown, err)
}

// isReadOnly says whether the server is a replica.
func isReadOnly(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && strings.HasPrefix(redisconn.ScriptError(reply.Error()), "READONLY")
}
