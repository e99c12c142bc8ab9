package redisconn_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/test/badserver"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func newScripter(t *testing.T, options *redis.Options) *redisconn.Scripter {
	o := redisconn.ClientOptions(options)
	o.ReadTimeout, o.WriteTimeout = -1, -1
	s := redisconn.NewScripter(o)
	t.Cleanup(s.Close)
	return s
}

var echo = redis.NewScript("return ARGV[1]")

// Each of many calls gets its own answer, although some are given up while the server
// is silent: their answers come late, and nobody gets them.
func TestScripterAnswers(t *testing.T) {
	server := redistest.Start(t)
	s := newScripter(t, server.Client().Options())
	ask := func(ctx context.Context, what string) (string, error) { return echo.Run(ctx, s, nil, what).Text() }
	if _, err := ask(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		server.Pause()
		var calls sync.WaitGroup
		for i := range 20 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if said, err := ask(ctx, "late"); err == nil {
					t.Errorf("call %d: a silent server said %q", i, said)
				}
			})
		}
		calls.Wait()
		server.Continue()
		for i := range 20 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				want := fmt.Sprint(round, ".", i)
				if said, err := ask(ctx, want); err != nil || said != want {
					t.Errorf("it said %q, %v, not %q", said, err, want)
				}
			})
		}
		calls.Wait()
	}
}

// What the server has closed while nothing was under way is noticed: the next call
// gets another connection, and is carried out once.
func TestScripterCut(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	cutBetweenCalls(t, client, newScripter(t, client.Options()))
}

func cutBetweenCalls(t *testing.T, client *redis.Client, s *redisconn.Scripter) {
	count := redis.NewScript("return redis.call('INCR', 'n')")
	for want := int64(1); want <= 20; want++ {
		if got, err := count.Run(t.Context(), s, nil).Int64(); err != nil || got != want {
			t.Fatalf("call %d: %d, %v", want, got, err)
		}
		if err := client.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // the end has to come, and a line has to look for it
	}
}

// It is noticed over TLS, too.
func TestScripterCutTLS(t *testing.T) {
	server := redistest.Start(t)
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	secure, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	defer secure.Close()
	go func() {
		for {
			client, err := secure.Accept()
			if err != nil {
				return
			}
			redis, err := net.Dial("tcp", server.Addr)
			if err != nil {
				client.Close()
				continue
			}
			go func() { io.Copy(redis, client); redis.Close() }()
			go func() { io.Copy(client, redis); client.Close() }()
		}
	}()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	client := server.Client()
	s := newScripter(t, redis.NewClient(&redis.Options{
		Addr: secure.Addr().String(), TLSConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"},
	}).Options())
	cutBetweenCalls(t, client, s)
}

// A line that is older, or was idle for longer, than the client's options allow is not
// used again.
func TestScripterExpired(t *testing.T) {
	server := redistest.Start(t)
	for name, set := range map[string]func(*redis.Options){
		"idle": func(o *redis.Options) { o.ConnMaxIdleTime = time.Millisecond },
		"old":  func(o *redis.Options) { o.ConnMaxLifetime = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			options := server.Client().Options()
			set(options)
			var dialed atomic.Int64
			dial := options.Dialer
			options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialed.Add(1)
				return dial(ctx, network, addr)
			}
			s := newScripter(t, options)
			if err := echo.Run(t.Context(), s, nil, "x").Err(); err != nil {
				t.Fatal(err)
			}
			before := dialed.Load()
			time.Sleep(5 * time.Millisecond)
			if err := s.EvalSha(t.Context(), echo.Hash(), nil, "x").Err(); err != nil || dialed.Load() == before {
				t.Errorf("%v, on %d connections, as before", err, before)
			}
		})
	}
}

