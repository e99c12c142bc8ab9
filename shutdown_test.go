package herald

import (
	"context"
	"errors"
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

// The closes are spread over 80% of the time; Send works until then; each
// client sees 1012; new ones see 503.
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
		synctest.Wait() // for the last OnConnect, which comes after the 101
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

// A client that does not answer is cut when the time is over. Nothing is left.
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

// Shutdown while clients connect, with and without RejectAfterUpgrade: each
// is refused, or lives and sees 1012; none is forgotten.
func TestShutdownDuringHandshakes(t *testing.T) {
	for _, after := range []bool{false, true} {
		r := newRig(t, Config{RejectAfterUpgrade: after, CloseTimeout: time.Second})
		stop := make(chan struct{})
		var connecting sync.WaitGroup
		for range 8 {
			connecting.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c := r.dialTCP(0)
					ws, response, err := wsraw.Handshake(c, "/?user=u", nil)
					switch {
					case ws != nil:
						closed, err := ws.ReadClose()
						if err != nil || closed.Code != 1012 && closed.Code != 1013 {
							t.Errorf("%v, %v", closed, err)
						}
						ws.WriteFrames(wsraw.CloseFrame(1000, ""))
						ws.Close()
					case response == nil || response.StatusCode != http.StatusServiceUnavailable && response.StatusCode != http.StatusTooManyRequests:
						t.Errorf("%v, %v", response, err)
					}
					c.Close() // now: there are many
				}
			})
		}
		r.await("Conns", func() bool { return r.Stats().Accepted >= 8 })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var twice sync.WaitGroup
		for range 2 {
			twice.Go(func() {
				drain, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				if err := r.Shutdown(drain); err != nil {
					t.Error(err)
				}
			})
		}
		twice.Wait()
		close(stop)
		connecting.Wait()
		r.server.Close()
		requireNoGoroutines(t)
	}
}

// Callbacks that do not return hold Shutdown up no longer than its context,
// and a little.
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
				r := newPipeRig(t, Config{
					OfflineDelay: -1, HandshakeTimeout: -1,
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
				before := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Shutdown: %v", err)
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
