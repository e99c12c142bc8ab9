package herald

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/redistest"
)

// A journal keeps what is logged at Info or above.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(p))
	return len(p), nil
}

// count returns how many lines have text since the last call of cut.
func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, line := range j.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// cut forgets the lines, and returns them.
func (j *journal) cut() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := strings.Join(j.lines, "")
	j.lines = nil
	return all
}

// A Hub whose Redis refuses says so: Health and every question, the log once, and
// once when all is well again.
func TestHubWhileRedisRefuses(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	do := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			var args []any
			for _, word := range strings.Fields(line) {
				args = append(args, word)
			}
			if err := admin.Do(t.Context(), args...).Err(); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	const well = "ACL SETUSER app reset on >old ~* &* +@all"
	do(well)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "old"})
	t.Cleanup(func() { client.Close() })
	log := new(journal)
	r := newRig(t, Config{Redis: client, Lease: 6 * time.Second, ProbeInterval: time.Second / 10, ProbeTimeout: 2 * time.Second,
		Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.connect("user=a&groups=g")
	registry := map[string]func(context.Context) error{
		"Online":     func(ctx context.Context) error { _, err := r.Online(ctx, "a"); return err },
		"Sessions":   func(ctx context.Context) error { _, err := r.Sessions(ctx, User("a")); return err },
		"Count":      func(ctx context.Context) error { _, err := r.Count(ctx); return err },
		"Nodes":      func(ctx context.Context) error { _, err := r.Nodes(ctx); return err },
		"Join":       func(ctx context.Context) error { return r.Join(ctx, User("a"), "other") },
		"Disconnect": func(ctx context.Context) error { return r.Disconnect(ctx, User("b"), 4000, "") },
	}
	send := map[string]func(context.Context) error{
		"Send": func(ctx context.Context) error { return r.Send(ctx, User("a"), Text("x")) },
	}
	const (
		busDown, busBack           = `msg="herald: the Bus does not work"`, `msg="herald: the Bus works again"`
		lossBegun, loss            = `msg="herald: messages may be getting lost"`, `msg="herald: messages may have been lost"`
		registryDown, registryBack = `msg="herald: the Registry is down"`, `msg="herald: the Registry is back"`
	)
	for _, test := range []struct {
		name       string
		begin, end []string
		word       string
		down       []error
		calls      []map[string]func(context.Context) error
		during     []string // lines of the log, each once
		after      []string
	}{
		{"password changed", []string{"ACL SETUSER app resetpass >new", "CLIENT KILL USER app"}, []string{well}, "WRONGPASS",
			[]error{ErrBusDown, ErrRegistryDown}, []map[string]func(context.Context) error{registry, send},
			[]string{lossBegun, registryDown}, []string{loss, registryBack}},
		{"no PUBLISH", []string{"ACL SETUSER app -publish"}, []string{well}, "NOPERM",
			[]error{ErrBusDown}, []map[string]func(context.Context) error{send},
			[]string{busDown}, []string{busBack}},
		{"no SUBSCRIBE", []string{"ACL SETUSER app -subscribe"}, []string{well}, "NOPERM",
			[]error{ErrBusDown}, nil,
			[]string{busDown}, []string{busBack}},
		{"no HSCAN", []string{"ACL SETUSER app -hscan"}, []string{well}, "NOPERM",
			[]error{ErrRegistryDown}, []map[string]func(context.Context) error{registry},
			[]string{registryDown}, []string{registryBack}},
	} {
		t.Run(test.name, func(t *testing.T) {
			await(t, "health", func() bool { return r.Health() == nil })
			log.cut()
			do(test.begin...)
			for _, down := range test.down {
				await(t, down.Error(), func() bool {
					err := r.Health()
					return errors.Is(err, down) && strings.Contains(err.Error(), test.word)
				})
			}
			for _, calls := range test.calls {
				for name, call := range calls {
					err := call(t.Context())
					t.Logf("%s | %s | %v", name, test.name, err)
					if !errors.Is(err, ErrRegistryDown) && !errors.Is(err, ErrBusDown) || !strings.Contains(err.Error(), test.word) {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			for _, line := range test.during {
				await(t, line, func() bool { return log.count(line) > 0 })
			}
			do(test.end...)
			await(t, "health", func() bool { return r.Health() == nil })
			for _, line := range test.after {
				await(t, line, func() bool { return log.count(line) > 0 })
			}
			all := append(test.during, test.after...)
			for _, line := range all {
				if n := log.count(line); n != 1 {
					t.Errorf("%s: logged %d times", line, n)
				}
			}
			// What was under way when the connections were closed knows nothing of why.
			if text := log.cut(); !strings.Contains(text, test.word) && test.name != "password changed" {
				t.Errorf("%s is not in the log:\n%s", test.word, text)
			} else if t.Failed() {
				t.Log(text)
			}
			if online, err := r.Online(t.Context(), "a"); err != nil || !online["a"] {
				t.Errorf("afterwards: online %v, %v", online, err)
			}
		})
	}
}
