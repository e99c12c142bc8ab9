package redislog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/badserver"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A faultRig has a Log with some entries on a real server.
type faultRig struct {
	*rig
	t       *testing.T
	dir     string
	log     *Log
	end     history.Point
	segment uint64
}

var small = store.Limits{Segment: 8, Age: 60_000, Bytes: 1 << 20}

func newFaultRig(t *testing.T) *faultRig {
	dir := t.TempDir()
	server := redistest.Start(t, "--dir", dir, "--enable-debug-command", "yes")
	r := &faultRig{rig: &rig{rdb: server.Client(), debug: true}, t: t, dir: dir}
	r.listen(t)
	r.log = New(Config{Client: r.rdb, Limits: small, Keys: "k:", Topics: "c:", Fences: "f"})
	end, err := r.log.Fence(t.Context(), history.Point{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.end = end
	if reply, err := r.append("a", "b"); err != nil || reply.Outcome != store.Taken {
		t.Fatalf("%+v, %v", reply, err)
	}
	r.hear(t, "f")
	r.packets(t)
	return r
}

// append appends a message for each topic.
func (r *faultRig) append(topics ...string) (store.Reply, error) {
	var batch []store.Draft
	for _, topic := range topics {
		batch = append(batch, store.Draft{Topics: []string{topic}, Body: []byte(begins + "body")})
	}
	reply, err := r.log.Append(r.t.Context(), r.end, r.segment, batch)
	if reply.Outcome == store.Taken {
		r.end = reply.End
	}
	return reply, err
}

// await waits until so returns true.
func (r *faultRig) await(what string, so func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("no %s", what)
		}
	}
}

func (r *faultRig) must(args ...any) { r.t.Helper(); r.do(r.t, args...) }

// If Redis refuses an append, nothing of it is done, and the error says why. Calls
// that do not write succeed, if that is safe.
func TestRefusedByRedis(t *testing.T) {
	for name, fault := range map[string]struct {
		begin, end func(r *faultRig)
		want       string
		fences     bool // a fence succeeds
		frees      bool // Trim and Forget succeed
	}{
		"full": {
			begin: func(r *faultRig) { r.must("CONFIG", "SET", "maxmemory", "1") },
			end:   func(r *faultRig) { r.must("CONFIG", "SET", "maxmemory", "0") },
			want:  "OOM ", fences: true, frees: true,
		},
		"without replicas": {
			begin: func(r *faultRig) { r.must("CONFIG", "SET", "min-replicas-to-write", "1") },
			end:   func(r *faultRig) { r.must("CONFIG", "SET", "min-replicas-to-write", "0") },
			want:  "NOREPLICAS ", fences: true,
		},
		"that cannot save": {
			begin: func(r *faultRig) {
				if err := os.RemoveAll(r.dir); err != nil {
					r.t.Fatal(err)
				}
				r.must("CONFIG", "SET", "save", "3600 1")
				r.must("BGSAVE")
				r.await("a save that fails", func() bool {
					return strings.Contains(r.do(r.t, "INFO", "persistence").(string), "rdb_last_bgsave_status:err")
				})
			},
			end:  func(r *faultRig) { r.must("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") },
			want: "MISCONF ", fences: true,
		},
		"that is a replica": {
			begin: func(r *faultRig) { r.must("REPLICAOF", "127.0.0.1", "1") },
			end:   func(r *faultRig) { r.must("REPLICAOF", "NO", "ONE") },
			want:  "READONLY herald: this is no master",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFaultRig(t)
			fault.begin(r)
			before := r.state(t, r.log)
			_, err := r.append("a", "c")
			if err == nil || !strings.Contains(err.Error(), fault.want) || errors.Is(err, errs.Unknown) {
				t.Errorf("the append: %v; want %q", err, fault.want)
			}
			if state, published := r.state(t, r.log), r.packets(t); state != before || len(published) > 0 {
				t.Errorf("it has published %v, and Redis has\n%s\nnot\n%s", published, state, before)
			}
			if _, err := r.log.Fence(t.Context(), r.end, 2); (err == nil) != fault.fences {
				t.Errorf("the fence: %v", err)
			}
			if fault.fences {
				r.hear(t, "f")
			}
			if s, err := r.log.Survey(t.Context(), r.end, history.Point{Epoch: r.end.Epoch}, []string{"a"}, 8); (err == nil) != fault.fences || fault.fences && !s.Whole {
				t.Errorf("the survey: %+v, %v", s, err)
			}
			if err := r.log.Forget(t.Context(), r.end, []string{"a"}); (err == nil) != fault.frees {
				t.Errorf("Forget: %v", err)
			}
			fault.end(r)
			reply, err := r.append("a", "c")
			for range 2 { // the server may have been promoted
				if reply.Outcome != store.Taken {
					r.end, r.segment = reply.End, reply.Segment
					reply, err = r.append("a", "c")
				}
			}
			if reply.Outcome != store.Taken || len(r.packets(t)) != 2 {
				t.Errorf("later: %+v, %v", reply, err)
			}
		})
	}
}

