package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// The closes are spread over 80% of the time, and Send works until the end.
// Connected clients see 1012, new ones a 503.
func TestShutdownIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{PingInterval: -1})
		const n = 40
		begun := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		var reading sync.WaitGroup
		for range n {
			ws := r.pipe("user=u")
			reading.Go(func() {
				closed, err := readLong(ws)
				if err != nil || closed.Code != 1012 || closed.Reason == "" {
					t.Errorf("%v, %v", closed, err)
				}
				mu.Lock()
				at = append(at, time.Since(begun))
				mu.Unlock()
				ws.WriteFrames(wsraw.CloseFrame(1012, ""))
				ws.Close()
			})
		}
		synctest.Wait() // wait for the last OnConnect, which comes after the 101
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		done := make(chan error)
		go func() { done <- r.Shutdown(ctx) }()
		time.Sleep(40 * time.Second)
		if err := r.Health(); !errors.Is(err, ErrDraining) {
			t.Errorf("Health: %v", err)
		}
		if err := r.Send(ctx, User("u"), Text("while draining")); err != nil {
			t.Errorf("Send: %v", err)
		}
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, upgradeRequest(nil)); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("a handshake got %d", w.Code)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		reading.Wait()
		slices.Sort(at)
		for i, d := range at {
			if want := time.Duration(i) * 80 * time.Second / n; d < want-time.Second || d > want+time.Second {
				t.Errorf("client %d was closed after %v, want %v", i, d, want)
			}
		}
		if took := time.Since(begun); took > 81*time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := r.Send(ctx, User("u"), Text("late")); !errors.Is(err, ErrClosed) {
			t.Errorf("Send after Shutdown: %v", err)
		}
		if s := r.Stats(); s.Accepted != n || s.Disconnected != n {
			t.Errorf("%+v", s)
		}
	})
}

// Clients that do not answer the close frame are no failure, even those that are closed
// last.
func TestShutdownOfSilentClients(t *testing.T) {
	for _, total := range []time.Duration{25 * time.Second, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newPipeRig(t, Config{PingInterval: -1})
			const n = 40
			for range n {
				ws := r.pipe("user=u")
				go func() {
					if closed, err := ws.ReadClose(); err != nil || closed.Code != 1012 {
						t.Errorf("%v, %v", closed, err)
					}
				}()
			}
			synctest.Wait() // for OnConnect
			ctx, cancel := context.WithTimeout(t.Context(), total)
			defer cancel()
			if err := r.Shutdown(ctx); err != nil {
				t.Errorf("in %v: %v", total, err)
			}
			if s := r.Stats(); s.Disconnected != n {
				t.Errorf("%+v", s)
			}
		})
	}
}

// During ShutdownDelay a Hub keeps its connections, but is red and refuses new
// ones. The delay is at most half of its context's time, and ends if the context is
// canceled.
func TestShutdownDelay(t *testing.T) {
	for _, test := range []struct {
		timeout, cancel, want time.Duration
	}{
		{0, 0, 10 * time.Second},
		{time.Minute, 0, 10 * time.Second},
		{6 * time.Second, 0, 3 * time.Second},
		{0, 2 * time.Second, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newPipeRig(t, Config{PingInterval: -1, ShutdownDelay: 10 * time.Second})
			ws := r.pipe("user=u")
			synctest.Wait() // for OnConnect
			ctx, cancel := context.WithCancel(t.Context())
			if test.timeout > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), test.timeout)
			}
			defer cancel()
			if test.cancel > 0 {
				time.AfterFunc(test.cancel, cancel)
			}
			begun := time.Now()
			done := make(chan error)
			go func() { done <- r.Shutdown(ctx) }()
			synctest.Wait()
			if err := r.Health(); !errors.Is(err, ErrDraining) {
				t.Errorf("Health: %v", err)
			}
			if status := r.pipeRefused(""); status != http.StatusServiceUnavailable {
				t.Errorf("a handshake got %d", status)
			}
			if err := r.Send(t.Context(), User("u"), Text("still up")); err != nil {
				t.Error(err)
			}
			if b, err := ws.ReadMessage(); err != nil || string(b) != "still up" || time.Since(begun) > 0 {
				t.Errorf("got %q, %v after %v", b, err, time.Since(begun))
			}
			// If no time is left, clients may be cut before they see the close
			// frame.
			if closed, err := ws.ReadClose(); test.cancel == 0 && (err != nil || closed.Code != 1012) {
				t.Errorf("%v, %v", closed, err)
			}
			if took := time.Since(begun); took != test.want {
				t.Errorf("with %v, canceled after %v: closed after %v, want %v", test.timeout, test.cancel, took, test.want)
			}
			ws.WriteFrames(wsraw.CloseFrame(1012, ""))
			ws.Close()
			if err := <-done; err != nil && test.cancel == 0 {
				t.Error(err)
			}
		})
	}
}

