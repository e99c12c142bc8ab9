package redislog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A Config says where a Log is.
type Config struct {
	Client  Client
	Limits  store.Limits
	Keys    string  // with which its keys begin; on a Cluster it has a hash tag
	Topics  string  // with which the channels of topics begin
	Fences  string  // the node's own channel
	Sharded bool    // the channels are those of SPUBLISH
	Cluster bool    // a script must not name keys that may be missing
	Copies  *Budget // for the memory of copies of segments; nil if there are none
}

// A Client talks to the master that has the log. It must not repeat a command
// whose answer was lost, nor follow ASK.
type Client interface {
	redis.Scripter
	Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
}

// A Log is a node's access to the log of one partition. Its methods may be called
// concurrently. They keep no slice of their caller's.
//
// If the error of a call that publishes wraps errs.Unknown, it may have been done.
// After any other error it never will be.
type Log struct {
	config  Config
	publish string
	bounds  bounds
	copies  copies
	looks   looks

	mu     sync.Mutex
	agreed store.Agreement // as far as answers have told it
	text   string          // agreed, for the scripts
	end    history.Point   // the last one that an answer named
}

// bounds are the most that one call of a script may have, so that it blocks Redis for
// a few milliseconds at most, and Lua can unpack its arguments.
type bounds struct {
	drafts, topics int // of a batch, in total

	asked    int // topics whose last offset a survey asks for
	chains   int // chains that it walks
	segments int // segments that they lead through
	walked   int // entries that it looks at
	whole    int // entries that it may return whole
	read     int // entries of a read
	bytes    int // of the entries that are looked at or read; the last one may exceed it
	stale    int // topics that Trim removes in one step
}

var usual = bounds{
	drafts: 64, topics: 1024,
	asked: 1000, chains: 256, segments: 16, walked: 512, whole: 64, read: 512, bytes: 1 << 20, stale: 1000,
}

// New returns the Log of a partition. It asks nothing of Redis.
func New(c Config) *Log {
	l := &Log{
		config: c, publish: "PUBLISH", bounds: usual, agreed: c.Limits.Wanted(),
		copies: copies{size: c.Limits.Segment, least: leastAlone, budget: c.Copies},
	}
	l.text = agreementText(l.agreed)
	if c.Sharded {
		l.publish = "SPUBLISH"
	}
	return l
}

func (l *Log) table() string           { return l.config.Keys + "t" }
func (l *Log) segment(n uint64) string { return l.config.Keys + "s:" + strconv.FormatUint(n, 10) }

// args returns the arguments that every script begins with, with room for more.
func (l *Log) args(known history.Point, more int) []any {
	fresh := uint64(0)
	for fresh == 0 {
		fresh = rand.Uint64()
	}
	l.mu.Lock()
	agreement := l.text
	l.mu.Unlock()
	return append(make([]any, 0, 4+more), hex(known.Epoch), uint64(known.Offset), hex(history.Epoch(fresh)), agreement)
}

// Agreed returns how much the nodes have agreed to keep, as far as answers have told
// it.
func (l *Log) Agreed() store.Agreement {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agreed
}

// told notes what an answer said. Answers may overtake each other.
func (l *Log) told(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = a.end
	if a := a.agreed; a.Version > 0 && a.Version >= l.agreed.Version {
		l.agreed, l.text = a, agreementText(a)
	}
}

func hex(e history.Epoch) string { return strconv.FormatUint(uint64(e), 16) }

// run runs a script and returns its answer: the parts that all answers have, and as
// many more as parts says.
func (l *Log) run(ctx context.Context, s *redis.Script, keys []string, args []any, parts int) (answer, error) {
	var value any
	err := redisconn.Calm(func() (err error) {
		value, err = s.Run(ctx, l.config.Client, keys, args...).Result()
		return err
	})
	if err != nil {
		return answer{}, explain(err)
	}
	a, err := newAnswer(value, common+parts)
	if err == nil {
		l.told(a)
	}
	return a, err
}

// unknownCommand matches the replies of Redis and Valkey if a script calls a command
// that they lack.
var unknownCommand = regexp.MustCompile(`Unknown (\w+ )?command called from`)

// explain says which Redis is needed, if this one lacks a command: ZMSCORE came with
// Redis 6.2 (https://redis.io/docs/latest/commands/zmscore).
func explain(err error) error {
	if unknownCommand.MatchString(err.Error()) {
		return fmt.Errorf("a Retention needs Redis 6.2 or later: %w", err)
	}
	return err
}