// A server that became a replica is left: the name that led to it may lead to its
// master now.
func TestScripterReplica(t *testing.T) {
	old, master := redistest.Start(t), redistest.Start(t)
	var addr atomic.Value
	addr.Store(old.Addr)
	s := newScripter(t, redis.NewClient(&redis.Options{
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr.Load().(string))
		},
	}).Options())
	count := redis.NewScript("return redis.call('INCR', 'n')")
	for range 2 { // the second one by EVALSHA
		if err := count.Run(t.Context(), s, nil).Err(); err != nil {
			t.Fatal(err)
		}
	}
	host, port, _ := net.SplitHostPort(master.Addr)
	if err := old.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	addr.Store(master.Addr)
	if err := count.Run(t.Context(), s, nil).Err(); !redis.HasErrorPrefix(err, "READONLY") {
		t.Fatalf("the replica said %v", err)
	}
	var err error
	for range 2 { // EVAL, which the master needs first, has a connection of its own
		err = count.Run(t.Context(), s, nil).Err()
	}
	if err != nil {
		t.Errorf("the master is not asked: %v", err)
	}
}

// A lateConn ends the context of a call when the answer has come, and is slow to close
// then.
type lateConn struct {
	net.Conn
	cancel  atomic.Pointer[context.CancelFunc] // nil until it is wanted
	closing chan struct{}                      // closed when the context's end has begun to close it
	free    chan struct{}                      // closed when that may go on
	closes  atomic.Int64
}

func (c *lateConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if cancel := c.cancel.Swap(nil); cancel != nil {
		(*cancel)()
		<-c.closing
	}
	return n, err
}

func (c *lateConn) Close() error {
	if c.closes.Add(1) == 1 {
		close(c.closing)
		<-c.free
	}
	return c.Conn.Close()
}

// A context that ends as its call returns ends no other call.
func TestScripterCanceledLate(t *testing.T) {
	server := redistest.Start(t)
	options := server.Client().Options()
	dial := options.Dialer
	var first atomic.Pointer[lateConn]
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		late := &lateConn{Conn: conn, closing: make(chan struct{}), free: make(chan struct{})}
		if err == nil && first.CompareAndSwap(nil, late) {
			return late, nil
		}
		return conn, err
	}
	s := newScripter(t, options)
	ask := func(ctx context.Context) error {
		return s.EvalSha(ctx, echo.Hash(), nil, "x").Err()
	}
	if err := server.Client().ScriptLoad(t.Context(), "return ARGV[1]").Err(); err != nil {
		t.Fatal(err)
	}
	if err := ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	late := first.Load()
	late.cancel.Store(&cancel)
	if err := ask(ctx); err != nil {
		t.Fatal(err)
	}
	server.Pause()
	next := make(chan error, 1)
	go func() { next <- ask(t.Context()) }()
	time.Sleep(20 * time.Millisecond) // the call is on its way
	close(late.free)
	time.Sleep(20 * time.Millisecond)
	server.Continue()
	if err := <-next; err != nil {
		t.Error(err)
	}
}

// Close and Renew end calls under way, also if the server is silent. After Renew there
// are others.
func TestScripterEnds(t *testing.T) {
	server := redistest.Start(t)
	s := newScripter(t, server.Client().Options())
	ask := func() error { return echo.Run(context.Background(), s, nil, "x").Err() }
	for _, end := range []struct {
		name string
		end  func()
		next bool
	}{{"Renew", s.Renew, true}, {"Close", s.Close, false}} {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		server.Pause()
		ended := make(chan error, 1)
		go func() { ended <- ask() }()
		time.Sleep(20 * time.Millisecond)
		end.end()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: a silent server answered", end.name)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the call has not ended", end.name)
		}
		server.Continue()
		if err := ask(); (err == nil) != end.next {
			t.Errorf("after %s: %v", end.name, err)
		}
	}
}

// A call without a deadline ends with its context.
func TestScripterCanceled(t *testing.T) {
	server := redistest.Start(t)
	s := newScripter(t, server.Client().Options())
	if err := echo.Run(t.Context(), s, nil, "x").Err(); err != nil {
		t.Fatal(err)
	}
	server.Pause()
	defer server.Continue()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := echo.Run(ctx, s, nil, "x").Err(); err == nil {
		t.Error("a silent server answered")
	}
}

