package redisregistry

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/clock"
)

// offlineBatch is the most users that one call of Offline takes from a shard.
const offlineBatch = 1000

// Offline implements herald.Registry.Offline. It returns at most 1,000 users of each
// shard. If a shard fails and others have users due, it returns these and no error.
func (r *Registry) Offline(ctx context.Context, delay time.Duration) ([]string, error) {
	return call(ctx, r, "offline", func(store shardStore) ([]string, error) {
		// A shard that does not answer must not use up the time in which users taken
		// from the others can still be returned.
		ctx := ctx
		if end, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
			defer cancel()
		}
		asked := clock.Now()
		calls := make([]scriptCall, len(r.shards))
		for i, s := range r.shards {
			args := []any{delay.Microseconds(), offlineBatch, r.steps.latest(i, asked)}
			calls[i] = scriptCall{shard: i, keys: []string{s.goneKey()}, args: args}
		}
		replies, err := runScript(ctx, store, offlineScript, calls)
		var users []string
		for i, reply := range replies {
			some, at, wrong := decodeOffline(reply)
			if wrong == nil {
				r.steps.note(i, at, asked, delay)
				users = append(users, some...)
			} else if err == nil {
				err = wrong
			}
		}
		if len(users) > 0 { // they have been taken out of Redis; the next call meets the error
			return users, nil
		}
		return nil, err
	})
}

// decodeOffline decodes the answer of offline.lua: users, and the server's
// time in microseconds.
func decodeOffline(reply *redis.Cmd) (users []string, at int64, err error) {
	parts, err := reply.Slice()
	if err != nil {
		return nil, 0, err
	}
	if len(parts) != 2 {
		return nil, 0, fmt.Errorf("answer of %d parts", len(parts))
	}
	text, _ := parts[0].(string)
	if at, err = strconv.ParseInt(text, 10, 64); err != nil {
		return nil, 0, err
	}
	list, _ := parts[1].([]any)
	for _, user := range list {
		if user, ok := user.(string); ok {
			users = append(users, user)
		}
	}
	return users, at, nil
}

// clockSteps notices that the time of a shard's server has stepped forward. For as
// long as a user may come back, time then goes on as before: otherwise all users who
// have just left would count as gone at once.
type clockSteps struct {
	mu     sync.Mutex
	shards []clockOffset
}

// A clockOffset is how far a server's time is ahead of the clock of this
// process, in microseconds.
type clockOffset struct {
	known  bool
	offset int64
	at     int64 // on clock: when it was last measured
}

// stepSlack is by how much, in microseconds, the offset may grow without a step.
const stepSlack = int64(time.Second / time.Microsecond)

// note notes the server's time, which was asked for at the time asked on clock.
func (s *clockSteps) note(shard int, server, asked int64, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.shards[shard]
	offset := server - asked/1000
	if !o.known || offset <= o.offset+stepSlack || asked-o.at > int64(delay) {
		*o = clockOffset{true, offset, asked}
	}
}

// latest returns the latest time, in microseconds, that the server can have if its
// clock has not stepped forward, or "" if that is not known.
func (s *clockSteps) latest(shard int, asked int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.shards[shard]
	if !o.known {
		return ""
	}
	return strconv.FormatInt(o.offset+asked/1000+stepSlack, 10)
}
