package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// heapInUse returns the bytes of the heap that are in use.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // a sync.Pool lets go of its memory at the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What Authenticate cuts out of a long URL or header does not keep all of it in
// memory for the life of the connection. Nor does the name of a group that is cut
// out of a long message.
func TestRequestIsNotKept(t *testing.T) {
	const clients, pad = 50, 200 << 10
	fromRequest := func(r *http.Request) (Identity, error) {
		id, err := fromQuery(r)
		cookie, _, _ := strings.Cut(r.Header.Get("Cookie"), ";")
		r.RemoteAddr, _, _ = strings.Cut(r.Header.Get("X-Forwarded-For"), ",") // as a middleware may
		id.Meta = map[string]string{cookie: cookie}
		return id, err
	}
	for name, test := range map[string]struct {
		query  string
		header http.Header
		text   string
	}{
		"URL":     {"&device=d&platform=p&groups=a,b&pad=" + strings.Repeat("x", pad), nil, ""},
		"cookie":  {"", http.Header{"Cookie": {"id=1; " + strings.Repeat("x", pad)}}, ""},
		"address": {"", http.Header{"X-Forwarded-For": {"192.0.2.1, " + strings.Repeat("x", pad)}}, ""},
		"group":   {"", nil, strings.Repeat("x", pad)},
	} {
		t.Run(name, func(t *testing.T) {
			joined := make(chan error, clients)
			r := newRig(t, Config{
				Authenticate:   fromRequest,
				Subprotocols:   []string{"chat"},
				MaxMessageSize: 1 << 20,
				OnMessage: func(ctx context.Context, c *Conn, m Message) {
					joined <- c.Join(ctx, m.String()[:8])
				},
			})
			r.connect("user=first").Close()
			r.ended(1)
			before := heapInUse()
			for i := range clients {
				ws, _, err := wsraw.Handshake(r.dialTCP(0), fmt.Sprint("/?user=u", i, test.query), test.header)
				if err != nil {
					t.Fatal(err)
				}
				if test.text == "" {
					continue
				}
				ws.WriteFrames(textFrame(fmt.Sprintf("%08d", i) + test.text))
				if err := <-joined; err != nil {
					t.Fatal(err)
				}
			}
			r.await("all clients", func() bool { return r.Stats().Conns == clients })
			// The last of net/http's buffers are freed when its goroutines end.
			kept := int64(0)
			r.await("little that is kept", func() bool {
				kept = (heapInUse() - before) / clients
				return kept < pad/4
			})
			t.Logf("%d bytes a connection", kept)
		})
	}
}

// An Identity above a limit is the application's mistake. It is refused, and the
// log says which rule it breaks and by how much, but not its values.
func TestIdentityAboveLimit(t *testing.T) {
	many := make([]string, 30)
	for i := range many {
		many[i] = fmt.Sprint("group ", i)
	}
	secret := strings.Repeat("secret", 30)
	for name, test := range map[string]struct {
		id   Identity
		says string // "" lets it in
	}{
		"as large as may be": {Identity{User: "u", Device: strings.Repeat("d", 50), Platform: strings.Repeat("p", 29), Meta: map[string]string{"key": strings.Repeat("v", 17)}}, ""},
		"User":               {Identity{User: secret}, "User (180), Device (0), Platform (0) and Meta (0) have 180 bytes: must be at most MaxIdentitySize (100)"},
		"Device":             {Identity{User: "u", Device: secret}, "Device (180)"},
		"Platform":           {Identity{User: "u", Platform: secret}, "Platform (180)"},
		"key of Meta":        {Identity{User: "u", Meta: map[string]string{secret: ""}}, "Meta (180)"},
		"value of Meta":      {Identity{User: "u", Meta: map[string]string{"": secret}}, "Meta (180)"},
		"many groups":        {Identity{User: "u", Groups: many[:11]}, "Groups has 11: must be at most MaxGroups (10)"},
		"a group many times": {Identity{User: "u", Groups: slices.Repeat(many[:10], 3)}, ""},
		"long group":         {Identity{User: "u", Groups: []string{strings.Repeat(secret, 6)}}, "group: name of 1080 bytes: must be at most 1024"},
		"empty group":        {Identity{User: "u", Groups: []string{"g", ""}}, "group: name must not be empty"},
	} {
		t.Run(name, func(t *testing.T) {
			var log journal
			r := newRig(t, Config{
				MaxIdentitySize: 100,
				MaxGroups:       10,
				Authenticate:    func(*http.Request) (Identity, error) { return test.id, nil },
				Logger:          slog.New(slog.NewTextHandler(&log, nil)),
			})
			if test.says == "" {
				r.connect("")
				r.only()
				return
			}
			if status := r.refused("", nil).StatusCode; status != http.StatusInternalServerError {
				t.Errorf("status %d", status)
			}
			if s := log.cut(); !strings.Contains(s, test.says) || strings.Contains(s, secret) || !strings.Contains(s, "level=ERROR") {
				t.Errorf("the log says %q, want %q", s, test.says)
			}
			if n := r.Stats().BadIdentities; n != 1 {
				t.Errorf("BadIdentities is %d", n)
			}
			r.clean()
		})
	}
}

