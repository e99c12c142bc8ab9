package redisregistry

import (
	"context"
	"crypto/sha1"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/places"
	"github.com/heraldgo/herald/internal/redisconn"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// A luaScript is a script, the name that a server knows it by, and what it
// answers.
type luaScript struct {
	source, sha string
	answers     answerKind
}

type answerKind uint8

const (
	answersNumber answerKind = 1 << iota
	answersText
	answersList
	answersNothing // if a lease is lost
)

// check returns the error of a reply. A reply of a kind that the script never answers
// is one.
func (s luaScript) check(reply *redis.Cmd) error {
	value, err := reply.Result()
	var kind answerKind
	switch value.(type) {
	case int64:
		kind = answersNumber
	case string:
		kind = answersText
	case []any:
		kind = answersList
	}
	if err == redis.Nil {
		kind, err = answersNothing, nil
	}
	if err == nil && kind&s.answers == 0 {
		err = fmt.Errorf("herald: Redis answered a script with %T", value)
	}
	return err
}

// script returns lua/common.lua followed by the file of that name.
func script(name string, answers answerKind) luaScript {
	var source strings.Builder
	for _, file := range []string{"lua/common.lua", "lua/" + name + ".lua"} {
		b, err := luaFiles.ReadFile(file)
		if err != nil {
			panic(err) // the file is not in the program
		}
		source.Write(b)
	}
	s := luaScript{source.String(), fmt.Sprintf("%x", sha1.Sum([]byte(source.String()))), answers}
	scriptSources[s.sha] = s.source
	return s
}

// scriptSources are the scripts by the name that a server knows them by.
var scriptSources = make(map[string]string)

var (
	addScript     = script("add", answersList|answersNothing)
	removeScript  = script("remove", answersList)
	takeScript    = script("take", answersList)
	renewScript   = script("renew", answersText|answersNothing)
	releaseScript = script("release", answersNumber)
	markScript    = script("mark", answersNumber)
	sweepScript   = script("sweep", answersList)
	offlineScript = script("offline", answersList)
	checkScript   = script("check", answersList|answersNothing)
	watchScript   = script("watch", answersList)
	probeScript   = script("probe", answersList)
	mendScript    = script("mend", answersList)
)

// maxBatch is the most commands of one pipeline.
const maxBatch = 500

// A scriptCall is one script to run.
type scriptCall struct {
	shard int
	keys  []string
	args  []any

	// For scripts that answer changes: what the last keys are of.

	session Session
	places  []places.Place
}

// runScript runs a script once for each call, those of a shard in order, and returns
// the replies. Each has its own error. runScript returns the first of these that is
// not an answer of the script.
func runScript(ctx context.Context, store shardStore, s luaScript, calls []scriptCall) ([]*redis.Cmd, error) {
	replies := make([]*redis.Cmd, 0, len(calls))
	for batch := range slices.Chunk(calls, maxBatch) {
		pipe := newShardPipe(store)
		sent := len(replies)
		for _, c := range batch {
			replies = append(replies, pipe.on(c.shard).EvalSha(ctx, s.sha, c.keys, c.args...))
		}
		if _, err := pipe.exec(ctx); err != nil {
			return replies, err
		}
		for _, reply := range replies[sent:] {
			if err := s.check(reply); err != nil {
				return replies, err
			}
		}
	}
	return replies, nil
}

// runOne runs a script once.
func runOne(ctx context.Context, store shardStore, s luaScript, call scriptCall) (*redis.Cmd, error) {
	replies, err := runScript(ctx, store, s, []scriptCall{call})
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}

// errUnanswered is the error of a command that has no answer yet. go-redis
// leaves commands as they are if it gets no connection for them, and without
// an error nil would pass for an answer.
var errUnanswered = errors.New("herald: Redis gave no answer")

func markUnanswered(cmds []redis.Cmder) {
	for _, cmd := range cmds {
		cmd.SetErr(errUnanswered)
	}
}

// run sends the commands to the client's server in one go. Each then has its answer
// or an error. Scripts that the server does not know have done nothing, and are run
// again. The first of them brings its source, so each attempt gets further, however
// often the server forgets its scripts.
func run(ctx context.Context, client *redis.Client, cmds []redis.Cmder) {
	exec(ctx, client, cmds)
	for {
		cmds = slices.DeleteFunc(slices.Clone(cmds), func(cmd redis.Cmder) bool { return !lacksScript(cmd) })
		if len(cmds) == 0 {
			return
		}
		eval := withSource(ctx, cmds[0])
		again := slices.Clone(cmds)
		again[0] = eval
		exec(ctx, client, again)
		copyReply(cmds[0], eval)
		cmds = cmds[1:]
	}
}

// exec sends the commands in one pipeline. Those without an answer get the pipeline's
// error.
func exec(ctx context.Context, client *redis.Client, cmds []redis.Cmder) {
	markUnanswered(cmds)
	err := redisconn.Calm(func() error {
		pipe := client.Pipeline()
		pipe.BatchProcess(ctx, cmds...)
		_, err := pipe.Exec(ctx)
		return err
	})
	if err == nil {
		return
	}
	for _, cmd := range cmds {
		if cmd.Err() == errUnanswered {
			cmd.SetErr(noReply(err))
		}
	}
}

// noReply returns err for a command that was not sent, or not answered, because of
// err. If that is Redis' reply to something else, as when the connection was opened,
// its text stays, but it must not pass for a reply to this command: least of all
// redis.Nil.
func noReply(err error) error {
	if _, ok := errors.AsType[redis.Error](err); ok {
		return redisconn.Error(err.Error())
	}
	return err
}

// lacksScript reports whether the command is a script that the server does not know.
func lacksScript(cmd redis.Cmder) bool {
	return cmd.Name() == "evalsha" && redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT")
}

// withSource returns an EVAL in the place of an EVALSHA.
func withSource(ctx context.Context, evalSHA redis.Cmder) *redis.Cmd {
	args := slices.Clone(evalSHA.Args())
	args[0], args[1] = "eval", scriptSources[args[1].(string)]
	eval := redis.NewCmd(ctx, args...)
	eval.SetFirstKeyPos(3)
	return eval
}

// copyReply gives an EVALSHA the answer of the EVAL in its place.
func copyReply(evalSHA redis.Cmder, eval *redis.Cmd) {
	evalSHA.(*redis.Cmd).SetVal(eval.Val())
	evalSHA.SetErr(eval.Err())
}
