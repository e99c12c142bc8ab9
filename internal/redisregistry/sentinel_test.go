package redisregistry_test

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

const patience = bustest.Patience

// quick tests the links once a second.
var quick = &herald.RedisOptions{ProbeInterval: time.Second, ProbeTimeout: time.Second}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestRedisRegistryOnSentinel(t *testing.T) {
	set := redistest.StartSentinels(t)
	heraldtest.TestRegistry(t, func(t testing.TB) heraldtest.RegistryStore {
		if err := set.Client().FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		open := func(options *herald.RedisOptions) func() herald.Registry {
			return func() herald.Registry {
				r, err := herald.NewRedisRegistry(set.Client(), options)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { r.Close() })
				return r
			}
		}
		return heraldtest.RegistryStore{Open: open(nil), Other: open(&herald.RedisOptions{Prefix: "other"})}
	})
}
