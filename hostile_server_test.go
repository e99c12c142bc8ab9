package herald

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A fakeRedis answers whatever it reads with what answer returns; what ends in
// endless goes on until the client has gone.
type fakeRedis struct {
	net.Listener
	answer  func(asked []byte) string
	serving sync.WaitGroup
}

const endless = "..."

func newFakeRedis(t testing.TB, answer func(asked []byte) string) *fakeRedis {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeRedis{Listener: l, answer: answer}
	s.serving.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

func (s *fakeRedis) stop() {
	s.Close()
	s.serving.Wait()
}

func (s *fakeRedis) accept() {
	for {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		s.serving.Go(func() {
			defer conn.Close()
			s.serve(conn)
		})
	}
}

func (s *fakeRedis) serve(conn net.Conn) {
	asked := make([]byte, 64<<10)
	for {
		n, err := conn.Read(asked)
		if err != nil {
			return
		}
		answer, again := strings.CutSuffix(s.answer(asked[:n]), endless)
		for first := true; first || again; first = false {
			if _, err := conn.Write([]byte(answer)); err != nil {
				return
			}
		}
	}
}

// client returns a client that does not wait long for the server.
func (s *fakeRedis) client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr: s.Addr().String(), DialTimeout: patience, ReadTimeout: time.Second, WriteTimeout: 5 * time.Second,
		MaxRetries: -1, DisableIdentity: true,
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
	{"arrays in arrays, without end", strings.Repeat("*1\r\n", 16<<10) + endless},
	{"maps in maps, without end", strings.Repeat("%1\r\n+k\r\n", 8<<10) + endless},
	{"attributes before attributes, without end", strings.Repeat("|0\r\n", 16<<10) + endless},
	{"large arrays in large arrays", strings.Repeat("*1048576\r\n", 1<<10)},
	{"elements without end", "*1099511\r\n" + strings.Repeat(":1\r\n", 16<<10) + endless},
	{"pushes without end", strings.Repeat(">2\r\n+a\r\n+b\r\n", 8<<10) + endless},
	{"a line without end", strings.Repeat("+xxxxxxx", 8<<10) + endless},
	{"a number of a million digits", "(" + strings.Repeat("9", 1<<20) + "\r\n"},
	{"no number", "$?\r\n"},
	{"less than nothing", "*-9223372036854775808\r\n"},
	{"not RESP", "HTTP/1.1 400 Bad Request\r\n\r\n"},
}

// grown returns by how many bytes f makes the process' memory grow at most.
func grown(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Sys - before.Sys
}

// What a server says is an error, not the end of the process, and takes no more
// memory than a reply may have.
func TestHostileReplies(t *testing.T) {
	for _, hostile := range hostileReplies {
		for _, where := range []struct {
			name   string
			answer func(asked []byte) string
		}{
			{"as the first answer", func([]byte) string { return hostile.answer }},
			{"in the first answer", func([]byte) string { return "%1\r\n+k\r\n" + hostile.answer }},
			{"later", func(asked []byte) string {
				if bytes.Contains(bytes.ToLower(asked), []byte("hello")) {
					return helloReply
				}
				return hostile.answer
			}},
		} {
			t.Run(hostile.name+" "+where.name, func(t *testing.T) {
				s := newFakeRedis(t, where.answer)
				var registryErr, busErr error
				n := grown(func() {
					_, registryErr = NewRedisRegistry(s.client(t), nil)
					_, busErr = NewRedisBus(s.client(t), &RedisOptions{ProbeTimeout: time.Second})
				})
				if !errors.Is(registryErr, ErrRegistryDown) {
					t.Errorf("the Registry: %v", registryErr)
				}
				if !errors.Is(busErr, ErrBusDown) {
					t.Errorf("the Bus: %v", busErr)
				}
				if n > 256<<20 {
					t.Errorf("the process grew by %d MB", n>>20)
				}
			})
		}
	}
}
