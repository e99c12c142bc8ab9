package redisregistry

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/places"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A fakeStore answers commands as a test wants.
type fakeStore struct {
	*redis.Client // never connected
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

func answeringRegistry(t *testing.T, shards int, answer func(redis.Cmder)) *Registry {
	client := redis.NewClient(&redis.Options{Dialer: nil})
	t.Cleanup(func() { client.Close() })
	return &Registry{store: fakeStore{client, answer}, shards: newShards("herald", redisconn.Tags[:shards]...), seen: newSightings(shards), latest: make([]latest, shards), steps: clockSteps{shards: make([]clockOffset, shards)}}
}

// everyMethod calls every method of a Registry, and returns the errors.
func everyMethod(r *Registry) map[string]error {
	ctx := context.Background()
	failed := make(map[string]error)
	lease := Lease{"n", 1}
	entry := Entry{Session: Session{ID: "n.1", User: "u"}, Places: places.Of("n.1", "u", []string{"g", "h", "i"})}
	_, failed["Add"] = r.Add(ctx, lease, entry)
	failed["Remove"] = r.Remove(ctx, lease, entry)
	_, failed["Sessions"] = r.Sessions(ctx, Lease{}, "u", "g")
	_, failed["Online"] = r.Online(ctx, Lease{}, "u", "g")
	_, failed["Watch"] = r.Watch(ctx, Lease{}, time.Second, "u", "g")
	_, failed["Check"] = r.Check(ctx, lease, [][]places.Place{entry.Places})
	_, failed["KeepAlive of a new lease"] = r.KeepAlive(ctx, Node{ID: "n"}, time.Second)
	_, failed["KeepAlive"] = r.KeepAlive(ctx, Node{ID: "n", Generation: 1}, time.Second)
	failed["Release"] = r.Release(ctx, lease)
	_, _, failed["Nodes"] = r.Nodes(ctx)
	failed["Sweep"] = r.Sweep(ctx, lease)
	_, failed["Offline"] = r.Offline(ctx, 0)
	_, _, failed["Entries"] = r.Entries(ctx, lease, "")
	failed["probe"] = r.probe(ctx)
	return failed
}

// If Redis gives no proper answer, a call fails. That may be no answer, nothing if
// there must be something, or an answer of another kind.
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
				addScript.sha: []any{"1", "0", []any{}, int64(0), int64(0), []any{}}, takeScript.sha: []any{"1", int64(0)}, renewScript.sha: "1", offlineScript.sha: []any{"1", []any{}},
				checkScript.sha:  []any{},
				removeScript.sha: []any{}, releaseScript.sha: int64(1), markScript.sha: int64(1), sweepScript.sha: []any{},
				probeScript.sha: []any{}, watchScript.sha: []any{"1", []any{}, int64(0)}, probeScript.source: []any{},
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
		lost   string // the methods that return ErrLeaseLost
	}{
		{"well", well, "Add Remove Sessions Online Watch Check KeepAlive KeepAlive of a new lease Release Nodes Sweep Offline Entries probe", ""},
		{"no answer", func(redis.Cmder) {}, "", ""},
		{"nothing", func(cmd redis.Cmder) { cmd.SetErr(redis.Nil) }, "", "Add KeepAlive Check"},
		{"scripts answer nothing", func(cmd redis.Cmder) {
			if well(cmd); strings.HasPrefix(cmd.Name(), "eval") {
				cmd.SetErr(redis.Nil)
			}
		}, "Sessions Online Nodes Entries", "Add KeepAlive Check"},
		{"scripts answer a short list", scripts([]any{"1"}), "Sessions Online Nodes Entries Check Remove probe", ""},
		{"scripts answer a number", scripts(int64(1)), "Sessions Online Nodes Entries Release Sweep", ""},
		{"scripts answer a text", scripts("1"), "Sessions Online Nodes Entries KeepAlive", ""},
		{"scripts answer without a value", scripts(nil), "Sessions Online Nodes Entries", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for method, err := range everyMethod(answeringRegistry(t, 1, test.answer)) {
				switch {
				case strings.Contains(test.lost, method) && method != "KeepAlive of a new lease":
					if !errors.Is(err, errs.LeaseLost) {
						t.Errorf("%s: %v, want ErrLeaseLost", method, err)
					}
				case test.name == "well" || strings.Contains(" "+test.well+" ", " "+method+" "):
					if err != nil {
						t.Errorf("%s: %v", method, err)
					}
				case !errors.Is(err, errs.RegistryDown):
					t.Errorf("%s: %v, want ErrRegistryDown", method, err)
				}
			}
		})
	}
}