// A Conn at MaxGroups joins nothing more, and the caller is told which bound that
// was, whichever node the connection is on. The other Conns of the call join.
func TestMaxGroups(t *testing.T) {
	rigs := newPair(t, false, Config{MaxGroups: 3})
	rigs[0].connect("user=full&groups=a,b,c")
	rigs[0].connect("user=other&groups=a")
	full, other := rigs[0].findUser("full"), rigs[0].findUser("other")
	settled(t, rigs)
	if err := full.Join(t.Context(), "a", "b"); err != nil {
		t.Errorf("join again: %v", err)
	}
	err := full.Join(t.Context(), "d")
	if want := fmt.Sprintf("herald: limit reached: connection %s would belong to 4 groups: MaxGroups is 3", full.ID()); !errors.Is(err, ErrLimit) || err.Error() != want {
		t.Errorf("one more: %v, want %s", err, want)
	}
	for _, r := range rigs {
		err := r.Join(t.Context(), Everyone(), "d", "d")
		var partial *PartialError
		if !errors.As(err, &partial) || !slices.Equal(partial.Missing, []string{rigs[0].NodeID()}) || !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "MaxGroups is 3") {
			t.Errorf("Join of everyone: %v", err)
		}
	}
	if err := other.Join(t.Context(), "e", "f"); !errors.Is(err, ErrLimit) {
		t.Errorf("two more than one has room for: %v", err)
	}
	if err := full.Leave(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if err := full.Join(t.Context(), "d"); err != nil {
		t.Errorf("after one was left: %v", err)
	}
	for c, want := range map[*Conn][]string{full: {"a", "c", "d"}, other: {"a", "d"}} {
		if groups := c.Groups(); !slices.Equal(slices.Sorted(slices.Values(groups)), want) {
			t.Errorf("%s is in %q, want %q", c.User(), groups, want)
		}
	}
	if n := rigs[0].Stats().RefusedJoins; n != 4 {
		t.Errorf("RefusedJoins is %d", n)
	}
	if err := rigs[1].Join(t.Context(), Everyone(), strings.Repeat("g", maxGroupName+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a long name: %v", err)
	}
	agree(t, rigs)
}

// A Conn that is closed while it joins the many groups of its Identity leaves
// nothing behind, even if a Join adds it to them at the same time.
func TestGoneWhileJoining(t *testing.T) {
	groups := make([]string, 2*indexStep)
	for i := range groups {
		groups[i] = fmt.Sprint(i)
	}
	r := newRig(t, Config{Authenticate: func(r *http.Request) (Identity, error) {
		return Identity{User: r.URL.Query().Get("user"), Groups: groups}, nil
	}})
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			user := fmt.Sprint("u", i)
			for range 10 {
				var meddling sync.WaitGroup
				for _, meddle := range []func() error{
					func() error { return r.Disconnect(t.Context(), User(user), StatusReplaced, "") },
					func() error { return r.Join(t.Context(), User(user), groups...) },
					func() error {
						for _, c := range r.index.appendConns(nil, userTopic(user)) {
							c.Close(StatusNormal, "")
						}
						return nil
					},
				} {
					meddling.Go(func() {
						if err := meddle(); err != nil {
							t.Error(err)
						}
					})
				}
				ws, _, err := wsraw.Handshake(r.dialTCP(0), "/?"+query(user), nil)
				meddling.Wait()
				if err == nil {
					ws.Close()
				}
			}
		})
	}
	clients.Wait()
	r.clean()
}

// The Local of Authenticate's result reaches the callbacks unchanged, and nobody
// else: no limit counts it.
func TestIdentityLocal(t *testing.T) {
	type account [1 << 10]byte
	local := new(account)
	seen := make(chan any, 3)
	r := newRig(t, Config{
		MaxIdentitySize: 100,
		Authenticate:    func(*http.Request) (Identity, error) { return Identity{User: "u", Local: local}, nil },
		OnConnect: func(_ context.Context, c *Conn) error {
			seen <- c.Identity().Local
			return nil
		},
		OnMessage:    func(_ context.Context, c *Conn, _ Message) { seen <- c.Identity().Local },
		OnDisconnect: func(c *Conn, _ error) { seen <- c.Identity().Local },
	})
	ws := r.connect("")
	ws.WriteFrames(textFrame("hello"))
	for _, callback := range []string{"OnConnect", "OnMessage"} {
		if got := <-seen; got != any(local) {
			t.Errorf("%s: Local is %v", callback, got)
		}
	}
	ws.Close()
	if got := <-seen; got != any(local) {
		t.Errorf("OnDisconnect: Local is %v", got)
	}
}

