package herald

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// lines returns what has been logged since the last call.
func (l *logBuffer) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.TrimSpace(l.b.String())
	l.b.Reset()
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// Why a connection was refused is logged, once.
func TestRefusalsAreLogged(t *testing.T) {
	var log logBuffer
	r := newRig(t, Config{
		Logger: log.logger(), MaxConnsPerUser: 1,
		Authenticate: func(r *http.Request) (Identity, error) {
			id, _ := fromQuery(r)
			if id.User == "mallory" {
				return Identity{}, errors.New("bad signature")
			}
			return id, nil
		},
		Admit: func(_ context.Context, s Session, _ []Session) ([]Session, error) {
			if s.User == "banned" {
				return nil, &CloseError{Code: 4003, Reason: "banned"}
			}
			return nil, nil
		},
		OnConnect: func(_ context.Context, c *Conn) error {
			if c.User() == "unlucky" {
				return errors.New("database is down")
			}
			return nil
		},
	})
	r.connect("user=twice")
	for query, want := range map[string][]string{
		"user=mallory": {"level=DEBUG", "Authenticate: bad signature"},
		"user=evil":    {"level=DEBUG", "user=evil", "evil.example"},
		"user=twice":   {"level=DEBUG", "user=twice", "too many connections of this user"},
		"user=banned":  {"level=DEBUG", "user=banned", "Admit: ", "4003"},
		"user=unlucky": {"level=WARN", "user=unlucky", "OnConnect: database is down"},
	} {
		switch query {
		case "user=banned", "user=unlucky":
			r.connect(query)
		case "user=evil":
			r.refused(query, http.Header{"Origin": {"https://evil.example"}})
		default:
			r.refused(query, nil)
		}
		var lines []string
		r.await("a line of "+query, func() bool { lines = append(lines, log.lines()...); return len(lines) > 0 })
		for _, part := range append(want, "herald: connection refused", "remote=127.0.0.1:") {
			if len(lines) != 1 || !strings.Contains(lines[0], part) {
				t.Errorf("%s: %q is not in the only line of %q", query, part, lines)
			}
		}
	}
}

// The beginning of an outage is logged, and not only its end.
func TestOutagesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		bus := NewMemoryNetwork().Bus()
		registry := NewMemoryRegistry().Handle()
		h := newHub(t, Config{Logger: log.logger(), Bus: bus, Registry: registry})
		expect := func(when string, parts ...string) {
			t.Helper()
			lines := log.lines()
			for i, part := range parts {
				if len(lines) != len(parts) || !strings.Contains(lines[i], part) {
					t.Fatalf("%s: logged %q, want %q", when, lines, parts)
				}
			}
		}
		time.Sleep(h.config.Lease)
		expect("well")
		bus.Cut()
		time.Sleep(time.Second)
		expect("the Bus is cut off", "herald: messages may be getting lost")
		time.Sleep(time.Minute)
		expect("a minute later")
		bus.Heal()
		time.Sleep(time.Second)
		expect("the Bus is back", "herald: messages may have been lost")
		registry.Cut()
		time.Sleep(h.config.Lease)
		expect("the Registry is cut off", "herald: the Registry is down")
		time.Sleep(time.Minute)
		expect("a minute later")
		registry.Heal()
		time.Sleep(h.config.Lease)
		expect("the Registry is back", "herald: the Registry is back")
	})
}