// A client that does not answer is cut when the time is over. Nothing is left of
// it.
func TestShutdownForced(t *testing.T) {
	r := newRig(t, Config{CloseTimeout: time.Hour, WriteTimeout: time.Hour})
	silent := r.connect("user=silent")
	stalled := r.connectSmall(false, "user=stalled")
	conn := r.findUser("stalled")
	narrow(conn)
	for range 20 {
		conn.Send(numbered(0, 200<<10))
	}
	r.await("a stuck socket", func() bool { return queueOf(conn).blocked })
	r.findUser("silent")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 connections") {
		t.Errorf("Shutdown: %v", err)
	}
	requireNoGoroutines(t)
	for _, cause := range r.ended(2) {
		if closeCode(cause) != StatusServiceRestart {
			t.Errorf("cause %v", cause)
		}
	}
	if closed, err := silent.ReadClose(); err != nil || closed.Code != 1012 {
		t.Errorf("%v, %v", closed, err)
	}
	stalled.Close()
}

// Clients connect during Shutdown, with and without RejectAfterUpgrade. Each is
// refused with a plain 503, or is accepted and sees 1012. None is forgotten.
func TestShutdownDuringHandshakes(t *testing.T) {
	var rigs []*rig
	stop := make(chan struct{})
	var connecting sync.WaitGroup
	for _, after := range []bool{false, true} {
		r := newRig(t, Config{RejectAfterUpgrade: after, CloseTimeout: time.Second})
		rigs = append(rigs, r)
		for range 8 {
			connecting.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						comeDuringShutdown(r)
					}
				}
			})
		}
	}
	for _, r := range rigs {
		r.await("Conns", func() bool { return r.Stats().Accepted >= 8 })
	}
	// A tenth of this time is left for the clients that are closed last.
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	var ending sync.WaitGroup
	for _, r := range append(rigs, rigs...) { // each rig twice
		ending.Go(func() {
			if err := r.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	ending.Wait()
	close(stop)
	connecting.Wait()
	for _, r := range rigs {
		r.server.Close()
	}
	requireNoGoroutines(t)
}

// comeDuringShutdown connects once, and checks that the client is refused or sees
// 1012.
func comeDuringShutdown(r *rig) {
	c := r.dialTCP(0)
	defer c.Close() // not at the end of the test: there are many
	ws, response, err := wsraw.Handshake(c, "/?user=u", nil)
	switch {
	case ws != nil:
		closed, err := ws.ReadClose()
		if err != nil || closed.Code != 1012 {
			r.t.Errorf("%v, %v", closed, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(1000, ""))
	case response == nil || response.StatusCode != http.StatusServiceUnavailable && response.StatusCode != http.StatusTooManyRequests:
		r.t.Errorf("%v, %v", response, err)
	}
}

// Callbacks that do not return delay Shutdown only a little beyond the end of its
// context.
func TestShutdownWithStuckCallbacks(t *testing.T) {
	for _, stuck := range []string{"OnConnect", "OnMessage", "OnDisconnect", "OnOffline", "OnGap"} {
		t.Run(stuck, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, release := make(chan struct{}, 1), make(chan struct{})
				hold := func(in string) {
					if in == stuck {
						begun <- struct{}{}
						<-release
					}
				}
				var log journal
				r := newPipeRig(t, Config{
					OfflineDelay: -1, HandshakeTimeout: -1, Logger: slog.New(slog.NewTextHandler(&log, nil)),
					OnConnect:    func(context.Context, *Conn) error { hold("OnConnect"); return nil },
					OnMessage:    func(context.Context, *Conn, Message) { hold("OnMessage") },
					OnDisconnect: func(*Conn, error) { hold("OnDisconnect") },
					OnOffline:    func(string) { hold("OnOffline") },
					OnGap:        func(Gap) { hold("OnGap") },
				})
				ws := r.pipe("")
				switch stuck {
				case "OnMessage":
					ws.WriteFrames(textFrame("hello"))
				case "OnDisconnect", "OnOffline":
					r.only()
					ws.Close()
				}
				r.bus.Reset() // makes a gap
				<-begun
				time.Sleep(slowCallback + 2*time.Second)
				before := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := r.Shutdown(ctx)
				named := "callbacks have not returned: " + stuck
				if stuck != "OnGap" {
					named += ` of user "u"`
				}
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(fmt.Sprint(err), named+" (1m") {
					t.Errorf("Shutdown: %v, which does not name %s", err, named)
				}
				if n := log.count("a callback has not returned"); n != 1 || log.count("callback="+stuck) != 1 || log.count("for=30s")+log.count("for=31s") != 1 {
					t.Errorf("the log was told %d times: %s", n, log.cut())
				}
				if took := time.Since(before); took < time.Minute || took > time.Minute+2*stopGrace {
					t.Errorf("Shutdown took %v", took)
				}
				close(release)
				ws.Close()
				synctest.Wait()
				requireNoGoroutines(t)
			})
		})
	}
}

