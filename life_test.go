package herald

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

func textFrame(s string) wsraw.Frame {
	return wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte(s)}
}

// Callbacks that panic, or end their goroutine, end at most their Conn.
func TestPanicsInCallbacks(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	r := newRig(t, Config{
		Bus: bus, Registry: NewMemoryRegistry(), CloseTimeout: patience, OfflineDelay: -1,
		ConnContext: func(r *http.Request) context.Context {
			switch r.URL.Query().Get("user") {
			case "panic":
				panic("ConnContext")
			case "nil":
				return nil
			}
			return context.Background()
		},
		OnMessage: func(_ context.Context, c *Conn, m Message) {
			switch m.String() {
			case "panic":
				panic("OnMessage")
			case "goexit":
				runtime.Goexit()
			}
		},
		OnDisconnect: func(*Conn, error) { panic("OnDisconnect") },
		OnGap:        func(Gap) { panic("OnGap") },
		OnOnline:     func(string) { panic("OnOnline") },
		OnOffline:    func(string) { panic("OnOffline") },
	})
	bystander := r.connect("user=bystander")
	for _, message := range []string{"panic", "goexit"} {
		ws := r.connect("user=a")
		ws.WriteFrames(textFrame(message))
		closed, err := ws.ReadClose()
		if err != nil || closed.Code != 1011 || strings.Contains(closed.Reason, "OnMessage") {
			t.Errorf("%s: %v, %v", message, closed, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(1011, ""))
		if err := ws.ReadEnd(); err != nil {
			t.Error(err)
		}
	}
	for _, cause := range r.ended(2) {
		if closeCode(cause) != StatusInternalError {
			t.Errorf("cause %v", cause)
		}
	}
	for _, user := range []string{"panic", "nil"} {
		if response := r.refused("user="+user, nil); response.StatusCode != 500 {
			t.Errorf("ConnContext: %s", response.Status)
		}
	}
	bus.Reset() // makes a gap
	// OnOnline of the bystander and of a, OnMessage twice, OnDisconnect twice,
	// OnOffline of a, ConnContext twice, OnGap. a may have been online twice.
	r.await("all panics", func() bool { return r.Stats().Panics >= 10 })
	if err := r.Send(t.Context(), User("bystander"), Text("still here")); err != nil {
		t.Fatal(err)
	}
	if b, err := bystander.ReadMessage(); err != nil || string(b) != "still here" {
		t.Errorf("%q, %v", b, err)
	}
	bystander.Close()
	r.ended(3)
	r.clean()
	r.shutdown(patience)
}

// A client has CloseTimeout to answer a close frame. Then the connection is cut.
// The first Close wins.
func TestNoCloseHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{CloseTimeout: 5 * time.Second})
		ws := r.pipe("")
		conn := r.only()
		begun := time.Now()
		conn.Send(Text("before"))
		if err := conn.Close(1006, ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("Close with 1006: %v", err)
		}
		conn.Close(4000, "first")
		conn.Close(4001, "second")
		if err := conn.Send(Text("after")); !errors.Is(err, ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
		if b, err := ws.ReadMessage(); err != nil || string(b) != "before" {
			t.Errorf("%q, %v", b, err)
		}
		if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
			t.Errorf("%v, %v", closed, err)
		}
		// The client goes on talking, unheard, and does not answer.
		for range 3 {
			time.Sleep(time.Second)
			ws.WriteFrames(textFrame("hello?"), wsraw.Frame{Fin: true, Opcode: wsraw.Ping})
		}
		if err := ws.ReadEnd(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun).Round(time.Second); took != 5*time.Second {
			t.Errorf("cut after %v", took)
		}
		if cause := r.ended(1)[0]; closeCode(cause) != 4000 || context.Cause(conn.Context()) != cause {
			t.Errorf("cause %v", cause)
		}
		r.clean()
	})
}

func TestExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{PingInterval: -1, Authenticate: func(r *http.Request) (Identity, error) {
			id, _ := fromQuery(r)
			id.Expires = time.Now().Add(time.Minute)
			return id, nil
		}})
		for user, want := range map[string]time.Duration{"as it is": time.Minute, "extended": 10 * time.Minute, "shortened": time.Second, "never": 0} {
			ws := r.pipe(query(user))
			conn := r.findUser(user)
			begun := time.Now()
			conn.SetExpiry(begun.Add(want))
			if want == 0 {
				conn.SetExpiry(time.Time{})
				time.Sleep(2 * time.Hour)
				conn.Close(StatusExpired, "by hand")
			}
			closed, err := readLong(ws)
			if err != nil || StatusCode(closed.Code) != StatusExpired || (closed.Reason == "by hand") != (want == 0) {
				t.Errorf("%s: %v, %v", user, closed, err)
			}
			if took := time.Since(begun); want > 0 && (took < want || took > want+2*time.Second) {
				t.Errorf("%s: closed after %v, want %v", user, took, want)
			}
			ws.Close()
		}
		r.ended(4)
		r.clean()
	})
}

// readLong is ReadClose for a close frame that takes longer than one read waits.
func readLong(ws *wsraw.Conn) (*wsraw.Closed, error) {
	for {
		closed, err := ws.ReadClose()
		if err == nil || !strings.Contains(err.Error(), "timeout") {
			return closed, err
		}
	}
}

// A quiet client is pinged. If it answers it lives; otherwise it is cut.
func TestKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{PingInterval: 25 * time.Second, PongTimeout: 10 * time.Second})
		ws := r.pipe("")
		for i := range 10 {
			begun := time.Now()
			if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Ping {
				t.Fatalf("%+v, %v", f, err)
			}
			if took := time.Since(begun); took < 24*time.Second || took > 27*time.Second {
				t.Errorf("pinged after %v", took)
			}
			if i%2 == 0 {
				time.Sleep(9 * time.Second)
			}
			ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong})
		}
		begun := time.Now()
		if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Ping {
			t.Fatalf("%+v, %v", f, err)
		}
		if err := ws.ReadEnd(); err != nil { // there is no second ping
			t.Error(err)
		}
		if took := time.Since(begun); took < 35*time.Second || took > 37*time.Second {
			t.Errorf("cut after %v", took)
		}
		if cause := r.ended(1)[0]; !errors.Is(cause, ErrSilent) || r.Stats().Silent != 1 {
			t.Errorf("cause %v", cause)
		}
		r.clean()
	})
}

// While OnConnect runs, nothing is read, so the client is not taken for silent.
// While OnMessage runs, a client that answers pings is not silent and loses
// nothing.
func TestLongCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{
			HandshakeTimeout: -1,
			OnConnect: func(context.Context, *Conn) error {
				time.Sleep(time.Hour)
				return nil
			},
			OnMessage: func(_ context.Context, c *Conn, m Message) {
				time.Sleep(time.Hour)
				c.Send(m)
			},
		})
		ws := r.pipe("")
		for i := range 2 {
			ws.WriteFrames(textFrame(fmt.Sprint("work ", i)))
		}
		pings := 0
		for next := 0; next < 2; {
			switch f, err := ws.ReadFrame(); {
			case err != nil:
				t.Fatalf("message %d: %v", next, err)
			case f.Opcode == wsraw.Ping:
				pings++
				ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: f.Payload})
			case string(f.Payload) != fmt.Sprint("work ", next):
				t.Fatalf("message %d: %+v", next, f)
			default:
				next++
			}
		}
		if pings < 2*60 || pings > 2*60*60/25 {
			t.Errorf("%d pings in two hours", pings)
		}
		ws.WriteFrames(wsraw.CloseFrame(1000, ""))
		if closed, err := ws.ReadClose(); err != nil || closed.Code != 1000 {
			t.Errorf("%v, %v", closed, err)
		}
		if cause := r.ended(1)[0]; closeCode(cause) != 1000 {
			t.Errorf("cause %v", cause)
		}
		r.clean()
	})
}