// outcome returns the error of a call that publishes.
func outcome(what string, err error) error {
	if err == nil {
		return nil
	}
	said, replied := errors.AsType[redis.Error](err)
	replied = replied && !strings.HasPrefix(said.Error(), "KEPT ") // by append.lua
	dialed, ok := errors.AsType[*net.OpError](err)
	if replied || ok && dialed.Op == "dial" || errors.Is(err, redis.ErrPoolTimeout) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%w: %s: %w", errs.Unknown, what, err)
}

// Append appends a batch of at most 64 messages and publishes it, all or nothing, as
// store.Log does. The bodies are those of package packet. Published of the reply is
// not set.
func (l *Log) Append(ctx context.Context, known history.Point, segment uint64, batch []store.Draft) (store.Reply, error) {
	args, topics := l.args(known, 4+4*len(batch)), 0
	size := l.config.Limits.Segment
	args = append(args, segment, uint64(size), l.config.Topics, l.publish)
	for _, d := range batch {
		n := len(d.Topics)
		if topics += n; d.Unkept {
			n = -n
		}
		args = append(args, n, d.Body)
		for _, topic := range d.Topics {
			args = append(args, topic)
		}
		if len(d.Topics) == 0 {
			return store.Reply{}, fmt.Errorf("%w: a message without topics", errs.Invalid)
		}
	}
	if len(batch) > min(l.bounds.drafts, int(size)) || topics > l.bounds.topics {
		return store.Reply{}, fmt.Errorf("%w: a batch of %d messages and %d topics is too large", errs.Invalid, len(batch), topics)
	}
	if err := ctx.Err(); err != nil {
		return store.Reply{}, err
	}
	a, err := l.run(ctx, appendScript, []string{l.table(), l.segment(segment)}, args, 1)
	if err != nil {
		return store.Reply{}, outcome("append to the log", err)
	}
	reply := store.Reply{Outcome: store.Outcome(a.number(common)), End: a.end}
	if reply.Outcome == store.WrongSegment {
		reply.Segment = uint64(a.number(common + 1))
	}
	if a.err == nil && (reply.Outcome < store.Taken || reply.Outcome > store.WrongSegment) {
		a.fail("an append with the outcome %d", reply.Outcome)
	}
	if a.err != nil { // it may have published
		return store.Reply{}, outcome("append to the log", a.err)
	}
	return reply, nil
}

// Publish publishes a batch without the log.
func (l *Log) Publish(ctx context.Context, batch []store.Draft) error {
	if err := ctx.Err(); err != nil || len(batch) == 0 {
		return err
	}
	var cmds []redis.Cmder
	err := redisconn.Calm(func() (err error) {
		cmds, err = l.config.Client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, d := range batch {
				for _, topic := range d.Topics {
					pipe.Do(ctx, l.publish, l.config.Topics+topic, d.Body)
				}
			}
			return nil
		})
		return err
	})
	if err = outcome("publish without the log", err); err == nil {
		return nil
	}
	for _, cmd := range cmds {
		if cmd.Err() == nil {
			return errs.InPart(err)
		}
	}
	return err
}

// Fence returns the end of the log. In the same step it publishes the end and the
// number to the node, behind everything that was published before.
func (l *Log) Fence(ctx context.Context, known history.Point, number uint64) (history.Point, error) {
	l.copies.expire()
	args := append(l.args(known, 3), l.config.Fences, l.publish, number)
	a, err := l.run(ctx, fenceScript, []string{l.table()}, args, 0)
	if err != nil {
		return history.Point{}, fmt.Errorf("fence of the log: %w", err)
	}
	return a.end, nil
}

// Renew begins a new epoch, unless the log has left the given one.
func (l *Log) Renew(ctx context.Context, known history.Point, epoch history.Epoch) (history.Point, error) {
	a, err := l.run(ctx, renewScript, []string{l.table()}, append(l.args(known, 1), hex(epoch)), 0)
	if err != nil {
		return history.Point{}, fmt.Errorf("renew the log: %w", err)
	}
	return a.end, nil
}

// Trim removes what retention wants to remove.
func (l *Log) Trim(ctx context.Context, known history.Point) error {
	for n := int64(-1); ; {
		keys := []string{l.table()}
		if n >= 0 {
			keys = append(keys, l.segment(uint64(n)))
		}
		args := append(l.args(known, 3), uint64(l.config.Limits.Segment), l.bounds.stale, n)
		a, err := l.run(ctx, trimScript, keys, args, 2)
		if err == nil {
			known, err = history.Point{Epoch: a.end.Epoch}, a.err
		}
		if err != nil {
			return fmt.Errorf("trim the log: %w", err)
		}
		left, next := a.number(common), a.signed(common+1)
		if a.err != nil {
			return fmt.Errorf("trim the log: %w", a.err)
		}
		if left == 0 && next < 0 {
			return nil
		}
		n = next
	}
}
