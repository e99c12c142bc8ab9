package herald

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// KeepAlive implements [Registry.KeepAlive].
func (r *RedisRegistry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (int64, error) {
	return redisCall(ctx, r, "keep alive", func(c *redis.Client) (int64, error) {
		reply, err := runOne(ctx, c, keepAliveScript,
			[]string{r.nodesKey(), r.dyingKey(), r.generationKey()},
			node.ID, node.Generation, ttl.Microseconds(), node.Conns, node.Version)
		if err != nil {
			return 0, err
		}
		if errors.Is(reply.Err(), redis.Nil) {
			return 0, ErrLeaseLost
		}
		return reply.Int64()
	})
}

// Release implements [Registry.Release].
func (r *RedisRegistry) Release(ctx context.Context, lease Lease) error {
	_, err := redisCall(ctx, r, "release", func(c *redis.Client) (*redis.Cmd, error) {
		return r.release(ctx, c, lease)
	})
	return err
}

func (r *RedisRegistry) release(ctx context.Context, c *redis.Client, lease Lease) (*redis.Cmd, error) {
	return runOne(ctx, c, releaseScript,
		[]string{r.nodesKey(), r.dyingKey(), r.indexKey(lease)}, lease.Node, lease.Generation)
}

// Nodes implements [Registry.Nodes].
func (r *RedisRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	type answer struct {
		nodes []Node
		now   time.Time
	}
	a, err := redisCall(ctx, r, "nodes", func(c *redis.Client) (answer, error) {
		reply, err := runOne(ctx, c, nodesScript, []string{r.nodesKey(), r.dyingKey()})
		if err != nil {
			return answer{}, err
		}
		nodes, now, err := decodeNodes(reply)
		return answer{nodes, now}, err
	})
	return a.nodes, a.now, err
}

// decodeNodes decodes the answer of nodes.lua, ordered by id and generation.
func decodeNodes(reply *redis.Cmd) ([]Node, time.Time, error) {
	parts, err := reply.Slice()
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(parts) != 3 {
		return nil, time.Time{}, fmt.Errorf("answer of %d parts", len(parts))
	}
	text, _ := parts[0].(string)
	micros, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, time.Time{}, err
	}
	now := time.UnixMicro(micros)
	var nodes []Node
	for i, part := range parts[1:] {
		fields, _ := part.([]any)
		for j := 0; j+1 < len(fields); j += 2 {
			id, _ := fields[j].(string)
			record, _ := fields[j+1].(string)
			dying := i == 1
			if dying {
				_, id, _ = strings.Cut(id, ":")
			}
			if n, ok := decodeNode(id, record); ok {
				n.Alive = !dying && now.Before(n.Renewed.Add(n.TTL))
				nodes = append(nodes, n)
			}
		}
	}
	slices.SortFunc(nodes, compareNodes)
	return nodes, now, nil
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
	_, err := redisCall(ctx, r, "sweep", func(c *redis.Client) (*redis.Cmd, error) {
		marked, err := runOne(ctx, c, markScript, []string{r.nodesKey(), r.dyingKey()}, lease.Node, lease.Generation)
		if err != nil {
			return nil, err
		}
		if n, err := marked.Int(); err != nil || n == 0 {
			return nil, err
		}
		for {
			members, err := c.SRandMemberN(ctx, r.indexKey(lease), sweepStep).Result()
			if err != nil {
				return nil, err
			}
			if len(members) == 0 {
				return r.release(ctx, c, lease)
			}
			if err := r.sweepMembers(ctx, c, lease, members); err != nil {
				return nil, err
			}
		}
	})
	return err
}

// sweepMembers removes what these members of the lease's index stand for.
func (r *RedisRegistry) sweepMembers(ctx context.Context, c *redis.Client, lease Lease, members []string) error {
	keys := []string{r.goneKey(), r.indexKey(lease)}
	args := []any{lease.Generation}
	for _, member := range members {
		p, _ := decodePlace(member) // what is none of herald's leaves the index only
		keys = append(keys, r.topicKey(p.topic))
		args = append(args, member, p.id, p.user)
	}
	_, err := runOne(ctx, c, sweepScript, keys, args...)
	return err
}

// offlineBatch is the most users that one call of Offline takes.
const offlineBatch = 1000

// Offline implements [Registry.Offline], at most 1,000 users a call.
func (r *RedisRegistry) Offline(ctx context.Context, delay time.Duration) ([]string, error) {
	return redisCall(ctx, r, "offline", func(c *redis.Client) ([]string, error) {
		reply, err := runOne(ctx, c, offlineScript, []string{r.goneKey()}, delay.Microseconds(), offlineBatch)
		if err != nil {
			return nil, err
		}
		return reply.StringSlice()
	})
}
