package loglimit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

var errBurns = errors.New("it burns")

// newLimitedLog returns a Logger with limits, what it has written, and how many
// lines it has left out.
func newLimitedLog() (*slog.Logger, *bytes.Buffer, *atomic.Uint64) {
	var b bytes.Buffer
	leftOut := new(atomic.Uint64)
	return slog.New(New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}), leftOut)), &b, leftOut
}

// Lines of one message are limited, those of others come all the same, and
// the next one that comes tells how many were left out.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, b, leftOut := newLimitedLog()
		count := func(part string) int { return strings.Count(b.String(), part) }
		for range 100 {
			log.Warn("flood")
		}
		if n := count("flood"); n != 10 || leftOut.Load() != 90 {
			t.Errorf("%d lines of 100, %d left out", n, leftOut.Load())
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
	log.Info("whole", "user", "42", "err", errBurns, "n", 7, "since", time.Time{}, "stack", strings.Repeat("s", 8<<10), "nothing", nil, "longest", strings.Repeat("l", maxValue))
	for _, part := range []string{"user=42", `err="it burns"`, "n=7", "since=0001-01-01T00:00:00.000Z", strings.Repeat("s", 8<<10), "nothing=<nil>", "longest=" + strings.Repeat("l", maxValue) + "\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in %s", part, b)
		}
	}
	var handed any
	log = slog.New(New(attrHandler{func(a slog.Attr) { handed = a.Value.Any() }}, new(atomic.Uint64)))
	log.Info("as it is", "err", errBurns)
	if handed != error(errBurns) {
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
		log, b, leftOut := newLimitedLog()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for range 100 {
					log.Warn(fmt.Sprint("kind ", i%2), "err", errBurns)
				}
			})
		}
		all.Wait()
		if n := strings.Count(b.String(), "kind"); n != 20 || leftOut.Load() != 780 {
			t.Errorf("%d lines, %d left out", n, leftOut.Load())
		}
	})
}

// A Logger with attributes or in a group has the same limits, and its
// attributes are cut.
func TestLogLimitWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, b, leftOut := newLimitedLog()
		given := []slog.Attr{slog.String("user", strings.Repeat("u", 2<<10))}
		for _, with := range []*slog.Logger{log, log.With("node", "n"), log.WithGroup("g").With("a", 1), slog.New(log.Handler().WithAttrs(given))} {
			for range 10 {
				with.Warn("flood", "conn", strings.Repeat("c", 2<<10))
			}
		}
		if n := strings.Count(b.String(), "flood"); n != 10 || leftOut.Load() != 30 {
			t.Errorf("%d lines of 40, %d left out", n, leftOut.Load())
		}
		b.Reset()
		time.Sleep(time.Second)
		slog.New(log.Handler().WithAttrs(given)).WithGroup("g").Warn("flood", "conn", strings.Repeat("c", 2<<10))
		for _, part := range []string{"u… (2048 bytes)", "g.conn=", "c… (2048 bytes)", "left_out=30"} {
			if !strings.Contains(b.String(), part) {
				t.Errorf("%q is not in %s", part, b)
			}
		}
		if given[0].Value.String() != strings.Repeat("u", 2<<10) {
			t.Error("the caller's attributes were changed")
		}
	})
}

// It is a handler as others are.
func TestLogLimitIsHandler(t *testing.T) {
	var b bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		b.Reset()
		return New(slog.NewJSONHandler(&b, nil), new(atomic.Uint64))
	}, func(t *testing.T) map[string]any {
		var line map[string]any
		if err := json.Unmarshal(b.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		return line
	})
	if log := slog.New(New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelWarn}), new(atomic.Uint64))); log.Enabled(t.Context(), slog.LevelInfo) || !log.Enabled(t.Context(), slog.LevelWarn) {
		t.Error("it does not go by the level of the next")
	}
}

// What happens all the time is told at once, then once a minute, with how often it
// has happened since it was told last.
func TestMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Minute
		for _, step := range []struct {
			pause time.Duration
			count int // 0: it is not told
		}{{0, 1}, {0, 0}, {time.Minute - 1, 0}, {1, 3}, {time.Hour, 1}, {time.Second, 0}, {59 * time.Second, 2}} {
			time.Sleep(step.pause)
			if count, ok := m.Tell(); count != step.count || ok != (step.count > 0) {
				t.Errorf("after %v: told %v of %d, want %d", step.pause, ok, count, step.count)
			}
		}
	})
}
