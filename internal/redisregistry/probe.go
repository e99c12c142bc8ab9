package redisregistry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/redisconn"
)

// probe tries every command in every shard, in one round trip, and looks
// whether the nodes agree about the number of shards.
func (r *Registry) probe(ctx context.Context) error {
	denied := make([][]string, len(r.shards))
	count, err := call(ctx, r, "probe", func(store shardStore) (string, error) {
		pipe := newShardPipe(store)
		tried := make([]*redis.Cmd, len(r.shards))
		times := make([]*redis.TimeCmd, len(r.shards))
		asked := clock.Now()
		for i, s := range r.shards {
			on, none := pipe.on(i), Lease{}
			keys := []string{string(s) + "probe:h", string(s) + "probe:s", string(s) + "probe:z"}
			tried[i] = on.Eval(ctx, probeScript.source, keys)
			on.EvalSha(ctx, probeScript.sha, keys)
			times[i] = on.Time(ctx)
			on.HGet(ctx, s.topicKey(""), "")
			on.HVals(ctx, s.topicKey(""))
			on.HGetAll(ctx, s.topicKey(""))
			on.HScan(ctx, s.nodesKey(), 0, "", 1)
			on.HExists(ctx, s.dyingKey(), "")
			on.SRandMemberN(ctx, s.indexKey(none), 1)
			on.SScan(ctx, s.indexKey(none), 0, "", 1)
		}
		// A single server's one shard needs no such key.
		if len(r.shards) > 1 {
			pipe.on(0).SetNX(ctx, r.shards[0].shardsKey(), len(r.shards), 0)
		}
		count := pipe.on(0).Get(ctx, r.shards[0].shardsKey())
		pipe.exec(ctx) // each command has its own error
		for i, cmds := range pipe.pipes {
			var err error
			if denied[i], err = deniedCommands(cmds.Cmds(), tried[i]); err != nil {
				return "", err
			}
		}
		for i, at := range times {
			if at.Err() != nil {
				continue
			}
			r.steps.note(i, at.Val().UnixMicro(), asked, 0)
		}
		if count.Val() != "" && redisconn.AgreedNumber(count.Val()) == 0 {
			return "", r.agreeAnew(ctx, store)
		}
		return count.Val(), nil
	})
	if _, moved := redis.IsMovedError(err); moved && len(r.shards) == 1 {
		return redisconn.ErrClusterNode
	}
	if err != nil {
		return err
	}
	for i, commands := range denied {
		if len(commands) > 0 {
			return fmt.Errorf("redis registry: for keys %s* the server denies %s", r.shards[i], strings.Join(commands, ", "))
		}
	}
	if count != "" && count != strconv.Itoa(len(r.shards)) {
		return fmt.Errorf("%w: Redis: a Registry of %s shards lies under the prefix %q, and this client gives %d: use a *redis.ClusterClient on every node, or on none",
			errs.Invalid, count, r.prefix, len(r.shards))
	}
	return nil
}

// agreeAnew replaces a number of shards that herald cannot have written.
func (r *Registry) agreeAnew(ctx context.Context, store shardStore) error {
	key := r.shards[0].shardsKey()
	r.strays.note(1, key)
	pipe := newShardPipe(store)
	if len(r.shards) > 1 {
		pipe.on(0).Set(ctx, key, len(r.shards), 0)
	} else {
		pipe.on(0).Unlink(ctx, key)
	}
	_, err := pipe.exec(ctx)
	return err
}

// deniedCommands returns the commands that a server denies, with its reasons, or
// another error. tried is the reply of the script that tries what the scripts do.
func deniedCommands(cmds []redis.Cmder, tried *redis.Cmd) (denied []string, err error) {
	for _, cmd := range cmds {
		err := answerError(cmd)
		if err == nil {
			continue
		}
		if errors.Is(err, errMasters) && redisconn.Replied(err, "NOPERM") {
			return []string{fmt.Sprintf("CLUSTER SLOTS (%v)", err)}, nil
		}
		reply, ok := errors.AsType[redis.Error](err)
		if !ok || isMoving(err) || redisconn.IsRefusal(reply.Error()) && !redis.IsPermissionError(reply) {
			return nil, err
		}
		denied = append(denied, fmt.Sprintf("%s (%v)", strings.ToUpper(cmd.FullName()), err))
	}
	if tried.Err() != nil {
		return slices.Compact(denied), nil
	}
	inside, err := tried.StringSlice()
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(inside); i += 2 {
		denied = append(denied, fmt.Sprintf("%s (%s)", inside[i], inside[i+1]))
	}
	return slices.Compact(denied), nil
}

// Evicts returns the policy by which a server may evict any key, or "" if none does
// or tells.
func (r *Registry) Evicts(ctx context.Context) string {
	policy, _ := call(ctx, r, "read the policy", func(store shardStore) (string, error) {
		pipe := newShardPipe(store)
		infos := make([]*redis.StringCmd, len(r.shards))
		for i := range r.shards {
			infos[i] = pipe.on(i).Info(ctx, "memory")
		}
		pipe.exec(ctx) // each command has its own error
		for _, info := range infos {
			_, after, _ := strings.Cut(info.Val(), "maxmemory_policy:")
			if policy, _, _ := strings.Cut(after, "\r"); strings.HasPrefix(policy, "allkeys-") {
				return policy, nil
			}
		}
		return "", nil
	})
	return policy
}
