package herald

import (
	"context"
	"crypto/sha1"
	"embed"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// A RedisRegistry keeps the Registry in hashes of a Redis server, from
// version 6.2 on, that has one master: a single server, or one that Sentinel
// watches. It needs no module and no expiry of keys.
//
// What it reads back is not trusted: a value that is none of herald's is
// skipped, as if it were not there, and no error says so. It stays where it
// is, and a user's hash that holds one never looks empty: that user is never
// reported offline, nor online again.
type RedisRegistry struct {
	shard   string         // what every key begins with, hash tag included
	options *redis.Options // of the Registry's own clients

	mu     sync.Mutex
	client *redis.Client // nil after Close
	calls  sync.WaitGroup
}

// NewRedisRegistry returns a Registry in the server and database of rdb, which
// is a *redis.Client, from NewClient or NewFailoverClient: an error names any
// other type. The Registry opens connections of its own, with rdb's options,
// and leaves rdb as it is; with Sentinel, rdb must stay open as long.
//
// It asks the server once, for at most the ReadTimeout of rdb, whether it may
// do all that it will need, and the error names what the server denies.
// Errors wrap ErrRegistryDown where the server could not be reached.
func NewRedisRegistry(rdb redis.UniversalClient, opts *RedisOptions) (*RedisRegistry, error) {
	client, err := singleRedis(rdb)
	if err != nil {
		return nil, err
	}
	options, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &RedisRegistry{shard: options.Prefix + ":{0}:", options: registryOptions(client.Options())}
	r.client = redis.NewClient(r.options)
	if err := r.probe(context.Background()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// registryOptions derives the options of the Registry's own client.
func registryOptions(user *redis.Options) *redis.Options {
	o := *user
	o.MaxRetries = -1 // the caller decides whether to do it again
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	o.PoolSize = 4 // batches, a few at a time
	o.MinIdleConns = 0
	o.MaxIdleConns = 0
	o.MaxActiveConns = 0
	o.PipelinePoolSize = -1
	o.PushNotificationProcessor = nil // the user's client's
	o.ClientSideCache = nil           // presence is read, not remembered
	o.ClientSideCacheConfig = nil
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &o
}

// Close ends the calls that are under way, which then answer ErrClosed as
// later ones do, and waits for them. It may be called twice.
func (r *RedisRegistry) Close() error {
	r.mu.Lock()
	client := r.client
	r.client = nil
	r.mu.Unlock()
	var err error
	if client != nil {
		err = client.Close()
	}
	r.calls.Wait()
	return err
}

// Keys. All of a shard carry one hash tag, so that a script may use them
// together on a cluster.

func (r *RedisRegistry) nodesKey() string         { return r.shard + "nodes" }
func (r *RedisRegistry) dyingKey() string         { return r.shard + "dying" }
func (r *RedisRegistry) goneKey() string          { return r.shard + "gone" }
func (r *RedisRegistry) generationKey() string    { return r.shard + "generation" }
func (r *RedisRegistry) topicKey(t string) string { return r.shard + "t:" + t }
func (r *RedisRegistry) indexKey(l Lease) string {
	return fmt.Sprintf("%si:%d:%s", r.shard, l.Generation, l.Node)
}

// redisCall runs f, which may keep on after ctx is done: go-redis does not
// notice that a context is cancelled while it waits for an answer. f must not
// touch what the caller owns. What f returns is lost then.
func redisCall[T any](ctx context.Context, r *RedisRegistry, what string, f func(*redis.Client) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("redis registry: %s: %w", what, err)
	}
	r.mu.Lock()
	client := r.client
	if client == nil {
		r.mu.Unlock()
		return none, ErrClosed
	}
	done := make(chan result, 1)
	r.calls.Go(func() {
		value, err := f(client)
		if isReadOnly(err) {
			r.reconnect(client)
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

// reconnect puts a new client in the place of one whose server has become a
// replica: its other connections would go on reading what is stale there.
func (r *RedisRegistry) reconnect(old *redis.Client) {
	r.mu.Lock()
	if r.client != old {
		r.mu.Unlock()
		return
	}
	r.client = redis.NewClient(r.options)
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
	closed := r.client == nil
	r.mu.Unlock()
	if closed {
		return ErrClosed
	}
	var reply redis.Error
	if !errors.As(err, &reply) || isReadOnly(err) || isNotNow(err) {
		return fmt.Errorf("%w: %w", ErrRegistryDown, err)
	}
	return err
}

// isReadOnly says whether the server is a replica. Redis 6.2 puts the error of
// a script's command inside the script's own.
func isReadOnly(err error) bool {
	return err != nil && (redis.HasErrorPrefix(err, "READONLY") || strings.Contains(err.Error(), "-READONLY "))
}

// isNotNow says whether the server refuses everything for a while.
func isNotNow(err error) bool {
	for _, prefix := range []string{"LOADING", "MASTERDOWN", "NOREPLICAS", "MISCONF", "OOM", "BUSY", "CLUSTERDOWN", "TRYAGAIN"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

//go:embed lua/*.lua
var luaFiles embed.FS

// A luaScript is a script and the name that a server knows it by.
type luaScript struct{ source, sha string }

// script returns the script of a file behind lua/common.lua.
func script(name string) luaScript {
	var source strings.Builder
	for _, file := range []string{"lua/common.lua", "lua/" + name + ".lua"} {
		b, err := luaFiles.ReadFile(file)
		if err != nil {
			panic(err) // the file is not in the program
		}
		source.Write(b)
	}
	return luaScript{source.String(), fmt.Sprintf("%x", sha1.Sum([]byte(source.String())))}
}

var (
	addScript       = script("add")
	removeScript    = script("remove")
	keepAliveScript = script("keepalive")
	nodesScript     = script("nodes")
	releaseScript   = script("release")
	markScript      = script("mark")
	sweepScript     = script("sweep")
	offlineScript   = script("offline")
	probeScript     = script("probe")
)

// redisBatch is the most commands of one pipeline.
const redisBatch = 500

// A scriptCall is one script to run.
type scriptCall struct {
	keys []string
	args []any
}

// runScript runs a script once for each call, in order, and returns the
// replies. Calls that met a server without the script have done nothing, and
// are run again; the first of them brings the script, so that each attempt
// gets on, however often the server is made to forget it.
func runScript(ctx context.Context, c *redis.Client, s luaScript, calls []scriptCall) ([]*redis.Cmd, error) {
	replies := make([]*redis.Cmd, len(calls))
	for from := 0; from < len(calls); from += redisBatch {
		to := min(from+redisBatch, len(calls))
		if err := runBatch(ctx, c, s, calls[from:to], replies[from:to]); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

func runBatch(ctx context.Context, c *redis.Client, s luaScript, calls []scriptCall, replies []*redis.Cmd) error {
	todo := make([]int, len(calls))
	for i := range todo {
		todo[i] = i
	}
	for attempt := 1; len(todo) > 0; attempt++ {
		pipe := c.Pipeline()
		for k, i := range todo {
			if attempt > 1 && k == 0 {
				replies[i] = pipe.Eval(ctx, s.source, calls[i].keys, calls[i].args...)
			} else {
				replies[i] = pipe.EvalSha(ctx, s.sha, calls[i].keys, calls[i].args...)
			}
		}
		pipe.Exec(ctx) // each command has its own error
		var again []int
		for _, i := range todo {
			switch err := replies[i].Err(); {
			case err == nil, errors.Is(err, redis.Nil):
			case redis.HasErrorPrefix(err, "NOSCRIPT"):
				again = append(again, i)
			default:
				return err
			}
		}
		todo = again
	}
	return nil
}

// runOne runs a script once.
func runOne(ctx context.Context, c *redis.Client, s luaScript, keys []string, args ...any) (*redis.Cmd, error) {
	replies, err := runScript(ctx, c, s, []scriptCall{{keys, args}})
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}

// probe tries every command, in one round trip.
func (r *RedisRegistry) probe(ctx context.Context) error {
	denied, err := redisCall(ctx, r, "probe", func(c *redis.Client) ([]string, error) {
		pipe := c.Pipeline()
		none := Lease{}
		keys := []string{r.shard + "probe:h", r.shard + "probe:s", r.shard + "probe:z"}
		tried := pipe.Eval(ctx, probeScript.source, keys)
		pipe.EvalSha(ctx, probeScript.sha, keys)
		pipe.Time(ctx)
		pipe.HGet(ctx, r.topicKey(""), "")
		pipe.HGetAll(ctx, r.nodesKey())
		pipe.SRandMemberN(ctx, r.indexKey(none), 1)
		pipe.SScan(ctx, r.indexKey(none), 0, "", 1)
		cmds, _ := pipe.Exec(ctx)
		var denied []string
		for _, cmd := range cmds {
			err := cmd.Err()
			var reply redis.Error
			switch {
			case err == nil, errors.Is(err, redis.Nil):
			case !errors.As(err, &reply), isReadOnly(err), isNotNow(err), redis.HasErrorPrefix(err, "NOAUTH"), redis.HasErrorPrefix(err, "WRONGPASS"):
				return nil, err
			default:
				denied = append(denied, fmt.Sprintf("%s (%v)", strings.ToUpper(cmd.FullName()), err))
			}
		}
		if inside, err := tried.StringSlice(); err == nil {
			for i := 0; i+1 < len(inside); i += 2 {
				denied = append(denied, fmt.Sprintf("%s (%s)", inside[i], inside[i+1]))
			}
		}
		return denied, nil
	})
	if err != nil {
		return err
	}
	if len(denied) > 0 {
		return fmt.Errorf("redis registry: for keys %s* the server denies %s", r.shard, strings.Join(slices.Compact(denied), ", "))
	}
	return nil
}
