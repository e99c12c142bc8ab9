package redisregistry

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
)

// A shardStore is the Registry's own client of Redis: of one server that has the only
// shard, or of a Cluster that has many.
type shardStore interface {
	Pipeline() redis.Pipeliner
	Close() error

	// exec sends the commands listed for each shard, those of a shard in order, and
	// returns when each has its answer or its own error. It returns, by shard, the
	// server that answered the last command, or nil if that cannot change without an
	// error.
	exec(ctx context.Context, pipes []redis.Pipeliner) (servers []string)
}

// A shardPipe lists commands for shards, and sends them in one go.
type shardPipe struct {
	store shardStore
	pipes []redis.Pipeliner // by shard; nil if there is nothing to do
}

func newShardPipe(store shardStore) *shardPipe { return &shardPipe{store: store} }

// on returns the list of a shard.
func (p *shardPipe) on(shard int) redis.Pipeliner {
	for len(p.pipes) <= shard {
		p.pipes = append(p.pipes, nil)
	}
	if p.pipes[shard] == nil {
		p.pipes[shard] = p.store.Pipeline()
	}
	return p.pipes[shard]
}

// exec sends the commands. It returns what shardStore.exec does, and the first error
// that is no answer.
func (p *shardPipe) exec(ctx context.Context) (servers []string, err error) {
	for _, pipe := range p.pipes {
		if pipe != nil {
			markUnanswered(pipe.Cmds())
		}
	}
	servers = p.store.exec(ctx, p.pipes)
	for _, pipe := range p.pipes {
		if pipe == nil {
			continue
		}
		for _, cmd := range pipe.Cmds() {
			if err := answerError(cmd); err != nil {
				return servers, err
			}
		}
	}
	return servers, nil
}

// answerError returns the error of a command that was sent. For commands that read
// one value, and for scripts, redis.Nil is an answer.
func answerError(cmd redis.Cmder) error {
	err := cmd.Err()
	if err != redis.Nil {
		return err
	}
	switch cmd.Name() {
	case "get", "hget", "evalsha":
		return nil
	}
	return fmt.Errorf("herald: Redis answered %s with nothing", strings.ToUpper(cmd.FullName()))
}

// A singleStore is a client of a server that has the only shard.
type singleStore struct{ *redis.Client }

func newSingleStore(options *redis.Options) singleStore {
	return singleStore{redisconn.NewClient(options)}
}

func (s singleStore) exec(ctx context.Context, pipes []redis.Pipeliner) []string {
	for _, pipe := range pipes {
		run(ctx, s.Client, pipe.Cmds())
	}
	return nil
}