// closings lists ways in which a connection is closed, and what the client sends
// first.
var closings = []struct {
	name  string
	query string
	first []byte
	code  StatusCode
}{
	{"refused", "user=nobody", nil, StatusUnauthorized},
	{"refused by OnConnect", "user=banned", nil, 4003},
	{"closed by the service", "user=gone", nil, 4000},
	{"breach of the protocol", "user=odd", []byte{0x83, 0x80, 0, 0, 0, 0}, 1002},
	{"message too big", "user=big", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: make([]byte, 2_000)}.Bytes(), 1009},
}

func newClosingRig(t *testing.T, pipe bool, timeout time.Duration) *rig {
	start := newRig
	if pipe {
		start = newPipeRig
	}
	return start(t, Config{
		RejectAfterUpgrade: true, MaxMessageSize: 1_000, MessageRate: -1, CloseTimeout: timeout,
		Authenticate: func(r *http.Request) (Identity, error) {
			id, _ := fromQuery(r)
			if id.User == "nobody" {
				return Identity{}, errors.New("no")
			}
			return id, nil
		},
		OnConnect: func(_ context.Context, c *Conn) error {
			switch c.User() {
			case "banned":
				return &CloseError{Code: 4003}
			case "gone":
				c.Close(4000, "")
			}
			return nil
		},
	})
}

// enough is more than the kernel's buffers hold if nobody reads.
const enough = 64 << 20

