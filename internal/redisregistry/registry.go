// Package redisregistry keeps a Registry in Redis: who is where, by leases. Its
// scripts, in lua, run in the server.
package redisregistry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/places"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A Lease is herald.Lease.
type Lease struct {
	Node       string
	Generation int64
}

// A Node is herald.Node.
type Node struct {
	ID         string
	Generation int64
	Conns      int
	Version    int
	Renewed    time.Time
	TTL        time.Duration
	Alive      bool
	Err        error
}

func (n Node) lease() Lease { return Lease{n.ID, n.Generation} }

// A Session is what lies at each of an Entry's places.
type Session struct {
	ID    string
	User  string
	Node  string    // of the lease that it was added under
	Since time.Time // zero for the Registry's time
	Body  string    // opaque to this package
}

// An Entry is a Session and where it lies.
type Entry struct {
	Session
	Places []places.Place // as [places.Of] returns them
	Older  int            // how many of the user's older Sessions are answered at most
}

// Added is what Add says of an Entry.
type Added struct {
	Since      time.Time
	Older      []Session // in any order
	OlderTotal int
	Online     bool
}

// A Registry keeps Sessions in hashes of Redis. It does what herald.Registry
// promises and herald.RedisRegistry documents, but knows no more of a Session than
// it needs.
type Registry struct {
	prefix string
	shards []shardKeys
	seen   *sightings
	steps  clockSteps
	strays strays
	latest []latest // by shard
	made   changes
	open   func() shardStore
	master *redisconn.Master // nil without Sentinels
	cancel context.CancelFunc

	mu    sync.Mutex
	store shardStore // nil after Close
	calls sync.WaitGroup
}

// shardKeys is what the keys of a shard begin with. It has a hash tag, so that a
// script may use all of them on a Cluster.
type shardKeys string

func newShards(prefix string, tags ...string) []shardKeys {
	shards := make([]shardKeys, len(tags))
	for i, tag := range tags {
		shards[i] = shardKeys(prefix + ":{" + tag + "}:")
	}
	return shards
}

func (s shardKeys) nodesKey() string         { return string(s) + "nodes" }
func (s shardKeys) dyingKey() string         { return string(s) + "dying" }
func (s shardKeys) goneKey() string          { return string(s) + "gone" }
func (s shardKeys) clockKey() string         { return string(s) + "clock" }
func (s shardKeys) watchedKey() string       { return string(s) + "watched" }
func (s shardKeys) markKey(t string) string  { return string(s) + "w:" + t }
func (s shardKeys) generationKey() string    { return string(s) + "generation" } // in the first shard alone
func (s shardKeys) shardsKey() string        { return string(s) + "shards" }     // in the first shard alone
func (s shardKeys) topicKey(t string) string { return string(s) + "t:" + t }
func (s shardKeys) indexKey(l Lease) string {
	return string(s) + "i:" + strconv.FormatInt(l.Generation, 10) + ":" + l.Node
}

// shardOf returns the index of the shard that a topic belongs to.
func (r *Registry) shardOf(topic string) int { return redisconn.ShardOf(topic, len(r.shards)) }

// New opens a Registry in the Redis of rdb.
func New(rdb redis.UniversalClient, options redisconn.Options) (*Registry, error) {
	options, err := options.WithDefaults()
	if err != nil {
		return nil, err
	}
	client, cluster, err := redisconn.ClientOf(rdb)
	if err != nil {
		return nil, err
	}
	r := &Registry{}
	var master *redisconn.Master
	tags := redisconn.Tags[:1]
	if cluster != nil {
		own := redisconn.ClusterOptions(cluster.Options())
		tags = redisconn.Tags
		r.open = func() shardStore { return newClusterStore(own, r.shards) }
	} else {
		own := redisconn.ClientOptions(client.Options())
		master = redisconn.NewMaster(client.Options(), options.ProbeTimeout)
		r.open = func() shardStore { return newSingleStore(own) }
		if master != nil {
			r.open = func() shardStore { return newSentinelStore(*own) }
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

// Close ends the calls under way and waits for them. They return ErrClosed, as later
// ones do. It may be called twice.
func (r *Registry) Close() error {
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

// call runs f. It returns when ctx is done, but f may then go on, because go-redis
// does not notice that a context is cancelled while it waits for an answer. The
// result of f is lost then. f must not touch what the caller owns.
func call[T any](ctx context.Context, r *Registry, what string, f func(shardStore) (T, error)) (T, error) {
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
		return none, errs.Closed
	}
	done := make(chan result, 1)
	r.calls.Go(func() {
		var value T
		err := r.doubt(store) // before f, too, because what Offline takes is gone
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
func (r *Registry) reconnect(old shardStore) {
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
func (r *Registry) cause(ctx context.Context, err error) error {
	if errors.Is(err, errs.LeaseLost) {
		return err
	}
	// The deadline of ctx is also the connection's, and may pass there first.
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
		return errs.Closed
	}
	if reply, ok := errors.AsType[redis.Error](err); ok && !redisconn.IsRefusal(reply.Error()) && !isMoving(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errs.RegistryDown, err)
}

// isReadOnly reports whether a server has refused a write because it is a replica.
func isReadOnly(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	return ok && strings.HasPrefix(redisconn.ScriptError(reply.Error()), "READONLY")
}