// Whatever a script returns comes as it comes from go-redis, and so do errors.
func TestScripterReplies(t *testing.T) {
	client := redistest.Start(t).Client()
	s := newScripter(t, client.Options())
	for _, script := range []string{
		"return 1", "return -1", "return ''", "return 'a\\0b\\r\\n'", "return {}", "return {1, {'a', {}}, {2, 3}}", "return false", "return true",
		"return {1, false, 2}", "return redis.status_reply('FINE')", "return redis.error_reply('OWN of it')", "return {redis.error_reply('OWN within'), 1}",
		"return redis.call('NOSUCH')", "return redis.call('LPUSH', KEYS[1], 1)", "error('x')", "return {string.rep('x', 100000), 1}", "return ARGV[1] .. ARGV[2] .. ARGV[3] .. ARGV[4]",
	} {
		args := []any{[]byte{0, 1}, int64(-5), uint64(1 << 63), 7}
		client.Set(t.Context(), "s", 1, 0)
		run := redis.NewScript(script)
		want, wantErr := run.Run(t.Context(), client, []string{"s"}, args...).Result()
		got, err := run.Run(t.Context(), s, []string{"s"}, args...).Result()
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) && !strings.Contains(script, "within") || fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("%s: %.80v, %v, not %.80v, %v", script, got, err, want, wantErr)
		}
		said, ok := errors.AsType[redis.Error](err)
		if wantErr != nil && wantErr != redis.Nil && (!ok || !redisconn.Replied(err, said.Error())) {
			t.Errorf("%s: %T is no error of Redis", script, err)
		}
	}
	if err := s.EvalSha(t.Context(), "sha", nil, 1.5).Err(); err == nil {
		t.Error("a word of no known type was taken")
	}
}

// Nobody listens: the error says that nothing was sent.
func TestScripterRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	s := newScripter(t, redis.NewClient(&redis.Options{Addr: listener.Addr().String()}).Options())
	err = echo.Run(t.Context(), s, nil, "x").Err()
	if dialed, ok := errors.AsType[*net.OpError](err); !ok || dialed.Op != "dial" {
		t.Errorf("%T: %v", err, err)
	}
}

// What comes behind an answer is no answer to the next call.
func TestScripterMore(t *testing.T) {
	server := badserver.Start(t, func() (string, badserver.Answer) {
		return "", badserver.InTurn(helloReply, helloReply, "+own\r\n+another's\r\n", "+third\r\n")
	})
	s := newScripter(t, hostileClient(t, server, patience).Options())
	for range 3 {
		if said, err := s.EvalSha(t.Context(), "sha", nil).Text(); err != nil || said != "own" {
			t.Errorf("it said %q, %v", said, err)
		}
	}
}

// A server that sends what nobody has asked for, or more than a reply may have, gets no
// second call on that connection, and takes no memory.
func TestScripterHostile(t *testing.T) {
	for _, said := range hostileReplies {
		t.Run(said.name, func(t *testing.T) {
			var connections atomic.Int64
			server := badserver.Start(t, func() (string, badserver.Answer) {
				connections.Add(1)
				return "", badserver.InTurn(helloReply, helloReply, said.answer, "+late\r\n", "+late\r\n")
			})
			s := newScripter(t, hostileClient(t, server, patience).Options())
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var err error
			if grown := badserver.Grown(func() { err = s.EvalSha(ctx, "sha", nil).Err() }); grown > 64<<20 {
				t.Errorf("it took %d MB", grown>>20)
			}
			if err == nil {
				t.Error("that was an answer")
			}
			s.EvalSha(ctx, "sha", nil)
			server.Stop()
			if n := connections.Load(); n != 2 {
				t.Errorf("%d connections, for one call each", n)
			}
		})
	}
}
