package heraldtest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func memoryStore() RegistryStore {
	m := herald.NewMemoryRegistry()
	return RegistryStore{
		Open:  func() herald.Registry { return m.Handle() },
		Other: func() herald.Registry { return herald.NewMemoryRegistry() },
	}
}

func TestMemoryRegistry(t *testing.T) {
	TestRegistry(t, func(testing.TB) RegistryStore { return memoryStore() })
}

func TestMemoryRegistryInBubble(t *testing.T) {
	for _, p := range registryPromises {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memoryStore()
				store.Advance = time.Sleep
				p.try(t, store)
			})
		})
	}
}

// redisStore opens handles with clients of their own.
func redisStore(t testing.TB, addr string) RegistryStore {
	open := func(prefix string) herald.Registry {
		// miniredis compiles a script each time that it runs it, and looks through all keys
		// at each command. Hundreds of scripts in one pipeline take half a minute under the
		// race detector on a loaded machine.
		rdb := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: 5 * time.Minute})
		t.Cleanup(func() { rdb.Close() })
		r, err := herald.NewRedisRegistry(rdb, &herald.RedisOptions{Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	return RegistryStore{
		Open:  func() herald.Registry { return open("") },
		Other: func() herald.Registry { return open("herald2") },
	}
}

func TestMiniredisRegistry(t *testing.T) {
	TestRegistry(t, func(t testing.TB) RegistryStore {
		server := miniredis.RunT(t)
		server.ClockTTL(true)
		now := time.Now()
		store := redisStore(t, server.Addr())
		store.Step = func(d time.Duration) {
			now = now.Add(d)
			server.SetTime(now)
		}
		return store
	})
}

func TestRedisRegistry(t *testing.T) {
	server := redistest.StartWithClock(t)
	TestRegistry(t, func(t testing.TB) RegistryStore {
		server.Client().FlushAll(t.Context())
		store := redisStore(t, server.Addr)
		store.Step = server.Step
		return store
	})
}
