package redisregistry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// A clusterStore sends each shard's commands to the master of its slot.
//
// go-redis would do that too, but it repeats commands that may have been carried out,
// and keeps to a dead master for up to a minute. So here go-redis knows the masters
// and follows an ASK, and clusterStore does the rest.
type clusterStore struct {
	*redis.ClusterClient
	shards []shardKeys
}

func newClusterStore(options *redis.ClusterOptions, shards []shardKeys) *clusterStore {
	return &clusterStore{redisconn.NewClusterClient(options), shards}
}

// A shardCmd is a command for a shard.
type shardCmd struct {
	redis.Cmder
	shard  int
	server string // the one that answered
}

// exec follows the shards to where they are. A command that is refused because its
// slot is migrating is tried again until ctx is done, or for the ReadTimeout if ctx
// has no deadline. A command that may have been carried out is not tried again.
func (s *clusterStore) exec(ctx context.Context, pipes []redis.Pipeliner) []string {
	var all []*shardCmd
	for shard, pipe := range pipes {
		if pipe == nil {
			continue
		}
		for _, cmd := range pipe.Cmds() {
			all = append(all, &shardCmd{Cmder: cmd, shard: shard})
		}
	}
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(s.Options().ReadTimeout)
	}
	todo := slices.Clone(all)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		s.try(ctx, todo)
		todo = slices.DeleteFunc(todo, func(cmd *shardCmd) bool { return !isMoving(cmd.Err()) })
		if len(todo) == 0 || time.Now().Add(wait).After(end) || !sleep(ctx, wait) {
			break
		}
	}
	servers := make([]string, len(pipes))
	for _, cmd := range all {
		servers[cmd.shard] = cmd.server
	}
	return servers
}

// errMasters is why a command was not sent: CLUSTER SLOTS had no answer.
var errMasters = errors.New("find the masters of the Cluster")

// sleep returns false if ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// try sends each command once, to all masters at the same time.
func (s *clusterStore) try(ctx context.Context, cmds []*shardCmd) {
	masters := make(map[int]*redis.Client) // by shard
	batches := make(map[*redis.Client][]*shardCmd)
	for _, cmd := range cmds {
		master := masters[cmd.shard]
		if master == nil {
			err := redisconn.Calm(func() (err error) {
				master, err = s.MasterForKey(ctx, s.shards[cmd.shard].nodesKey())
				return err
			})
			if err != nil {
				cmd.SetErr(fmt.Errorf("%w: %w", errMasters, noReply(err)))
				continue
			}
			masters[cmd.shard] = master
		}
		batches[master] = append(batches[master], cmd)
	}
	var sent sync.WaitGroup
	for master, batch := range batches {
		if len(batches) == 1 {
			s.send(ctx, master, batch)
			continue
		}
		sent.Go(func() { s.send(ctx, master, batch) })
	}
	sent.Wait()
}

// send sends the commands to the master in one go, and then, to the slot's next
// master, those that it has answered with an ASK.
func (s *clusterStore) send(ctx context.Context, master *redis.Client, cmds []*shardCmd) {
	list := make([]redis.Cmder, len(cmds))
	for i, cmd := range cmds {
		list[i] = cmd.Cmder
	}
	run(ctx, master, list)
	reload := false
	for _, cmd := range cmds {
		cmd.server = master.Options().Addr
		err := cmd.Err()
		if server, ok := redis.IsAskError(err); ok {
			cmd.server = server
			s.ask(ctx, cmd.Cmder)
			if lacksScript(cmd) {
				eval := withSource(ctx, cmd)
				s.ask(ctx, eval)
				copyReply(cmd.Cmder, eval)
			}
			continue
		}
		var reply redis.Error
		_, moved := redis.IsMovedError(err)
		reload = reload || moved || isReadOnly(err) || err != nil && !errors.As(err, &reply) || redis.IsClusterDownError(err)
	}
	if reload {
		s.ReloadState(ctx) // does not wait
	}
}

// ask has go-redis send the command to where an ASK leads.
func (s *clusterStore) ask(ctx context.Context, cmd redis.Cmder) {
	if err := redisconn.Calm(func() error { return s.Process(ctx, cmd) }); errors.Is(err, redisconn.ErrGoRedis) {
		cmd.SetErr(err)
	}
}

// isMoving reports whether a command failed because its slot is migrating. Nothing has
// been done then, or so little that it is safe to do it again.
func isMoving(err error) bool {
	for _, prefix := range []string{"MOVED", "ASK", "TRYAGAIN"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	// A key that the script had found has moved, or the script has removed it.
	return err != nil && strings.Contains(err.Error(), "access a non local key")
}