// Everything that can be done to a Conn is done at once, while clients come and go
// in every way. Nothing is left of them.
func TestEverythingAtOnce(t *testing.T) {
	r := newRig(t, Config{
		QueueMessages: 64, CloseTimeout: 200 * time.Millisecond, PingInterval: 20 * time.Millisecond, PongTimeout: patience,
		OnConnect: func(ctx context.Context, c *Conn) error { return c.Join(ctx, "all") },
		OnMessage: func(ctx context.Context, c *Conn, m Message) {
			c.Send(m)
			c.Join(ctx, "talkers")
			c.Leave(ctx, "all")
		},
	})
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for i := range 3 {
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				switch i {
				case 0:
					r.Send(t.Context(), Group("all", "talkers"), numbered(n, 1000))
				case 1:
					for c := range r.Conns() {
						c.SetExpiry(time.Now().Add(time.Duration(n%3) * 20 * time.Millisecond))
						c.Groups()
						c.Session()
					}
				case 2:
					for c := range r.Conns() {
						if n%5 == 0 {
							c.Close(4000, "")
						}
						c.Send(numbered(n, 100))
					}
					r.Stats()
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	var connecting sync.WaitGroup
	for i := range 8 {
		connecting.Go(func() {
			for n := range 40 {
				ws, _, err := wsraw.Handshake(r.dialTCP(0), "/?"+query(strconv.Itoa(i)), nil)
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				for range n % 4 {
					ws.WriteFrames(textFrame("talk"), wsraw.Frame{Fin: true, Opcode: wsraw.Ping})
					ws.ReadFrame()
				}
				switch (i + n) % 4 {
				case 0:
					wsraw.Reset(ws.Conn)
				case 1:
					ws.WriteFrames(wsraw.CloseFrame(1000, ""))
					ws.ReadClose()
				case 2:
					ws.ReadClose()
				}
				ws.Close()
			}
		})
	}
	connecting.Wait()
	close(stop)
	busy.Wait()
	r.clean()
	if s := r.Stats(); s.Accepted+s.Rejected != 8*40 || s.Delivered > s.Written+s.Dropped {
		t.Errorf("%+v", s)
	}
	r.shutdown(patience)
}

// A Conn that OnConnect itself closes ends like any other: the client sees why,
// OnDisconnect runs, and queued messages are dropped. That the client can come back
// changes nothing.
func TestClosedDuringOnConnect(t *testing.T) {
	for _, query := range []string{"", "herald=1"} {
		r := newRig(t, Config{
			Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(), Retention: time.Minute, CloseTimeout: patience,
			OnConnect: func(_ context.Context, c *Conn) error {
				c.Send(Text("never seen"))
				return c.Close(4000, "enough")
			},
		})
		ws := r.connect(query)
		if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Close || string(f.Payload[2:]) != "enough" {
			t.Errorf("%q: %+v, %v", query, f, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(4000, ""))
		if cause := r.ended(1)[0]; closeCode(cause) != 4000 {
			t.Errorf("%q: cause %v", query, cause)
		}
		r.clean()
	}
}

// A time so far away that it cannot be counted in nanoseconds since 1970 still
// works as an expiry in the future or the past.
func TestExpiresFarAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
		r := newPipeRig(t, Config{PingInterval: -1, Authenticate: func(r *http.Request) (Identity, error) {
			id, _ := fromQuery(r)
			id.Expires = year(9999)
			return id, nil
		}})
		ws := r.pipe("")
		conn := r.only()
		for _, never := range []int{9999, 2262, 2263, 292_000_000_000} {
			conn.SetExpiry(year(never))
			time.Sleep(time.Minute)
			if conn.ctx.Err() != nil {
				t.Fatalf("year %d: %v", never, context.Cause(conn.ctx))
			}
		}
		ws.Close()
		for i, past := range []int{1969, 1970, 1600, -5000} {
			r.ended(i + 1) // until the one before has ended
			ws := r.pipe("")
			r.only().SetExpiry(year(past))
			if closed, err := ws.ReadClose(); err != nil || StatusCode(closed.Code) != StatusExpired {
				t.Errorf("year %d: %v, %v", past, closed, err)
			}
			ws.Close()
		}
		r.ended(5)
		r.clean()
	})
}