// A connection that is being closed is read until the client's close frame may have
// come, not for as long as the client sends.
func TestClosingIsReadNoMore(t *testing.T) {
	for _, test := range closings {
		for what, frame := range map[string]wsraw.Frame{
			"messages": {Fin: true, Opcode: wsraw.Text, Payload: make([]byte, 900)},
			"pings":    {Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 100)},
			"nothing":  {Fin: true, Opcode: wsraw.Pong},
		} {
			flood := bytes.Repeat(frame.Bytes(), (32<<10)/len(frame.Bytes()))
			// send floods, and returns how many bytes were taken.
			send := func(c *wsraw.Conn, limit int) (sent int) {
				c.Write(test.first)
				for sent < limit {
					n, err := c.Write(flood)
					if sent += n; err != nil {
						break
					}
				}
				return sent
			}
			t.Run(test.name+"/"+what+"/pipe", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newClosingRig(t, true, 5*time.Second)
					c := r.pipe(test.query)
					var reading sync.WaitGroup
					reading.Go(func() {
						if closed, err := c.ReadClose(); err != nil || StatusCode(closed.Code) != test.code {
							t.Errorf("closed with %v, %v, want %d", closed, err, test.code)
						}
					})
					begun := time.Now()
					if sent := send(c, 8<<20); sent > 1<<20 {
						t.Errorf("%d bytes were read of a connection that is being closed", sent)
					}
					reading.Wait()
					c.ReadEnd()
					if took := time.Since(begun); took != 5*time.Second {
						t.Errorf("it took %v, want the CloseTimeout", took)
					}
					if n := r.Stats().Overran; n != 1 {
						t.Errorf("Overran is %d", n)
					}
					r.clean()
				})
			})
			if what != "messages" { // each of these takes a CloseTimeout
				continue
			}
			t.Run(test.name+"/"+what+"/TCP", func(t *testing.T) {
				r := newClosingRig(t, false, time.Second)
				c := r.connect(test.query)
				var reading sync.WaitGroup
				reading.Go(func() {
					if closed, err := c.ReadClose(); err != nil || StatusCode(closed.Code) != test.code {
						t.Errorf("closed with %v, %v, want %d", closed, err, test.code)
					}
				})
				if sent := send(c, enough); sent >= enough {
					t.Errorf("%d bytes were taken of a connection that is being closed", sent)
				}
				reading.Wait()
				r.await("the count", func() bool { return r.Stats().Overran == 1 })
				r.clean()
			})
		}
	}
}

// A client that is in the middle of a message when it is closed may finish it and
// then answer.
func TestClosingClientMayEndItsMessage(t *testing.T) {
	for _, size := range []int{64 << 10, 1 << 20} {
		synctest.Test(t, func(t *testing.T) { closedInTheMiddle(t, size) })
	}
}

func closedInTheMiddle(t *testing.T, size int) {
	r := newPipeRig(t, Config{MaxMessageSize: int64(size)})
	c := r.pipe("")
	message := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: make([]byte, size)}.Bytes()
	c.Write(message[:100])
	r.only().Close(4000, "")
	if closed, err := c.ReadClose(); err != nil || closed.Code != 4000 {
		t.Errorf("%v, %v", closed, err)
	}
	begun := time.Now()
	c.Write(message[100:])
	c.WriteFrames(wsraw.CloseFrame(4000, ""))
	if err := c.ReadEnd(); err != nil || time.Since(begun) > 0 {
		t.Errorf("it ended with %v, %v after the answer", err, time.Since(begun))
	}
	if n := r.Stats().Overran; n != 0 {
		t.Errorf("Overran is %d", n)
	}
	r.clean()
}

// A Hub without Redis or a Bus logs once that it is alone.
func TestAloneIsTold(t *testing.T) {
	for _, test := range []struct {
		config Config
		want   int
	}{
		{Config{}, 1},
		{Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry()}, 0},
	} {
		var log strings.Builder
		test.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
		h, err := New(test.config)
		if err != nil {
			t.Fatal(err)
		}
		h.Shutdown(context.Background())
		if got := strings.Count(log.String(), "level=INFO msg=\"herald: neither Redis nor a Bus"); got != test.want {
			t.Errorf("told %d times, want %d:\n%s", got, test.want, &log)
		}
	}
}
