package herald

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A fakeStore answers commands as a test wants.
type fakeStore struct {
	*redis.Client // which dials nobody
	answer        func(redis.Cmder)
}

func (s fakeStore) exec(_ context.Context, pipes []redis.Pipeliner) []string {
	for _, pipe := range pipes {
		if pipe == nil {
			continue
		}
		for _, cmd := range pipe.Cmds() {
			s.answer(cmd)
		}
	}
	return make([]string, len(pipes))
}

func answeringRegistry(t *testing.T, shards int, answer func(redis.Cmder)) *RedisRegistry {
	client := redis.NewClient(&redis.Options{Dialer: nil})
	t.Cleanup(func() { client.Close() })
	return &RedisRegistry{store: fakeStore{client, answer}, shards: newShards("herald", clusterTags[:shards]...), seen: newSightings(shards), latest: make([]latest, shards), steps: clockSteps{shards: make([]clockOffset, shards)}}
}

// everyMethod calls all methods of a Registry.
func everyMethod(r *RedisRegistry) map[string]error {
	ctx := context.Background()
	errs := make(map[string]error)
	lease := Lease{"n", 1}
	entry := Entry{Session: Session{ID: "n.1", User: "u"}, UserTopic: "u", Topics: []string{"g", "h", "i"}}
	_, errs["Add"] = r.Add(ctx, lease, entry)
	errs["Remove"] = r.Remove(ctx, lease, entry)
	_, errs["Sessions"] = r.Sessions(ctx, Lease{}, "u", "g")
	_, errs["Online"] = r.Online(ctx, Lease{}, "u", "g")
	_, errs["Check"] = r.Check(ctx, lease, entry)
	_, errs["KeepAlive of a new lease"] = r.KeepAlive(ctx, Node{ID: "n"}, time.Second)
	_, errs["KeepAlive"] = r.KeepAlive(ctx, Node{ID: "n", Generation: 1}, time.Second)
	errs["Release"] = r.Release(ctx, lease)
	_, _, errs["Nodes"] = r.Nodes(ctx)
	errs["Sweep"] = r.Sweep(ctx, lease)
	_, errs["Offline"] = r.Offline(ctx, 0)
	_, _, errs["Entries"] = r.Entries(ctx, lease, "")
	errs["probe"] = r.probe(ctx)
	return errs
}

// What is no answer of Redis' to the question is an error: no answer at all,
// nothing if there must be something, something of another kind.
func TestRedisRegistryAnswers(t *testing.T) {
	well := func(cmd redis.Cmder) {
		cmd.SetErr(nil)
		switch cmd := cmd.(type) {
		case *redis.TimeCmd:
			cmd.SetVal(time.Unix(1, 0))
		case *redis.ScanCmd:
			if cmd.Name() == "hscan" {
				cmd.SetVal([]string{"n", "1 1 1 0 0 0"}, 0) // a lease that has run out
			}
		case *redis.Cmd:
			cmd.SetVal(map[string]any{
				addScript.sha: []any{"1", "0", []any{}, int64(0), int64(0)}, takeScript.sha: []any{"1", int64(0)}, renewScript.sha: "1", offlineScript.sha: []any{"1", []any{}},
				checkScript.sha:  []any{},
				removeScript.sha: int64(1), releaseScript.sha: int64(1), markScript.sha: int64(1), sweepScript.sha: int64(1),
				probeScript.sha: []any{}, probeScript.source: []any{},
			}[cmd.Args()[1].(string)])
		}
	}
	scripts := func(value any) func(redis.Cmder) {
		return func(cmd redis.Cmder) {
			well(cmd)
			if c, ok := cmd.(*redis.Cmd); ok {
				c.SetVal(value)
			}
		}
	}
	for _, test := range []struct {
		name   string
		answer func(redis.Cmder)
		well   string // the methods without an error
		lost   string // those that say ErrLeaseLost
	}{
		{"well", well, "Add Remove Sessions Online Check KeepAlive KeepAlive of a new lease Release Nodes Sweep Offline Entries probe", ""},
		{"no answer", func(redis.Cmder) {}, "", ""},
		{"nothing", func(cmd redis.Cmder) { cmd.SetErr(redis.Nil) }, "", "Add KeepAlive Check"},
		{"scripts answer nothing", func(cmd redis.Cmder) {
			if well(cmd); strings.HasPrefix(cmd.Name(), "eval") {
				cmd.SetErr(redis.Nil)
			}
		}, "Sessions Online Nodes Entries", "Add KeepAlive Check"},
		{"scripts answer a short list", scripts([]any{"1"}), "Sessions Online Nodes Entries Check probe", ""},
		{"scripts answer a number", scripts(int64(1)), "Sessions Online Nodes Entries Remove Release Sweep", ""},
		{"scripts answer a text", scripts("1"), "Sessions Online Nodes Entries KeepAlive", ""},
		{"scripts answer without a value", scripts(nil), "Sessions Online Nodes Entries", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for method, err := range everyMethod(answeringRegistry(t, 1, test.answer)) {
				switch {
				case strings.Contains(test.lost, method) && method != "KeepAlive of a new lease":
					if !errors.Is(err, ErrLeaseLost) {
						t.Errorf("%s: %v, want ErrLeaseLost", method, err)
					}
				case test.name == "well" || strings.Contains(" "+test.well+" ", " "+method+" "):
					if err != nil {
						t.Errorf("%s: %v", method, err)
					}
				case !errors.Is(err, ErrRegistryDown):
					t.Errorf("%s: %v, want ErrRegistryDown", method, err)
				}
			}
		})
	}
}