// A slowCloser blocks in Close, and thereby stops keepalive, as SIGSTOP stops a
// process.
type slowCloser struct {
	net.Conn
	pause time.Duration
}

func (c slowCloser) Close() error {
	time.Sleep(c.pause)
	return c.Conn.Close()
}

// After a pause of the process, no client is called silent that could not have been
// heard: neither one that was never pinged nor one whose pong has not been read.
func TestPauseKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = time.Minute
		r := newPipeRig(t, Config{
			PingInterval: 25 * time.Second, PongTimeout: 10 * time.Second,
			OnConnect: func(_ context.Context, c *Conn) error {
				if c.User() == "stopper" { // nothing reads from the socket yet
					c.socket.conn = slowCloser{c.socket.conn, pause}
				}
				return nil
			},
		})
		ping := func(ws *wsraw.Conn) {
			t.Helper()
			if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Ping {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		pong := wsraw.Frame{Fin: true, Opcode: wsraw.Pong}
		stopper := r.pipe("user=stopper")
		time.Sleep(5 * time.Second)
		pinged := r.pipe("user=pinged")
		time.Sleep(10 * time.Second)
		quiet := r.pipe("user=quiet")
		ping(stopper) // 25 s after the start, and it never answers
		ping(pinged)  // 30 s
		// At 36 s keepalive closes stopper, and stands still until 96 s.
		time.Sleep(50 * time.Second)
		for _, ws := range []*wsraw.Conn{pinged, quiet} {
			ping(ws)
			ws.WriteFrames(pong)
		}
		time.Sleep(20 * time.Second)
		if cause := r.ended(1); len(cause) != 1 || !errors.Is(cause[0], ErrSilent) || r.Stats().Silent != 1 {
			t.Errorf("ended are %v", cause)
		}
		for _, ws := range []*wsraw.Conn{stopper, pinged, quiet} {
			ws.Close()
		}
		r.ended(3)
		r.clean()
	})
}

// A Disconnect closes the Conns even if their node cannot remove them from the
// Registry. Its error says that they may still be listed.
func TestDisconnectWithoutTheRegistry(t *testing.T) {
	rigs := newPair(t, false, Config{CloseTimeout: patience})
	ws := rigs[0].connect("user=a")
	conn := rigs[0].only()
	registry := rigs[0].registry.(*MemoryRegistry)
	registry.cut.Store(true)
	err := rigs[1].Disconnect(t.Context(), User("a"), 4000, "out")
	var partial *PartialError
	if !errors.As(err, &partial) || !slices.Equal(partial.Missing, []string{rigs[0].NodeID()}) {
		t.Errorf("Disconnect: %v", err)
	}
	<-conn.Done()
	if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
		t.Errorf("%v, %v", closed, err)
	}
	ws.Close()
	registry.cut.Store(false)
	rigs[0].ended(1)
	rigs[0].clean()
}

// A client that has seen its 101 can be disconnected: its Since is known by then.
func TestDisconnectRightAfterThe101(t *testing.T) {
	rigs := newPair(t, false, Config{CloseTimeout: patience})
	for i := range 200 {
		ws := rigs[i%2].connect("user=a")
		if err := rigs[i/2%2].Disconnect(t.Context(), User("a"), 4000, ""); err != nil {
			t.Fatal(err)
		}
		if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
			t.Fatalf("client %d: %v, %v", i, closed, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(4000, ""))
		ws.Close()
	}
}

