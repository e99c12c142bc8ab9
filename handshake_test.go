package herald

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

func TestStatusOfRefusals(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	r := newRig(t, Config{
		Bus: bus, Registry: NewMemoryRegistry(), HandshakeTimeout: time.Second,
		Authenticate: func(r *http.Request) (Identity, error) {
			switch r.URL.Query().Get("as") {
			case "nobody":
				return Identity{}, errors.New("secret")
			case "teapot":
				return Identity{}, &HTTPError{http.StatusTeapot, "short and stout"}
			case "odd":
				return Identity{}, &HTTPError{200, "fine?"}
			case "empty":
				return Identity{}, nil
			case "emptygroup":
				return Identity{User: "u", Groups: []string{""}}, nil
			case "expired":
				return Identity{User: "u", Expires: time.Now().Add(-time.Second)}, nil
			case "panic":
				panic("secret")
			}
			return fromQuery(r)
		},
	})
	for as, want := range map[string]int{
		"nobody": 401, "teapot": 418, "odd": 401, "empty": 401, "emptygroup": 500, "expired": 401, "panic": 500,
	} {
		response := r.refused("as="+as, nil)
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != want || strings.Contains(string(body), "secret") {
			t.Errorf("%s: %s: %s", as, response.Status, body)
		}
	}
	for name, test := range map[string]struct {
		header http.Header
		want   int
	}{
		"no upgrade":       {http.Header{"Upgrade": nil}, 426},
		"another upgrade":  {http.Header{"Upgrade": {"h2c"}}, 426},
		"no connection":    {http.Header{"Connection": nil}, 426},
		"old version":      {http.Header{"Sec-Websocket-Version": {"8"}}, 400},
		"no key":           {http.Header{"Sec-Websocket-Key": nil}, 400},
		"short key":        {http.Header{"Sec-Websocket-Key": {"YQ=="}}, 400},
		"another's origin": {http.Header{"Origin": {"https://evil.example"}}, 403},
		"null origin":      {http.Header{"Origin": {"null"}}, 403},
	} {
		if response := r.refused("", test.header); response.StatusCode != test.want {
			t.Errorf("%s: %s, want %d", name, response.Status, test.want)
		}
	}
	bus.cutOff()
	r.await("a red Health", func() bool { return r.Health() != nil })
	r.refusedWith(http.StatusServiceUnavailable, "")
	bus.heal()
	r.await("a green Health", func() bool { return r.Health() == nil })
	ws, _, err := wsraw.Handshake(r.dialTCP(0), "/", http.Header{"Origin": {"http://test"}})
	if err != nil {
		t.Fatalf("same origin: %v", err)
	}
	ws.Close()
	r.ended(1)
	r.clean()

	sender := newHub(t, Config{})
	sender.config.Authenticate = nil
	w := httptest.NewRecorder()
	sender.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusNotImplemented {
		t.Errorf("without Authenticate: %d", w.Code)
	}
	w = httptest.NewRecorder()
	r.ServeHTTP(w, upgradeRequest(nil)) // no http.Hijacker
	if w.Code != http.StatusInternalServerError {
		t.Errorf("without a Hijacker: %d", w.Code)
	}
}

// Whatever Authenticate starts with the request's context ends with the handshake,
// even if the host never ends that context.
func TestAuthenticateContextEnds(t *testing.T) {
	for _, timeout := range []time.Duration{time.Minute, -1} {
		synctest.Test(t, func(t *testing.T) {
			var ctx context.Context
			var told bool
			h := newHub(t, Config{HandshakeTimeout: timeout, Authenticate: func(r *http.Request) (Identity, error) {
				ctx = r.Context()
				context.AfterFunc(ctx, func() { told = true })
				return Identity{}, errors.New("no")
			}})
			cancelled, cancel := context.WithCancel(t.Context())
			defer cancel()
			for _, parent := range []context.Context{context.Background(), cancelled} {
				told = false
				h.ServeHTTP(httptest.NewRecorder(), upgradeRequest(nil).WithContext(parent))
				synctest.Wait()
				if ctx.Err() == nil || !told {
					t.Errorf("timeout %v: after the handshake: %v, AfterFunc has run: %v", timeout, ctx.Err(), told)
				}
			}
		})
	}
}

// A hijacker has a connection, but no buffer for writing.
type hijacker struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), nil), nil
}

func TestHijackerWithoutBuffer(t *testing.T) {
	r := newRig(t, Config{})
	client, server := tcpPair(t)
	r.ServeHTTP(hijacker{httptest.NewRecorder(), server}, upgradeRequest(nil))
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("got %v, %v", response, err)
	}
}

