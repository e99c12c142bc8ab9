package resumetest_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// await waits until done returns true.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// If a node knows since when messages may be missing, its clients are told.
func TestGapTimes(t *testing.T) {
	bus := heraldtest.NewFaultyBus(herald.NewMemoryNetwork())
	begun := time.Now()
	n := newNode(t, herald.Config{Bus: bus, Registry: herald.NewMemoryRegistry(), ProbeInterval: 50 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond})
	d := newDevice(t, n, "user=a", "")
	d.connected()
	n.send(t, herald.User("a"), "before")
	d.wantAfterGaps("before") // a slow machine may miss a heartbeat
	end, lost := make(chan struct{}), make(chan struct{})
	go func() { // until a heartbeat is missed: a Reset, which a busy machine may cause, ends the losses
		defer close(lost)
		for tick := time.Tick(10 * time.Millisecond); ; <-tick {
			select {
			case <-end:
				return
			default:
				bus.Lose(true)
			}
		}
	}()
	e := d.next()
	close(end)
	<-lost
	gap, ok := e.(heraldclient.Gap)
	if !ok || gap.Since.Before(begun) || !gap.Since.Before(gap.Until) || gap.Until.After(time.Now()) {
		t.Errorf("it was told %T %+v", e, e)
	}
}

// If a message is in the log but the node cannot read it, clients are told of it in
// its place.
func TestUnreadable(t *testing.T) { eachBus(t, testUnreadable) }

func testUnreadable(t *testing.T, config func() herald.Config) {
	small := config()
	small.MaxSendSize = 1 << 10
	one, two := newNode(t, config()), newNode(t, small)
	d := newDevice(t, two, "user=a", "")
	d.connected()
	d.Cut()
	one.send(t, herald.User("a"), "first")
	one.send(t, herald.User("a"), strings.Repeat("too long for the other node", 100))
	one.send(t, herald.User("a"), "last")
	d.Heal()
	d.connected()
	d.want("first")
	if e := d.next(); e != (heraldclient.Gap{}) {
		t.Errorf("in its place there is %T %+v", e, e)
	}
	d.want("last")
}

// Protocol lines are not messages, and Stats does not count them.
func TestStatsOfLines(t *testing.T) { eachBus(t, testStatsOfLines) }

func testStatsOfLines(t *testing.T, config func() herald.Config) {
	n := newNode(t, config())
	d := newDevice(t, n, "user=a", "")
	for range 3 {
		d.connected()
		await(t, "the end of the connection before", func() bool { return n.Stats().Conns == 1 }) // otherwise it would drop a message
		n.send(t, herald.User("a"), "hello")
		d.want("hello")
		if err := d.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.Cut()
		d.Heal()
	}
	d.connected()
	await(t, "three messages that are written", func() bool { return n.Stats().Written >= 3 })
	if s := n.Stats(); s.Delivered != 3 || s.Written != 3 || s.Dropped != 0 {
		t.Errorf("%d delivered, %d written, %d dropped", s.Delivered, s.Written, s.Dropped)
	}
}

// warnings is a slog.Handler that keeps the errors of warnings.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	errs []string
}

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level != slog.LevelWarn {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			w.errs = append(w.errs, a.Value.String())
		}
		return true
	})
	return nil
}

func (w *warnings) Enabled(_ context.Context, level slog.Level) bool { return level == slog.LevelWarn }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler               { return w }
func (w *warnings) WithGroup(string) slog.Handler                    { return w }

func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errs[:len(w.errs):len(w.errs)]
}

// If the log does not answer although the Bus works, that is logged once.
func TestSilentLogIsLogged(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	do := func(args ...any) {
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do("ACL", "SETUSER", "herald", "on", "nopass", "allcommands", "allkeys", "allchannels")
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "herald", Password: "none"})
	t.Cleanup(func() { rdb.Close() })
	bus, err := herald.NewRedisBus(rdb, nil)
	if err != nil {
		t.Fatal(err)
	}
	log := new(warnings)
	n := newNode(t, herald.Config{Bus: bus, Registry: herald.NewMemoryRegistry(), ProbeTimeout: 200 * time.Millisecond, Logger: slog.New(log)})
	do("ACL", "SETUSER", "herald", "-evalsha", "-eval")
	await(t, "a warning", func() bool { return len(log.all()) > 0 })
	// The log is still silent while the Bus goes on working.
	before := n.Stats().Received
	await(t, "more heartbeats", func() bool { return n.Stats().Received > before+3 })
	if all := log.all(); len(all) != 1 || !strings.Contains(all[0], "evalsha") {
		t.Errorf("logged: %q", all)
	}
	if n.Health() == nil {
		t.Error("Health says that all is well")
	}
	do("ACL", "SETUSER", "herald", "+evalsha", "+eval")
	await(t, "that the log answers again", func() bool { return n.Health() == nil })
}