// A Conn can be disconnected even before its node knows its Since, once the
// Registry has added it.
func TestDisconnectWhileAddIsUnderWay(t *testing.T) {
	registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
	r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry})
	result := make(chan error, 1)
	first := true
	registry.afterAdd = func([]Entry) error {
		if !first { // housekeeping adds it again later
			return nil
		}
		first = false
		go func() { result <- r.Disconnect(t.Context(), User("a"), 4000, "") }()
		r.await("the call", func() bool {
			r.presence.mu.Lock()
			defer r.presence.mu.Unlock()
			return len(r.presence.ops) > 0 // the barrier of Disconnect
		})
		return nil
	}
	ws := r.connect("user=a")
	if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
		t.Errorf("%v, %v", closed, err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	ws.Close()
	r.clean()
}

// If two Hubs shared one Bus, each would get only a part of the messages. New
// refuses the second Hub, and the first is not disturbed.
func TestBusOfTwoHubs(t *testing.T) {
	bus, registry := NewMemoryNetwork().Bus(), NewMemoryRegistry()
	first, err := New(Config{Bus: bus, Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	var refused sync.WaitGroup
	for range 10 {
		refused.Go(func() {
			second, err := New(Config{Bus: bus, Registry: registry})
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Config.Bus: another Hub has this *herald.MemoryBus") {
				t.Errorf("New of a second Hub on the same Bus returned %v", err)
			}
			if err == nil {
				second.Shutdown(t.Context())
			}
		})
	}
	refused.Wait()
	if err := first.Send(t.Context(), User("42"), Text("hello")); err != nil {
		t.Errorf("the first Hub, after that: %v", err)
	}
	first.Shutdown(t.Context())
	if _, err := New(Config{Bus: bus, Registry: registry}); !errors.Is(err, ErrClosed) {
		t.Errorf("New with a Bus that a Hub has closed returned %v", err)
	}
	busesInUse.Range(func(b, _ any) bool {
		if b == any(bus) {
			t.Error("the Bus of a Hub that has ended is kept")
		}
		return true
	})
}

// A Bus of a type that cannot be compared is not checked for being shared.
func TestBusNotComparable(t *testing.T) {
	type odd struct {
		Bus
		_ []int
	}
	h, err := New(Config{Bus: odd{Bus: NewMemoryNetwork().Bus()}, Registry: NewMemoryRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	h.Shutdown(t.Context())
}

// A lateRegistry removes only after a pause, unless the context ends before.
type lateRegistry struct {
	*MemoryRegistry
	pause time.Duration
}

func (r lateRegistry) Remove(ctx context.Context, l Lease, entries ...Entry) error {
	select {
	case <-time.After(r.pause):
		return r.MemoryRegistry.Remove(ctx, l, entries...)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// When OnDisconnect runs, the session is out of the Registry and the Conn still has
// its groups, whichever way it ended. If the Registry hangs, OnDisconnect does not
// wait for ever.
func TestOnDisconnectIsAfterTheRegistry(t *testing.T) {
	const hour = time.Hour
	for _, end := range []string{"closed", "lost", "the Registry hangs", "Shutdown"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pause := time.Second
				if end == "the Registry hangs" || end == "Shutdown" {
					pause = hour
				}
				registry := NewMemoryRegistry()
				asker := newHub(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle()})
				ended := make(chan bool, 1)
				r := newPipeRig(t, Config{
					Bus: NewMemoryNetwork().Bus(), Registry: lateRegistry{registry.Handle(), pause},
					OnDisconnect: func(c *Conn, _ error) {
						sessions, err := asker.registry.Sessions(t.Context(), Lease{}, userTopic(c.User()))
						if err != nil {
							t.Error(err)
						}
						if groups := slices.Sorted(slices.Values(c.Groups())); !slices.Equal(groups, []string{"blue", "red"}) {
							t.Errorf("its groups were %v", groups)
						}
						ended <- len(sessions[0]) > 0
					},
				})
				ws := r.pipe("user=a&groups=red,blue")
				conn := r.only()
				begun := time.Now()
				switch end {
				case "closed":
					conn.Close(4000, "")
					ws.ReadClose()
					ws.WriteFrames(wsraw.CloseFrame(4000, ""))
				case "Shutdown":
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					r.Shutdown(ctx)
					if len(ended) != 1 {
						t.Error("OnDisconnect had not run when Shutdown returned")
					}
				default:
					ws.Close()
				}
				if listed := <-ended; listed != (pause == hour) {
					t.Errorf("the session is listed: %v", listed)
				}
				if took := time.Since(begun); took > r.config.SendTimeout {
					t.Errorf("OnDisconnect ran after %v", took)
				}
				ws.Close()
			})
		})
	}
}