func TestOriginPatternsAndSubprotocols(t *testing.T) {
	protocol := make(chan string, 1)
	r := newRig(t, Config{
		OriginPatterns: []string{"*.example.com", "https://good.example"},
		Subprotocols:   []string{"v2", "v1"},
		OnConnect:      func(_ context.Context, c *Conn) error { protocol <- c.Subprotocol(); return nil },
	})
	for origin, ok := range map[string]bool{
		"http://a.example.com": true, "https://good.example": true, "http://good.example": false, "https://example.com": false, "https://a.example.com.evil": false,
	} {
		ws, response, _ := wsraw.Handshake(r.dialTCP(0), "/", http.Header{"Origin": {origin}, "Sec-Websocket-Protocol": {"v0, v1, v2"}})
		if (ws != nil) != ok {
			t.Errorf("origin %s: %s", origin, response.Status)
		}
		if ws != nil {
			if p := <-protocol; p != "v2" || response.Header.Get("Sec-Websocket-Protocol") != p {
				t.Errorf("subprotocol %q", p)
			}
			ws.Close()
		}
	}
	r.ended(2)
	r.clean()
}

// The 101 spells its headers as RFC 6455 does, because some clients compare bytes.
// A request that lists other protocols beside websocket is an upgrade too.
func TestUpgrade101(t *testing.T) {
	r := newRig(t, Config{Subprotocols: []string{"v1"}})
	for _, upgrade := range []string{"Upgrade: websocket", "upgrade: WebSocket", "Upgrade: websocket, h2c", "Upgrade: h2c,websocket", "Upgrade: h2c\r\nUpgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c"} {
		c := r.dialTCP(0)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: test\r\n%s\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1\r\n\r\n", upgrade)
		c.SetReadDeadline(time.Now().Add(patience))
		var head []string
		for br := bufio.NewReader(c); ; {
			line, err := br.ReadString('\n')
			if err != nil {
				t.Fatalf("%q: %v, after %q", upgrade, err, head)
			}
			if line == "\r\n" {
				break
			}
			head = append(head, strings.TrimSuffix(line, "\r\n"))
		}
		slices.Sort(head[1:])
		want := []string{"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "Sec-WebSocket-Protocol: v1", "Upgrade: websocket"}
		if !slices.Equal(head, want) {
			t.Errorf("%q: %q", upgrade, head)
		}
		c.Close()
	}
}

// A browser's script cannot see an HTTP status, so it gets a close code.
func TestRejectAfterUpgrade(t *testing.T) {
	r := newRig(t, Config{
		RejectAfterUpgrade: true, MaxConnsPerUser: 1,
		Authenticate: func(r *http.Request) (Identity, error) {
			switch r.URL.Query().Get("as") {
			case "nobody":
				return Identity{}, errors.New("secret")
			case "long":
				return Identity{}, &HTTPError{403, strings.Repeat("x", 200)}
			}
			return fromQuery(r)
		},
	})
	first := r.connect("user=a")
	for query, want := range map[string]StatusCode{"as=nobody": StatusUnauthorized, "as=long": 4403, "user=a": 4429} {
		ws := r.connect(query)
		if closed, err := ws.ReadClose(); err != nil || StatusCode(closed.Code) != want || strings.Contains(closed.Reason, "secret") {
			t.Errorf("%s: %v, %v", query, closed, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(1000, ""))
		if err := ws.ReadEnd(); err != nil {
			t.Error(err)
		}
	}
	// Pages of other sites get none.
	if response := r.refused("as=nobody", http.Header{"Origin": {"https://evil.example"}}); response.StatusCode != 403 {
		t.Error(response.Status)
	}
	first.Close()
	r.ended(1)
	r.clean()
}

// After the upgrade, refusals by Admit and OnConnect, and panics in them, are told
// as close codes. Messages sent meanwhile are dropped, and OnDisconnect does not
// run.
func TestRefusalsAfterTheUpgrade(t *testing.T) {
	refuse := func(user, in string, c *Conn) error {
		if c != nil && strings.HasPrefix(user, in) {
			c.Send(Text("never seen"))
		}
		switch user {
		case in + " code":
			return &CloseError{Code: 4000, Reason: "because"}
		case in + " bad code":
			return &CloseError{Code: 1006, Reason: "because"}
		case in + " error":
			return errors.New("secret")
		case in + " panic":
			panic("secret")
		}
		return nil
	}
	r := newRig(t, Config{
		CloseTimeout: patience,
		Admit: func(_ context.Context, s Session, _ []Session, _ int) ([]Session, error) {
			return nil, refuse(s.User, "admit", nil)
		},
		OnConnect: func(_ context.Context, c *Conn) error { return refuse(c.User(), "connect", c) },
		OnOnline: func(user string) {
			if user == "connect panic" {
				panic("online")
			}
		},
	})
	for _, in := range []string{"admit", "connect"} {
		for how, want := range map[string]StatusCode{"code": 4000, "bad code": 1008, "error": 1008, "panic": 1011} {
			ws := r.connect(query(in + " " + how))
			f, err := ws.ReadFrame()
			if err != nil || f.Opcode != wsraw.Close || StatusCode(f.Payload[0])<<8|StatusCode(f.Payload[1]) != want || strings.Contains(string(f.Payload), "secret") {
				t.Errorf("%s %s: %+v, %v", in, how, f, err)
			}
			ws.WriteFrames(wsraw.CloseFrame(1000, ""))
			if err := ws.ReadEnd(); err != nil {
				t.Error(err)
			}
		}
	}
	if s := r.Stats(); s.Panics != 3 || s.Rejected != 8 || s.Accepted != 0 || s.Dropped != 4 || s.DroppedClosed != 4 {
		t.Errorf("%+v", s)
	}
	r.clean()
}

// A Disconnect during OnConnect wins. Other messages wait until OnConnect has
// returned, and come after those that it sent.
func TestCorkedUntilOnConnectReturns(t *testing.T) {
	begun, proceed := make(chan *Conn), make(chan struct{})
	r := newRig(t, Config{OnConnect: func(_ context.Context, c *Conn) error {
		c.Send(Text("welcome"))
		begun <- c
		<-proceed
		return c.Send(Text("last of OnConnect"))
	}})
	connect := func() (*wsraw.Conn, *Conn) {
		ws := r.connect("groups=g")
		c := <-begun
		for _, target := range []Target{User("u"), Group("g"), Connection(c.ID()), Everyone()} {
			if err := r.Send(t.Context(), target, Text("sent")); err != nil {
				t.Fatal(err)
			}
		}
		r.await("corked messages", func() bool { q := queueOf(c); return q.frames.Len() == 5 })
		return ws, c
	}
	ws, c := connect()
	if n := r.Stats().Written; n != 0 || len(slices.Collect(r.Conns())) != 0 {
		t.Errorf("%d were written before OnConnect returned", n)
	}
	proceed <- struct{}{}
	for _, want := range []string{"welcome", "sent", "sent", "sent", "sent", "last of OnConnect"} {
		if b, err := ws.ReadMessage(); err != nil || string(b) != want {
			t.Errorf("got %q, %v, want %q", b, err, want)
		}
	}
	if err := c.Send(Text("later")); err != nil {
		t.Error(err)
	}
	ws.Close()
	ws, c = connect()
	if err := r.Disconnect(t.Context(), User("u"), 4001, "banned"); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	proceed <- struct{}{}
	if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Close || string(f.Payload[2:]) != "banned" {
		t.Errorf("%+v, %v", f, err)
	}
	ws.Close()
	r.ended(1)
	r.clean()
}

// A handshake is bounded in time, whatever a callback or the Bus does.
func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{
			OnConnect: func(ctx context.Context, c *Conn) error {
				<-ctx.Done()
				return ctx.Err()
			},
		})
		begun := time.Now()
		ws := r.pipe("")
		if closed, err := ws.ReadClose(); err != nil || closed.Code != 1008 {
			t.Errorf("%v, %v", closed, err)
		}
		if took := time.Since(begun).Round(time.Second); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
		ws.Close()
		r.clean()
	})
}

func TestHandshakeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{HandshakeRate: 3, Authenticate: func(*http.Request) (Identity, error) {
			return Identity{}, errors.New("no")
		}})
		status := func() int {
			w := httptest.NewRecorder()
			r.ServeHTTP(w, upgradeRequest(nil))
			return w.Code
		}
		var got []int
		for _, pause := range []time.Duration{0, 0, 0, 0, time.Second / 2, 0, 0, time.Hour, 0, 0, 0} {
			time.Sleep(pause)
			got = append(got, status())
		}
		if want := []int{401, 401, 401, 503, 401, 503, 503, 401, 401, 401, 503}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	defer bus.Close() // New has not taken it
	_, err := New(Config{
		Prefix: "{a}", Name: "a b", OriginPatterns: []string{"["}, Bus: bus,
		QueueMessages: -1, QueueBytes: 10, MaxSendSize: -1, WriteTimeout: -1, Lease: time.Millisecond, ProbeInterval: 1,
		Subprotocols: []string{"a b"},
	})
	for _, field := range []string{"Prefix", "Name", "OriginPatterns", "Subprotocols", "Redis", "QueueMessages", "MaxSendSize", "WriteTimeout", "Lease", "ProbeInterval"} {
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Config."+field+": ") {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}

func TestConfigOfNames(t *testing.T) {
	for pattern, ok := range map[string]bool{
		"*": true, "localhost:*": true, "*.example.com": true, "https://example.com:8443": true, "https://*": true, "null": true, "file://": true, "[::1]:3000": true,
		"": false, "https://": false, "example.com/": false, "https://example.com/": false, "https://example.com/app": false, "[": false, "wss://example.com": false,
	} {
		if _, err := (Config{OriginPatterns: []string{pattern}}).withDefaults(); (err == nil) != ok {
			t.Errorf("origin pattern %q: %v", pattern, err)
		}
	}
	for protocol, ok := range map[string]bool{"v1.chat": true, "graphql-transport-ws": true, "": false, "a b": false, "a,b": false, "a\tb": false, "é": false, `a\`: false} {
		if _, err := (Config{Subprotocols: []string{protocol}}).withDefaults(); (err == nil) != ok {
			t.Errorf("subprotocol %q: %v", protocol, err)
		}
	}
}

// If the Config does not suit a Retention, the error names the field, the value and
// the rule.
func TestConfigOfRetention(t *testing.T) {
	for want, config := range map[string]Config{
		"Config.Retention: 10ms must be at least 1s":                  {Retention: 10 * time.Millisecond},
		"Config.Retention: -1s must be at least 1s":                   {Retention: -time.Second},
		"Config.RetentionBytes: 1000 must hold a message":             {RetentionBytes: 1000},
		"QueueBytes: 1048851 must hold a message of MaxSendSize":      {Retention: time.Minute, QueueBytes: 1<<20 + 275},
		"Config.Retention: a *herald.busWithoutLog keeps nothing: it": {Retention: time.Minute, Bus: &busWithoutLog{Bus: NewMemoryNetwork().Bus()}, Registry: NewMemoryRegistry()},
	} {
		hub, err := New(config)
		if hub != nil {
			hub.Shutdown(t.Context())
		}
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
}

// A busWithoutLog has the methods of a Bus, and no others.
type busWithoutLog struct{ Bus }

// A nil pointer in an interface is refused, not used as if it were a Redis, a Bus
// or a Registry.
func TestConfigOfNilPointers(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	defer bus.Close() // New has not taken it
	for field, config := range map[string]Config{
		"Redis":    {Redis: (*redis.Client)(nil)},
		"Bus":      {Bus: (*MemoryBus)(nil), Registry: NewMemoryRegistry()},
		"Registry": {Bus: bus, Registry: (*MemoryRegistry)(nil)},
	} {
		if _, err := New(config); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Config."+field+": a nil *") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// A client that hangs up before the 101 leaves no line in the log of net/http,
// which nothing limits.
func TestHangUpBeforeTheAnswer(t *testing.T) {
	h := newHub(t, Config{
		Authenticate: func(r *http.Request) (Identity, error) {
			<-r.Context().Done() // the client has gone
			return fromQuery(r)
		},
	})
	var mu sync.Mutex
	var said bytes.Buffer
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return said.Write(p)
	}), "", 0)
	server.Start()
	defer server.Close()
	for range 10 {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := wsraw.WriteRequest(c, "/", nil); err != nil {
			t.Fatal(err)
		}
		wsraw.Reset(c)
	}
	await(t, "the end of the handshakes", func() bool { return h.Stats().Rejected == 10 })
	mu.Lock()
	defer mu.Unlock()
	if said.Len() > 0 {
		t.Errorf("net/http logged:\n%s", said.String())
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A stuckBus calls wait before each Publish. wait may block until its context ends.
type stuckBus struct {
	*MemoryBus
	wait func(ctx context.Context) error
}

func (b *stuckBus) Publish(ctx context.Context, packets ...Packet) error {
	if err := b.wait(ctx); err != nil {
		return err
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

// A lookingError looks when it is asked what it is.
type lookingError struct{ look func() }

func (e *lookingError) Error() string { return "looked at" }
func (e *lookingError) As(any) bool   { e.look(); return false }

// The cause of a refusal is counted before the refusal: whoever subtracts the causes that
// Stats names from Rejected never finds one too many without a cause.
func TestCauseIsCountedFirst(t *testing.T) {
	var r *rig
	looks := 0
	looking := &lookingError{func() {
		looks++
		if s := r.Stats(); s.Rejected > s.NotReady {
			t.Errorf("%d are refused, and only %d of them because the node was not ready", s.Rejected, s.NotReady)
		}
	}}
	var failing atomic.Bool
	r = newPipeRig(t, Config{
		Registry: NewMemoryRegistry(), ProbeInterval: -1,
		Bus: &stuckBus{MemoryBus: NewMemoryNetwork().Bus(), wait: func(context.Context) error {
			if failing.Swap(false) {
				return looking
			}
			return nil
		}},
		Admit: func(context.Context, Session, []Session, int) ([]Session, error) {
			failing.Store(true) // the node cannot evict the session
			return []Session{{ID: r.NodeID() + ".1000"}}, nil
		},
	})
	if closed, err := r.pipe(query("u")).ReadClose(); err != nil || StatusCode(closed.Code) != StatusTryAgainLater {
		t.Fatal(closed, err)
	}
	if s := r.Stats(); looks == 0 || s.Rejected != 1 || s.NotReady != 1 {
		t.Errorf("looked %d times: %d are refused, %d of them because the node was not ready", looks, s.Rejected, s.NotReady)
	}
}

type contextKey struct{}

// Send ends at SendTimeout or with its caller's context, whichever is first, and
// says which it was, however the Bus watches its context.
func TestSendTimeout(t *testing.T) {
	done := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	child := func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return done(ctx)
	}
	ends := func(ctx context.Context) error {
		two, ok := ctx.(interface{ Ends() (a, b <-chan struct{}) })
		if !ok {
			return done(ctx)
		}
		a, b := two.Ends()
		select {
		case <-a:
		case <-b:
		}
		return ctx.Err()
	}
	both := func(ctx context.Context) error { // in both ways at the same time
		var waiting sync.WaitGroup
		waiting.Go(func() { child(ctx) })
		defer waiting.Wait()
		return ends(ctx)
	}
	for name, wait := range map[string]func(context.Context) error{"Done": done, "child": child, "Ends": ends, "both": both} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := &stuckBus{MemoryBus: NewMemoryNetwork().Bus(), wait: func(context.Context) error { return nil }}
				h := newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry(), SendTimeout: time.Second, ProbeInterval: -1})
				bus.wait = wait
				cause := errors.New("cause")
				cancelable, cancel := context.WithCancelCause(context.Background())
				soon, cancelSoon := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancelSoon()
				late, cancelLate := context.WithTimeout(context.Background(), time.Hour)
				defer cancelLate()
				for _, c := range []struct {
					name string
					ctx  context.Context
					at   time.Duration
					err  error
				}{
					{"soon", soon, 100 * time.Millisecond, context.DeadlineExceeded},
					{"background", context.Background(), time.Second, ErrBusDown},
					{"values", context.WithValue(context.Background(), contextKey{}, 1), time.Second, ErrBusDown},
					{"cancelable", cancelable, time.Second, ErrBusDown},
					{"late", late, time.Second, ErrBusDown},
				} {
					start := time.Now()
					err := h.Send(c.ctx, User("u"), Text("m"))
					took := time.Since(start)
					if !errors.Is(err, c.err) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBusDown) != (c.err == ErrBusDown) {
						t.Errorf("%s: %v", c.name, err)
					}
					if least := c.at - c.at/64; took > c.at || took < least {
						t.Errorf("%s: it took %v, not %v to %v", c.name, took, least, c.at)
					}
				}
				time.AfterFunc(500*time.Millisecond, func() { cancel(cause) })
				if err := h.Send(cancelable, User("u"), Text("m")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrBusDown) {
					t.Errorf("cancelled: %v", err)
				}
				bus.wait = func(ctx context.Context) error { // whichever ended first stays the cause
					err := wait(ctx)
					cancelLate()
					return cmp.Or(ctx.Err(), err)
				}
				if err := h.Send(late, User("u"), Text("m")); !errors.Is(err, ErrBusDown) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("cancelled after SendTimeout: %v", err)
				}
				bus.wait = func(ctx context.Context) error {
					if at, ok := ctx.Deadline(); !ok || time.Until(at) > time.Second {
						t.Errorf("Deadline: %v, %v", at, ok)
					}
					if ctx.Value(contextKey{}) != 2 {
						t.Error("the caller's value is not there")
					}
					return nil
				}
				if err := h.Send(context.WithValue(context.WithoutCancel(late), contextKey{}, 2), User("u"), Text("m")); err != nil {
					t.Error(err)
				}
				bus.wait = func(context.Context) error { return nil } // for the goodbye
			})
		})
	}
}