// Which errors of Redis mean that it does not serve us now.
func TestIsRefusal(t *testing.T) {
	for said, want := range map[string]bool{
		"WRONGPASS invalid username-password pair or user is disabled.":                    true,
		"NOAUTH Authentication required.":                                                  true,
		"NOPERM User app has no permissions to run the 'evalsha' command":                  true,
		"ERR max number of clients reached":                                                true,
		"ERR max number of clients + cluster connections reached":                          true,
		"ERR ACL failure in script: User app has no permissions to run the 'hset' command": true,
		"LOADING Redis is loading the dataset in memory":                                   true,
		"MASTERDOWN Link with MASTER is down":                                              true,
		"NOREPLICAS Not enough good replicas to write.":                                    true,
		"MISCONF Redis is configured to save RDB snapshots":                                true,
		"OOM command not allowed when used memory > 'maxmemory'.":                          true,
		"BUSY Redis is busy running a script.":                                             true,
		"CLUSTERDOWN The cluster is down":                                                  true,
		"READONLY You can't write against a read only replica.":                            true,
		"MOVED 13907 127.0.0.1:7002":                                                       true,
		"TRYAGAIN Multiple keys request during rehashing of slot":                          true,
		"DENIED Redis is running in protected mode":                                        true,
		"upstream failure": true, // Envoy
		"ERR Error running script (call to f_1): @user_script:8: @user_script: 8: -OOM not allowed":  true, // Redis 6.2
		"ERR Error running script (call to f_1): @user_script:8: @user_script: 8: -WRONGTYPE of key": false,
		"ERR Error running script (call to f_1): @user_script:8: WRONGTYPE Operation":                false,
		"ERR Error running script (call to f_1): @user_script:8: user_script:8: attempt to call nil": false,
		"ERR unknown command 'SUBSCRIBE', with args beginning with: 'x'":                             false,
		"ERR syntax error": false,
		"WRONGTYPE Operation against a key holding the wrong kind of value": false,
		"NOSCRIPT No matching script. Please use EVAL.":                     false,
	} {
		if got := isRefusal(said); got != want {
			t.Errorf("%q: %t, want %t", said, got, want)
		}
		if got, want := strings.HasPrefix(scriptError(said), "WRONGTYPE"), strings.Contains(said, "WRONGTYPE"); got != want {
			t.Errorf("%q has met a key of the wrong type: %t, want %t", said, got, want)
		}
	}
}