// Trim removes segments even if Redis is full. Otherwise it would stay full.
func TestTrimWhenFull(t *testing.T) {
	r := newFaultRig(t)
	for n := range uint64(3) {
		r.log.config.Limits.Bytes = 16 // so little that each segment has one message
		r.log.told(answer{agreed: store.Agreement{Version: 9, Age: 60_000, Bytes: 16}})
		if reply, err := r.log.Append(t.Context(), r.end, n+1, []store.Draft{{Topics: []string{"a"}, Body: []byte(begins + "body")}}); err != nil || reply.Outcome != store.Taken {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	r.must("CONFIG", "SET", "maxmemory", "1")
	before := r.state(t, r.log)
	if _, err := r.log.Append(t.Context(), r.end, 4, []store.Draft{{Topics: []string{"a"}}}); err == nil || r.state(t, r.log) != before {
		t.Errorf("a segment that begins: %v", err)
	}
	if err := r.log.Trim(t.Context(), r.end); err != nil {
		t.Error(err)
	}
	if keys := r.keys(t); len(keys) != 3 {
		t.Errorf("there are still %q", keys)
	}
}

// If a message is kept but was not published, the result is unknown, because
// receivers may still get it.
func TestPublishDenied(t *testing.T) {
	r := newFaultRig(t)
	r.must("ACL", "SETUSER", "mute", "on", "nopass", "+@all", "~*", "resetchannels", "&c:a")
	rdb := redis.NewClient(&redis.Options{Addr: r.rdb.Options().Addr, MaxRetries: -1, Username: "mute", Password: "x"})
	defer rdb.Close()
	r.log.config.Client = rdb
	if _, err := r.append("a"); err != nil {
		t.Error(err)
	}
	if _, err := r.append("a", "b"); !errors.Is(err, errs.Unknown) || !strings.Contains(err.Error(), "not published") {
		t.Errorf("it says %v", err)
	}
	if s, err := r.log.Survey(t.Context(), r.end, r.end, []string{"b"}, 8); err != nil || len(s.Offsets) != 1 {
		t.Errorf("it is not kept: %+v, %v", s, err)
	}
}

// Calls do not wait for ever for a Redis that is busy with somebody else's script.
func TestBusy(t *testing.T) {
	r := newFaultRig(t)
	r.must("CONFIG", "SET", "busy-reply-threshold", "10")
	before := r.state(t, r.log)
	other := redis.NewClient(&redis.Options{Addr: r.rdb.Options().Addr, MaxRetries: -1, ReadTimeout: -1})
	defer other.Close()
	ended := make(chan error, 1)
	go func() { ended <- other.Eval(context.Background(), "while true do end", nil).Err() }()
	once := redis.NewClient(&redis.Options{Addr: r.rdb.Options().Addr, MaxRetries: -1, ReadTimeout: patience})
	defer once.Close()
	r.await("a busy Redis", func() bool {
		return strings.HasPrefix(fmt.Sprint(once.Ping(t.Context()).Err()), "BUSY ")
	})
	l := New(r.log.config)
	l.config.Client = once
	if _, err := l.Append(t.Context(), r.end, 0, []store.Draft{{Topics: []string{"a"}}}); err == nil || !strings.Contains(err.Error(), "BUSY ") || errors.Is(err, errs.Unknown) {
		t.Errorf("the append: %v", err)
	}
	if err := once.Do(t.Context(), "SCRIPT", "KILL").Err(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if state := r.state(t, r.log); state != before || len(r.packets(t)) > 0 {
		t.Errorf("Redis has\n%s\nnot\n%s", state, before)
	}
}

// Keys of somebody else are left alone, and so is a table of another version.
func TestForeignKeys(t *testing.T) {
	for name, c := range map[string]struct {
		key, want string
		put       func(r *faultRig)
	}{
		"a table that is a string":   {"k:t", "WRONGTYPE ", func(r *faultRig) { r.must("SET", "k:t", "x") }},
		"a segment that is a string": {"k:s:0", "WRONGTYPE ", func(r *faultRig) { r.must("SET", "k:s:0", "x") }},
		"a table of tomorrow": {"k:t", "another version", func(r *faultRig) {
			r.must("DEL", "k:t")
			r.must("ZADD", "k:t", "-inf", "\x002 1 2")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFaultRig(t)
			c.put(r)
			before := r.dump()
			check := func(what string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, errs.Unknown) {
					t.Errorf("%s: %v; want %q", what, err, c.want)
				}
			}
			_, err := r.append("a")
			check("append", err)
			if c.key == "k:t" {
				_, err = r.log.Fence(t.Context(), r.end, 2)
				check("fence", err)
				check("trim", r.log.Trim(t.Context(), r.end))
				check("forget", r.log.Forget(t.Context(), r.end, []string{"a"}))
			}
			_, err = r.log.Survey(t.Context(), r.end, history.Point{Epoch: r.end.Epoch}, []string{"a"}, 8)
			check("survey", err)
			if after := r.dump(); after != before || len(r.packets(t)) > 0 {
				t.Errorf("Redis has\n%q\nnot\n%q", after, before)
			}
		})
	}
}

// dump returns all keys in the form in which Redis saves them.
func (r *faultRig) dump() string {
	var b strings.Builder
	for _, key := range r.keys(r.t) {
		fmt.Fprintf(&b, "%s %s\n", key, r.do(r.t, "DUMP", key))
	}
	return b.String()
}

// An append returns ErrUnknown only if it may have been done.
func TestUnknown(t *testing.T) {
	once := func(addr string) *Log {
		rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true})
		t.Cleanup(func() { rdb.Close() })
		return New(Config{Client: rdb, Limits: small})
	}
	gone := badserver.Start(t, func() (string, badserver.Answer) { return "", badserver.Always("") })
	gone.Stop()
	hangsUp := badserver.Start(t, func() (string, badserver.Answer) {
		return "", func(asked []byte) (string, bool) {
			if strings.Contains(strings.ToUpper(string(asked)), "HELLO") {
				return "-ERR unknown command 'HELLO'\r\n", true
			}
			return "", false
		}
	})
	for name, c := range map[string]struct {
		addr    string
		unknown bool
	}{
		"nobody listens": {gone.Addr(), false},
		"it hangs up":    {hangsUp.Addr(), true},
	} {
		for what, f := range map[string]func(l *Log) error{
			"append": func(l *Log) error {
				_, err := l.Append(t.Context(), history.Point{Epoch: 1}, 0, []store.Draft{{Topics: []string{"a"}}})
				return err
			},
			"publish": func(l *Log) error { return l.Publish(t.Context(), []store.Draft{{Topics: []string{"a"}}}) },
		} {
			if err := f(once(c.addr)); err == nil || errors.Is(err, errs.Unknown) != c.unknown {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := calls["append"](ctx, once(hangsUp.Addr())); !errors.Is(err, context.Canceled) || errors.Is(err, errs.Unknown) {
		t.Errorf("before it began: %v", err)
	}
}
