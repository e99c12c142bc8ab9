package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// newLimitedLog returns a Logger as a Hub has it, and what it has written.
func newLimitedLog() (*slog.Logger, *bytes.Buffer, *counters) {
	var b bytes.Buffer
	stats := new(counters)
	return slog.New(newLogLimit(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}), stats)), &b, stats
}

// One client can fill neither the log nor a line of it.
func TestFloodOfRefusalsIsLoggedBriefly(t *testing.T) {
	for name, test := range map[string]struct {
		change func(r *http.Request)
		level  string
	}{
		"OnConnect":    {func(r *http.Request) { r.URL.RawQuery = query(strings.Repeat("u", 8<<10)) }, "level=WARN"},
		"Authenticate": {func(r *http.Request) { r.URL.RawQuery = query("nobody") }, "level=DEBUG"},
		"origin":       {func(r *http.Request) { r.Header.Set("Origin", strings.Repeat("o", 8<<10)) }, "level=DEBUG"},
		"panic":        {func(r *http.Request) { r.URL.RawQuery = query("panic") }, "level=ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				r := newPipeRig(t, Config{
					Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(), RejectAfterUpgrade: true,
					Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
					Authenticate: func(r *http.Request) (Identity, error) {
						id, _ := fromQuery(r)
						switch id.User {
						case "nobody":
							return Identity{}, errors.New("no such token: " + strings.Repeat("t", 8<<10))
						case "panic":
							panic(strings.Repeat("p", 8<<10))
						}
						return id, nil
					},
					OnConnect: func(_ context.Context, c *Conn) error { return fmt.Errorf("%s is banned", c.User()) },
				})
				const requests = 1_000
				request := upgradeRequest(test.change)
				for range requests {
					ws, _, err := r.tryPipeRequest(request)
					if err == nil {
						ws.ReadClose()
						ws.Close()
					}
				}
				synctest.Wait()
				lines := strings.Count(log.String(), test.level)
				if lines < 1 || lines > 10 || log.Len() > 100<<10 {
					t.Errorf("%d requests made %d lines and %d KB of log", requests, lines, log.Len()>>10)
				}
				if n := r.Stats().LogsLeftOut; n < requests-10 {
					t.Errorf("LogsLeftOut is %d", n)
				}
			})
		})
	}
}

// Lines of one message are limited, those of others come all the same, and
// the next one that comes tells how many were left out.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, b, stats := newLimitedLog()
		count := func(part string) int { return strings.Count(b.String(), part) }
		for range 100 {
			log.Warn("flood")
		}
		if n := count("flood"); n != 10 || stats.logsLeftOut.Load() != 90 {
			t.Errorf("%d lines of 100, %d left out", n, stats.logsLeftOut.Load())
		}
		log.Warn("outage", "err", errors.New("it burns"))
		log.Error("flood") // another kind
		if count("outage") != 1 || count("it burns") != 1 || count("level=ERROR") != 1 {
			t.Errorf("lost to a flood of others: %s", b)
		}
		if count("left_out") != 0 {
			t.Errorf("%s", b)
		}
		time.Sleep(100 * time.Millisecond)
		log.Warn("flood")
		if count("left_out=90") != 1 {
			t.Errorf("the count is missing: %s", b)
		}
		time.Sleep(time.Second)
		log.Warn("flood")
		if count("left_out") != 1 {
			t.Errorf("left out was told twice: %s", b)
		}
	})
}

// Values are cut if they are long, between characters, with a mark; others
// are handed on as they are.
func TestLogValuesAreCut(t *testing.T) {
	log, b, _ := newLimitedLog()
	long := "x" + strings.Repeat("é", 4<<10)
	log.Info("cut", "user", long, "err", fmt.Errorf("wrapped: %w", errors.New(long)), "panic", struct{ s string }{long})
	if n := b.Len(); n > 8<<10 || !utf8.Valid(b.Bytes()) || strings.Count(b.String(), "… (8193 bytes)") != 1 || strings.Count(b.String(), "… (8202 bytes)") != 1 || strings.Count(b.String(), "… (8195 bytes)") != 1 || strings.ContainsRune(b.String(), utf8.RuneError) {
		t.Errorf("%d bytes: %s", n, b)
	}
	b.Reset()
	log.Info("whole", "user", "42", "err", ErrBusDown, "n", 7, "since", time.Time{}, "stack", strings.Repeat("s", 8<<10), "nothing", nil)
	for _, part := range []string{"user=42", `err="herald: bus is down"`, "n=7", "since=0001-01-01T00:00:00.000Z", strings.Repeat("s", 8<<10), "nothing=<nil>"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in %s", part, b)
		}
	}
	var handed any
	log = slog.New(newLogLimit(attrHandler{func(a slog.Attr) { handed = a.Value.Any() }}, new(counters)))
	log.Info("as it is", "err", ErrBusDown)
	if handed != error(ErrBusDown) {
		t.Errorf("the handler got %T", handed)
	}
}

// An attrHandler is told of each attribute.
type attrHandler struct{ tell func(slog.Attr) }

func (attrHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h attrHandler) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h attrHandler) WithGroup(string) slog.Handler          { return h }
func (h attrHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool { h.tell(a); return true })
	return nil
}

func TestLogLimitRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, b, stats := newLimitedLog()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for range 100 {
					log.Warn(fmt.Sprint("kind ", i%2), "err", ErrBusDown)
				}
			})
		}
		all.Wait()
		if n := strings.Count(b.String(), "kind"); n != 20 || stats.logsLeftOut.Load() != 780 {
			t.Errorf("%d lines, %d left out", n, stats.logsLeftOut.Load())
		}
	})
}
