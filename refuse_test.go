package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A logLines has what is logged, a line each.
type logLines chan string

func (l logLines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func newLog() (*slog.Logger, logLines) {
	lines := make(logLines, 100)
	return slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug})), lines
}

// Why a connection was refused is logged, once.
func TestRefusalsAreLogged(t *testing.T) {
	logger, log := newLog()
	r := newRig(t, Config{
		Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(),
		Logger: logger, MaxConnsPerUser: 1, CloseTimeout: 10 * time.Millisecond,
		Authenticate: func(r *http.Request) (Identity, error) {
			id, _ := fromQuery(r)
			if id.User == "mallory" {
				return Identity{}, errors.New("bad signature")
			}
			return id, nil
		},
		Admit: func(_ context.Context, s Session, _ []Session, _ int) ([]Session, error) {
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
	twice := r.connect("user=twice")
	for query, want := range map[string][]string{
		"user=mallory": {"level=DEBUG", "authenticate: bad signature"},
		"user=evil":    {"level=DEBUG", "evil.example"},
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
		r.await("a line of "+query, func() bool { return len(log) > 0 })
		line := <-log
		for _, part := range append(want, "herald: connection refused", "remote=127.0.0.1:") {
			if !strings.Contains(line, part) {
				t.Errorf("%s: %q is not in %q", query, part, line)
			}
		}
	}
	twice.Close()
	r.clean()
	if len(log) > 0 {
		t.Errorf("logged, too: %s", <-log)
	}
}

// The beginning of an outage is logged, and not only its end.
func TestOutagesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := newLog()
		bus := NewMemoryNetwork().Bus()
		registry := NewMemoryRegistry().Handle()
		h := newHub(t, Config{Logger: logger, Bus: bus, Registry: registry})
		expect := func(when string, parts ...string) {
			t.Helper()
			for _, part := range parts {
				if line := <-log; !strings.Contains(line, part) {
					t.Fatalf("%s: logged %q, want %q", when, line, part)
				}
			}
			if len(log) > 0 {
				t.Fatalf("%s: logged %q, too", when, <-log)
			}
		}
		time.Sleep(h.config.Lease)
		expect("well")
		bus.cutOff()
		time.Sleep(time.Second)
		expect("the Bus is cut off", "herald: messages may be getting lost")
		time.Sleep(time.Minute)
		expect("a minute later")
		bus.heal()
		time.Sleep(time.Second)
		expect("the Bus is back", "herald: messages may have been lost")
		registry.cut.Store(true)
		time.Sleep(h.config.Lease)
		expect("the Registry is cut off", "herald: the Registry is down")
		time.Sleep(time.Minute)
		expect("a minute later")
		registry.cut.Store(false)
		time.Sleep(h.config.Lease)
		expect("the Registry is back", "herald: the Registry is back")
	})
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
