package redisconn

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// A Scripter runs scripts and pipelines on a client that can be replaced: a client
// keeps its connections to a server that is no longer the master. Its methods may be
// called concurrently.
type Scripter struct {
	scripts
	options *redis.Options
	way     atomic.Pointer[scriptWay]
	closed  atomic.Bool
}

// A scriptWay is how a Scripter reaches a server. EVALSHA goes by the lines, and
// everything else by the client.
type scriptWay struct {
	client *redis.Client
	lines  *lines
}

func newScriptWay(options *redis.Options) *scriptWay {
	client := NewClient(options)
	return &scriptWay{client, newLines(client.Options())}
}

func (w *scriptWay) close() {
	w.client.Close()
	w.lines.close()
}

// NewScripter returns a Scripter with connections of its own, which Close ends.
func NewScripter(options *redis.Options) *Scripter {
	s := &Scripter{options: options}
	s.way.Store(newScriptWay(options))
	s.on = func(_ context.Context, call func(*redis.Client) error) error { return call(s.Client()) }
	return s
}

// Renew drops all connections. Calls under way fail.
func (s *Scripter) Renew() {
	s.way.Swap(newScriptWay(s.options)).close()
	if s.closed.Load() {
		s.way.Load().close()
	}
}

// Close drops all connections for good.
func (s *Scripter) Close() {
	s.closed.Store(true)
	s.way.Load().close()
}

// Client returns the current client.
func (s *Scripter) Client() *redis.Client { return s.way.Load().client }

// EvalSha runs a script that the server has, as almost all calls of scripts do.
func (s *Scripter) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, "EVALSHA", sha, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	value, err := s.way.Load().lines.run(ctx, append(words, args...)...)
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(value)
	cmd.SetErr(err)
	return cmd
}

// scripts has the methods of a redis.Scripter, and Pipelined, on the client that on
// chooses. on may run call more than once, and returns the error of the last run, or
// why there is no client.
type scripts struct {
	on func(ctx context.Context, call func(*redis.Client) error) error
}

var _ redis.Scripter = (*scripts)(nil)

// Pipelined does what that of redis.Client does, and so do the other methods.
func (s *scripts) Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) (cmds []redis.Cmder, err error) {
	down := s.on(ctx, func(c *redis.Client) error {
		cmds, err = c.Pipelined(ctx, fn)
		if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() == nil }) {
			return nil // part of it was carried out, so none of it may be repeated
		}
		return err
	})
	return cmds, cmp.Or(down, err)
}

func (s *scripts) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return s.cmd(ctx, func(c *redis.Client) *redis.Cmd { return c.Eval(ctx, script, keys, args...) })
}

func (s *scripts) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return s.cmd(ctx, func(c *redis.Client) *redis.Cmd { return c.EvalSha(ctx, sha, keys, args...) })
}

func (s *scripts) EvalRO(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return s.cmd(ctx, func(c *redis.Client) *redis.Cmd { return c.EvalRO(ctx, script, keys, args...) })
}

func (s *scripts) EvalShaRO(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return s.cmd(ctx, func(c *redis.Client) *redis.Cmd { return c.EvalShaRO(ctx, sha, keys, args...) })
}

func (s *scripts) ScriptExists(ctx context.Context, hashes ...string) *redis.BoolSliceCmd {
	cmd := redis.NewBoolSliceCmd(ctx)
	cmd.SetErr(s.on(ctx, func(c *redis.Client) error {
		cmd = c.ScriptExists(ctx, hashes...)
		return cmd.Err()
	}))
	return cmd
}

func (s *scripts) ScriptLoad(ctx context.Context, script string) *redis.StringCmd {
	cmd := redis.NewStringCmd(ctx)
	cmd.SetErr(s.on(ctx, func(c *redis.Client) error {
		cmd = c.ScriptLoad(ctx, script)
		return cmd.Err()
	}))
	return cmd
}

func (s *scripts) cmd(ctx context.Context, call func(*redis.Client) *redis.Cmd) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(s.on(ctx, func(c *redis.Client) error {
		cmd = call(c)
		return cmd.Err()
	}))
	return cmd
}
