package herald_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/redistest"
)

// plantings put a value of each type under a key.
var plantings = map[string]func(ctx context.Context, rdb *redis.Client, key string) error{
	"string": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.Set(ctx, key, "x", 0).Err()
	},
	"list": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.RPush(ctx, key, "x", "y").Err()
	},
	"hash": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.HSet(ctx, key, "x", "y").Err()
	},
	"set": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.SAdd(ctx, key, "x").Err()
	},
	"zset": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.ZAdd(ctx, key, redis.Z{Score: 1, Member: "x"}).Err()
	},
	"stream": func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"x", "y"}}).Err()
	},
}

// A key of any kind that has the wrong type stops no method of the Registry. The
// lease may be lost with it.
func TestRedisRegistryWrongTypes(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	for kind, right := range map[string]string{
		"nodes": "hash", "dying": "hash", "gone": "zset", "clock": "string", "generation": "string",
		"t:u0": "hash", "t:gall": "hash", "i:LEASE": "set", "i:DEAD": "set",
	} {
		for wrong, plant := range plantings {
			if wrong == right {
				continue
			}
			t.Run(strings.ReplaceAll(kind, ":", "_")+"/"+wrong, func(t *testing.T) {
				rdb.FlushAll(t.Context())
				methods := []string{"Add", "Remove", "Sessions", "Online", "Check", "KeepAlive", "KeepAlive of a new lease", "Nodes", "Sweep", "Offline", "Entries", "Release", "New"}
				for _, method := range methods {
					wrongType(t, rdb, method, kind, plant)
				}
			})
		}
	}
}

func wrongType(t *testing.T, rdb *redis.Client, method, kind string, plant func(context.Context, *redis.Client, string) error) {
	t.Helper()
	r := redisRegistry(t, rdb)
	defer r.Close()
	ctx := t.Context()
	entries := someEntries("n", 2)
	dead := takeLease(t, r, "dead", time.Hour)
	mustAdd(t, r, dead, someEntries("dead", 1)...)
	if _, err := r.KeepAlive(ctx, nodeOfLease(dead), 0); err != nil {
		t.Fatal(err)
	}
	lease := takeLease(t, r, "n", time.Hour)
	mustAdd(t, r, lease, entries...)
	kind = strings.Replace(kind, "LEASE", fmt.Sprintf("%d:n", lease.Generation), 1)
	kind = strings.Replace(kind, "DEAD", fmt.Sprintf("%d:dead", dead.Generation), 1)
	key := "herald:{0}:" + kind
	rdb.Del(ctx, key)
	if err := plant(ctx, rdb, key); err != nil {
		t.Fatal(err)
	}
	var err error
	switch method {
	case "Add":
		_, err = r.Add(ctx, lease, entries...)
	case "Remove":
		err = r.Remove(ctx, lease, entries...)
	case "Sessions":
		_, err = r.Sessions(ctx, lease, "u1", "u0", "gall")
	case "Online":
		_, err = r.Online(ctx, lease, "u1", "u0", "gall")
	case "Check":
		_, err = r.Check(ctx, lease, entries...)
	case "KeepAlive":
		_, err = r.KeepAlive(ctx, nodeOfLease(lease), time.Hour)
	case "KeepAlive of a new lease":
		_, err = r.KeepAlive(ctx, herald.Node{ID: "n"}, time.Hour)
	case "Nodes":
		_, _, err = r.Nodes(ctx)
	case "Sweep":
		err = r.Sweep(ctx, dead)
	case "Offline":
		_, err = r.Offline(ctx, 0)
	case "Entries":
		_, _, err = r.Entries(ctx, lease, "")
	case "Release":
		err = r.Release(ctx, lease)
	case "New":
		var another *herald.RedisRegistry
		if another, err = herald.NewRedisRegistry(rdb, nil); err == nil {
			another.Close()
		}
	}
	if err != nil && !errors.Is(err, herald.ErrLeaseLost) {
		t.Errorf("%s: %v", method, err)
	}
	// A lease that is taken then holds all that is added under it.
	lease = takeLease(t, r, "n", time.Hour)
	mustAdd(t, r, lease, entries...)
	if missing, err := r.Check(ctx, lease, entries...); err != nil || len(missing) > 0 {
		t.Errorf("after %s: %d of the new lease are missing (%v)", method, len(missing), err)
	}
	for _, topic := range []string{"u0", "u1"} {
		sessions, err := r.Sessions(ctx, lease, topic)
		if err != nil || len(sessions[0]) != 1 {
			t.Errorf("after %s: sessions of %s are %v (%v)", method, topic, sessions, err)
		}
	}
}