// Connections that end at the same time share the Registry's round trips.
func TestManyDisconnectsShareRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const conns = 1_000
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: lateRegistry{NewMemoryRegistry(), 100 * time.Millisecond}, MaxConnsPerUser: -1})
		for range conns {
			r.pipe("")
		}
		begun := time.Now()
		for c := range r.Conns() {
			c.kill(ErrSilent)
		}
		r.ended(conns)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("%d ends took %v", conns, took)
		}
	})
}

// A callback may disconnect its own Conn, among others, with the context that it
// got. The Disconnect ends that context, and succeeds all the same.
func TestDisconnectOfOneself(t *testing.T) {
	results := make(chan error, 1)
	out := func(ctx context.Context, c *Conn) {
		if err := c.Hub().Disconnect(ctx, User("a"), 4000, "out"); err != nil {
			results <- err
		} else if err := c.Close(4001, "again"); err != nil {
			results <- err
		} else {
			results <- c.Hub().Disconnect(ctx, User("a"), 4000, "out")
		}
	}
	rigs := newPair(t, false, Config{
		CloseTimeout: patience,
		OnConnect: func(ctx context.Context, c *Conn) error {
			if c.identity.Platform == "early" {
				out(ctx, c)
			}
			return nil
		},
		OnMessage: func(ctx context.Context, c *Conn, _ Message) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			out(ctx, c)
		},
	})
	for range 20 {
		other := rigs[1].connect("user=a")
		ws := rigs[0].connect("user=a")
		ws.WriteFrames(textFrame("out"))
		if err := <-results; err != nil {
			t.Errorf("from OnMessage: %v", err)
		}
		early := rigs[0].connect("user=a&platform=early")
		if err := <-results; err != nil {
			t.Errorf("from OnConnect: %v", err)
		}
		for _, ws := range []*wsraw.Conn{other, ws, early} {
			if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
				t.Errorf("%v, %v", closed, err)
			}
			ws.Close()
		}
	}
}

// If the context ends for another reason, Disconnect ends with it.
func TestDisconnectEndsWithItsContext(t *testing.T) {
	ended := make(chan error, 1)
	r := newRig(t, Config{
		Bus: NewMemoryNetwork().Bus(), Registry: lateRegistry{NewMemoryRegistry(), 10 * patience},
		OnMessage: func(ctx context.Context, c *Conn, _ Message) {
			ended <- c.Hub().Disconnect(ctx, User("b"), 4000, "out")
		},
	})
	r.connect("user=b")
	r.await("the Conn of b", func() bool { return r.Stats().Accepted == 1 })
	ws := r.connect("user=a")
	ws.WriteFrames(textFrame("out b"))
	r.await("the end of b", func() bool { return r.Stats().Conns == 1 })
	for c := range r.Conns() {
		c.Close(4000, "something else")
	}
	var partial *PartialError
	if err := <-ended; !errors.As(err, &partial) || closeCode(err) != 4000 {
		t.Errorf("Disconnect: %v", err)
	}
}
