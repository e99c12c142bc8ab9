package herald

import (
	"context"
	"crypto/sha1"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

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
	addScript     = script("add")
	removeScript  = script("remove")
	takeScript    = script("take")
	renewScript   = script("renew")
	releaseScript = script("release")
	markScript    = script("mark")
	sweepScript   = script("sweep")
	offlineScript = script("offline")
	probeScript   = script("probe")
)

// redisBatch is the most commands of one pipeline.
const redisBatch = 500

// A scriptCall is one script to run.
type scriptCall struct {
	shard int
	keys  []string
	args  []any
}

// runScript runs a script once for each call, those of a shard in order, and
// returns the replies. Each has an error of its own; what runScript returns is
// the first of them that is not redis.Nil.
func runScript(ctx context.Context, store redisStore, s luaScript, calls []scriptCall) ([]*redis.Cmd, error) {
	replies := make([]*redis.Cmd, len(calls))
	for from := 0; from < len(calls); from += redisBatch {
		to := min(from+redisBatch, len(calls))
		runBatch(ctx, store, s, calls[from:to], replies[from:to])
		for _, reply := range replies[from:to] {
			if err := reply.Err(); err != nil && !errors.Is(err, redis.Nil) {
				return replies[:to], err
			}
		}
	}
	return replies, nil
}

// runBatch is one round trip of runScript. Calls that met a server without the
// script have done nothing, and are run again; the first of each shard brings
// the script, so that each attempt gets on, however often the server is made
// to forget it.
func runBatch(ctx context.Context, store redisStore, s luaScript, calls []scriptCall, replies []*redis.Cmd) {
	todo := make([]int, len(calls))
	for i := range todo {
		todo[i] = i
	}
	for attempt := 1; len(todo) > 0; attempt++ {
		pipe := newShardPipe(store)
		for _, i := range todo {
			c := calls[i]
			if on := pipe.on(c.shard); attempt > 1 && on.Len() == 0 {
				replies[i] = on.Eval(ctx, s.source, c.keys, c.args...)
			} else {
				replies[i] = on.EvalSha(ctx, s.sha, c.keys, c.args...)
			}
		}
		pipe.exec(ctx) // each command has its own error
		var again []int
		for _, i := range todo {
			if redis.HasErrorPrefix(replies[i].Err(), "NOSCRIPT") {
				again = append(again, i)
			}
		}
		todo = again
	}
}

// runOne runs a script once.
func runOne(ctx context.Context, store redisStore, s luaScript, call scriptCall) (*redis.Cmd, error) {
	replies, err := runScript(ctx, store, s, []scriptCall{call})
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}