// logLines receives the lines that are logged.
type logLines chan string

func (l logLines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func newLog() (*slog.Logger, logLines) {
	lines := make(logLines, 100)
	return slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug})), lines
}

// The log says once why a connection was refused. A foreign origin also gets a
// warning.
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
			r.await("a warning of the origin", func() bool { return len(log) > 0 })
			if line := <-log; !strings.Contains(line, "level=WARN") || !strings.Contains(line, "Config.OriginPatterns") {
				t.Errorf("%s: no warning: %q", query, line)
			}
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

// The log tells of the beginning of an outage, not only of its end.
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

// One client can fill neither the log nor a single line of it.
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

// The number of connections that are upgraded only to be refused is bounded. Above
// it, refusals come without an upgrade.
func TestRefusedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{MaxConns: 10, RejectAfterUpgrade: true, Authenticate: func(*http.Request) (Identity, error) {
			return Identity{}, errors.New("no")
		}})
		statuses := make(map[int]int)
		come := func(n int) {
			for range n {
				if _, w, err := r.tryPipe(""); err != nil {
					statuses[w.status]++
				} else {
					statuses[http.StatusSwitchingProtocols]++
				}
			}
			synctest.Wait()
		}
		come(3_000)
		if statuses[101] != 1_000 || statuses[401] != 2_000 {
			t.Errorf("3,000 were refused with %v; Refused %d", statuses, r.Stats().Refused)
		}
		if s := r.Stats(); s.Refused != 1_000 || s.Rejected != 3_000 {
			t.Errorf("Refused %d, Rejected %d", s.Refused, s.Rejected)
		}
		time.Sleep(r.config.CloseTimeout)
		synctest.Wait()
		clear(statuses)
		come(10)
		if statuses[101] != 10 || r.Stats().Refused != 10 {
			t.Errorf("after CloseTimeout, 10 were refused with %v; Refused %d", statuses, r.Stats().Refused)
		}
		time.Sleep(r.config.CloseTimeout)
		r.clean()
	})
}

// Authenticate may choose one of the subprotocols that the client offers. A refusal
// after the upgrade agrees on any of them, because a browser that offered some and
// gets none sees no close code.
func TestIdentitySubprotocol(t *testing.T) {
	var log journal
	agreed := make(chan string, 1)
	r := newRig(t, Config{
		Subprotocols: []string{"chat"}, RejectAfterUpgrade: true, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Authenticate: func(r *http.Request) (Identity, error) {
			id, err := fromQuery(r)
			if id.User == "nobody" {
				err = errors.New("a bad token")
			}
			id.Subprotocol = r.URL.Query().Get("answer")
			return id, err
		},
		OnConnect: func(_ context.Context, c *Conn) error { agreed <- c.Subprotocol(); return nil },
	})
	for _, test := range []struct {
		name, query string
		offers      []string
		want        string
		code        uint16 // the close code if it is refused
	}{
		{"none, none offered", "", nil, "", 0},
		{"none", "", []string{"bearer, secret"}, "", 0},
		{"Config's", "", []string{"secret, chat"}, "chat", 0},
		{"bearer", "answer=bearer", []string{"chat, bearer, secret"}, "bearer", 0},
		{"bearer in two lines", "answer=bearer", []string{"secret", "bearer"}, "bearer", 0},
		{"a lone token", "answer=secret", []string{"secret"}, "secret", 0},
		{"not offered", "answer=bearer", []string{"secret"}, "secret", 4500},
		{"nothing offered", "answer=bearer", nil, "", 4500},
		{"no token", "answer=se/cret", []string{"chat, se/cret"}, "chat", 4500},
		{"refused", "user=nobody", []string{"bearer, secret"}, "bearer", 4401},
		{"refused, one of Config's", "user=nobody", []string{"bearer, secret, chat"}, "chat", 4401},
	} {
		header := http.Header{}
		if test.offers != nil {
			header["Sec-Websocket-Protocol"] = test.offers
		}
		logged := log.count("breaks a rule")
		ws, response, err := wsraw.Handshake(r.dialTCP(0), "/?"+test.query, header)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := response.Header.Get("Sec-WebSocket-Protocol"); got != test.want {
			t.Errorf("%s: answered with %q, want %q", test.name, got, test.want)
		}
		if logged = log.count("breaks a rule") - logged; (logged == 1) != (test.code == 4500) {
			t.Errorf("%s: told the log %d times", test.name, logged)
		}
		if test.code != 0 {
			if closed, err := ws.ReadClose(); err != nil || closed.Code != test.code {
				t.Errorf("%s: %v, %v", test.name, closed, err)
			}
		} else if got := <-agreed; got != test.want {
			t.Errorf("%s: Conn.Subprotocol is %q", test.name, got)
		}
		ws.Close()
	}
	if log.count("secret") > 0 {
		t.Error("the log has the client's token")
	}
}
