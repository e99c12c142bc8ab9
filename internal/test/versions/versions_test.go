// Package versions runs the suites of Bus, Registry and History against the
// versions of Redis and Valkey that .ci/fetch fetches. All other tests run
// against the redis-server of the machine.
package versions

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestVersions(t *testing.T) {
	for _, v := range []struct{ name, info string }{
		{"redis-6.2", "redis_version:6.2."},
		{"redis-8", "redis_version:8."},
		{"valkey-9", "valkey_version:9."},
	} {
		t.Run(v.name, func(t *testing.T) {
			servertest.Prefer(t, v.name)
			s := &server{Server: redistest.Start(t)}
			s.is(t, v.info)
			t.Run("Bus", s.testBus)
			t.Run("Registry", s.testRegistry)
			t.Run("History", s.testHistory)
		})
	}
}

// A server is shared by all suites. Each of their subtests has a Prefix of its own.
type server struct {
	*redistest.Server

	prefixes atomic.Int64
}

// is fails the test unless a line of the server's INFO begins with version.
func (s *server) is(t *testing.T, version string) {
	info, err := s.Client().Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(info) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, version) {
			t.Log(line)
			return
		}
	}
	t.Fatalf("not %s:\n%s", version, info)
}

func (s *server) prefix() string { return fmt.Sprint("versions", s.prefixes.Add(1)) }

func (s *server) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	t.Cleanup(func() { c.Close() })
	return c
}

// do runs a command that must not fail.
func (s *server) do(t testing.TB, args ...any) {
	t.Helper()
	if err := s.client(t).Do(context.Background(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// cut closes the connections of all clients.
func (s *server) cut(t testing.TB) {
	t.Helper()
	s.do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	s.do(t, "CLIENT", "KILL", "TYPE", "pubsub")
}

func (s *server) testBus(t *testing.T) {
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		open := func(prefix string) func() herald.Bus {
			return func() herald.Bus {
				bus, err := herald.NewRedisBus(s.client(t), &herald.RedisOptions{Prefix: prefix})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { bus.Close() })
				return bus
			}
		}
		return heraldtest.BusNetwork{Open: open(s.prefix()), Other: open(s.prefix()), Interrupt: func() { s.cut(t) }}
	})
}

func (s *server) testRegistry(t *testing.T) {
	heraldtest.TestRegistry(t, func(t testing.TB) heraldtest.RegistryStore {
		open := func(prefix string) func() herald.Registry {
			return func() herald.Registry {
				r, err := herald.NewRedisRegistry(s.client(t), &herald.RedisOptions{Prefix: prefix})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { r.Close() })
				return r
			}
		}
		return heraldtest.RegistryStore{Open: open(s.prefix()), Other: open(s.prefix())}
	})
}

func (s *server) testHistory(t *testing.T) {
	heraldtest.TestHistory(t, func(t testing.TB) heraldtest.HistoryNetwork {
		prefix := s.prefix()
		return heraldtest.HistoryNetwork{
			Config:    func() herald.Config { return herald.Config{Redis: s.client(t), Prefix: prefix} },
			Interrupt: func() { s.cut(t) },
			Refuse: func() (allow func()) {
				s.do(t, "CONFIG", "SET", "maxmemory", "1")
				return func() { s.do(t, "CONFIG", "SET", "maxmemory", "0") }
			},
			Lose: func() { s.do(t, "FLUSHALL") },
		}
	})
}
