package redisconn_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/badserver"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// hostileClient returns a client of a hostile server that does not wait long.
func hostileClient(t testing.TB, s *badserver.Server, timeout time.Duration) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr: s.Addr(), DialTimeout: patience, ReadTimeout: timeout, WriteTimeout: timeout, MaxRetries: -1, DisableIdentity: true,
	})
	t.Cleanup(func() { c.Close() })
	return c
}

const helloReply = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:9\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"

// hostileReplies are what would overflow a stack, ask for memory that there is
// not, or never end.
var hostileReplies = []struct{ name, answer string }{
	{"bulk of the whole address space", "$9223372036854775805\r\n"},
	{"bulk of 16 GB", "$17179869184\r\n"},
	{"array of the whole address space", "*9223372036854775807\r\n"},
	{"array of 2^40", "*1099511627776\r\n"},
	{"map of 2^62", "%4611686018427387904\r\n"},
	{"map of 2^30", "%1073741824\r\n"},
	{"arrays in arrays, without end", strings.Repeat("*1\r\n", 16<<10) + badserver.Endless},
	{"maps in maps, without end", strings.Repeat("%1\r\n+k\r\n", 8<<10) + badserver.Endless},
	{"attributes before attributes, without end", strings.Repeat("|0\r\n", 16<<10) + badserver.Endless},
	{"large arrays in large arrays", strings.Repeat("*1048576\r\n", 1<<10)},
	{"elements without end", "*1099511\r\n" + strings.Repeat(":1\r\n", 16<<10) + badserver.Endless},
	{"pushes without end", strings.Repeat(">2\r\n+a\r\n+b\r\n", 8<<10) + badserver.Endless},
	{"a line without end", strings.Repeat("+xxxxxxx", 8<<10) + badserver.Endless},
	{"a number of a million digits", "(" + strings.Repeat("9", 1<<20) + "\r\n"},
	{"no number", "$?\r\n"},
	{"less than nothing", "*-9223372036854775808\r\n"},
	{"not RESP", "HTTP/1.1 400 Bad Request\r\n\r\n"},
}

// What a server says is an error, not the end of the process, and takes no more
// memory than a reply may have.
func TestHostileReplies(t *testing.T) {
	for _, reply := range hostileReplies {
		for _, where := range []struct {
			name   string
			answer badserver.Answer
		}{
			{"as the first answer", badserver.Always(reply.answer)},
			{"in the first answer", badserver.Always("%1\r\n+k\r\n" + reply.answer)},
			{"later", func(asked []byte) (string, bool) {
				if bytes.Contains(bytes.ToLower(asked), []byte("hello")) {
					return helloReply, true
				}
				return reply.answer, true
			}},
		} {
			t.Run(reply.name+" "+where.name, func(t *testing.T) {
				s := badserver.Start(t, func() (string, badserver.Answer) { return "", where.answer })
				var registryErr, busErr error
				n := badserver.Grown(func() {
					_, registryErr = herald.NewRedisRegistry(hostileClient(t, s, time.Second), nil)
					_, busErr = herald.NewRedisBus(hostileClient(t, s, time.Second), &herald.RedisOptions{ProbeTimeout: time.Second})
				})
				if !errors.Is(registryErr, herald.ErrRegistryDown) {
					t.Errorf("the Registry: %v", registryErr)
				}
				if !errors.Is(busErr, herald.ErrBusDown) {
					t.Errorf("the Bus: %v", busErr)
				}
				if n > 256<<20 {
					t.Errorf("the process grew by %d MB", n>>20)
				}
			})
		}
	}
}

// So it is on a Cluster, where go-redis asks who the masters are in goroutines of
// its own.
func TestHostileCluster(t *testing.T) {
	for _, reply := range hostileReplies {
		if !strings.Contains(reply.name, "array") { // go-redis tries each five times
			continue
		}
		t.Run(reply.name, func(t *testing.T) {
			answer := func(asked []byte) (string, bool) {
				if bytes.Contains(bytes.ToLower(asked), []byte("hello")) {
					return helloReply, true
				}
				return reply.answer, true
			}
			s := badserver.Start(t, func() (string, badserver.Answer) { return "", answer })
			client := redis.NewClusterClient(&redis.ClusterOptions{
				Addrs: []string{s.Addr()}, DialTimeout: patience, ReadTimeout: 250 * time.Millisecond, WriteTimeout: 250 * time.Millisecond, MaxRetries: -1, DisableIdentity: true,
			})
			defer client.Close()
			var registryErr, busErr error
			n := badserver.Grown(func() {
				_, registryErr = herald.NewRedisRegistry(client, nil)
				_, busErr = herald.NewRedisBus(client, &herald.RedisOptions{ProbeTimeout: 250 * time.Millisecond})
			})
			if !errors.Is(registryErr, herald.ErrRegistryDown) {
				t.Errorf("the Registry: %v", registryErr)
			}
			if !errors.Is(busErr, herald.ErrBusDown) {
				t.Errorf("the Bus: %v", busErr)
			}
			if n > 512<<20 {
				t.Errorf("the process grew by %d MB", n>>20)
			}
		})
	}
}
