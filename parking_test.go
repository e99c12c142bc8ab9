//go:build linux

package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/netpoll"
	"github.com/heraldgo/herald/internal/test/wsraw"
	"github.com/heraldgo/herald/internal/turn"
)

// parkAfter sets how long a Conn must be quiet to be parked, until the test ends.
func parkAfter(t testing.TB, quiet time.Duration) {
	before := netpoll.Quiet
	netpoll.Quiet = quiet
	t.Cleanup(func() { netpoll.Quiet = before })
}

func awaitParked(t testing.TB, c *Conn) {
	t.Helper()
	await(t, "a parked Conn", func() bool { return c.socket.turn.Is(turn.Parked) })
}

// readers counts the goroutines that read from Conns.
func readers() int { return strings.Count(stacks(), "herald.(*Conn).read(") }

// A countingRaw counts the reads and the Controls of a socket.
type countingRaw struct {
	syscall.RawConn
	reads, arms *atomic.Int64
}

func (r countingRaw) Read(f func(uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) bool {
		r.reads.Add(1)
		return f(fd)
	})
}

func (r countingRaw) Control(f func(uintptr)) error {
	r.arms.Add(1)
	return r.RawConn.Control(f)
}

// A Conn is parked from the start, and has no goroutine. A message from its client
// gives it one, until it is quiet again. Sending to it does not wake it.
func TestParkAndWake(t *testing.T) {
	parkAfter(t, 50*time.Millisecond)
	got := make(chan string, 10)
	var reads, arms atomic.Int64
	r := newRig(t, Config{
		OnConnect: func(_ context.Context, c *Conn) error {
			c.socket.raw = countingRaw{c.socket.raw, &reads, &arms}
			return nil
		},
		OnMessage: func(_ context.Context, _ *Conn, m Message) { got <- m.String() },
	})
	ws := r.connect("user=a")
	c := r.findUser("a")
	for i := range 3 {
		awaitParked(t, c)
		if n := readers(); n != 0 || c.socket.buffer != nil || c.socket.ahead != nil {
			t.Fatalf("%d goroutines read from a parked Conn, which has %v", n, c.socket.buffer)
		}
		before := reads.Load()
		if err := c.Send(Text(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if b, err := ws.ReadMessage(); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("%q, %v", b, err)
		}
		if n := reads.Load(); n != before || !c.socket.turn.Is(turn.Parked) {
			t.Fatalf("a Send woke the Conn: %d reads", n-before)
		}
		ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("x")})
		if m := <-got; m != "x" {
			t.Fatalf("got %q", m)
		}
	}
	awaitParked(t, c)
	// One read finds the message, and the next finds nothing.
	if reads.Load() > 6 || arms.Load() != 4 {
		t.Errorf("%d reads and %d arms for 3 messages", reads.Load(), arms.Load())
	}
	ws.Close()
	r.ended(1)
	r.clean()
	r.shutdown(patience)
	if strings.Contains(stacks(), "internal/netpoll") {
		t.Error("the poller's goroutine is left")
	}
}

// A client that answers pings, or pings now and then, needs no goroutine. One that
// pings all the time gets one.
func TestParkedControlFrames(t *testing.T) {
	parkAfter(t, 20*time.Millisecond)
	var reads, arms atomic.Int64
	r := newRig(t, Config{PingInterval: 60 * time.Millisecond, PongTimeout: patience, OnConnect: func(_ context.Context, c *Conn) error {
		c.socket.raw = countingRaw{c.socket.raw, &reads, &arms}
		return nil
	}})
	ws := r.connect("user=a")
	c := r.findUser("a")
	for range 5 {
		if f, err := ws.ReadFrame(); err != nil || f.Opcode != wsraw.Ping {
			t.Fatalf("%+v, %v", f, err)
		}
		if !c.socket.turn.Is(turn.Parked) {
			t.Fatal("a ping woke the Conn")
		}
		ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong})
	}
	awaitParked(t, c)
	ping := wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte("p")}
	await(t, "quiet", func() bool { return clock.Now()-c.socket.lastRead.Load() > int64(r.poller.Quiet) })
	ws.WriteFrames(ping)
	for {
		if f, err := ws.ReadFrame(); err != nil {
			t.Fatal(err)
		} else if f.Opcode == wsraw.Pong {
			break
		}
	}
	awaitParked(t, c)
	if n, a := reads.Load(), arms.Load(); n > 7 || a > 7 {
		t.Errorf("%d reads and %d arms for five pongs and a ping", n, a)
	}
	await(t, "a reader for a client that pings all the time", func() bool {
		ws.WriteFrames(ping, ping)
		return c.socket.turn.Is(turn.Reader)
	})
}

// If a frame or message is half read, a goroutine waits for the rest, until
// MessageTimeout.
func TestHalfReadIsNotParked(t *testing.T) {
	parkAfter(t, time.Millisecond)
	text := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("hello")}.Bytes()
	first := wsraw.Frame{Opcode: wsraw.Text, Payload: []byte("hello")}.Bytes()
	ping := wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte("hello")}.Bytes()
	for name, half := range map[string][]byte{
		"header": text[:1], "mask": text[:4], "payload": text[:8], "fragment": first, "ping": ping[:8],
		"fragment, pings": append(bytes.Clone(first), ping...),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{MessageTimeout: 200 * time.Millisecond, CloseTimeout: 200 * time.Millisecond})
			ws := r.connect("user=a")
			c := r.findUser("a")
			awaitParked(t, c)
			ws.Write(half)
			await(t, "a reader", func() bool { return c.socket.turn.Is(turn.Reader) })
			for c.socket.turn.Is(turn.Reader) && c.ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			if closed, err := ws.ReadClose(); err != nil || closed.Code != uint16(StatusPolicyViolation) {
				t.Fatalf("%v, %v", closed, err)
			}
			r.ended(1)
			ws.Close()
			r.clean()
		})
	}
}

// However a parked Conn ends, OnDisconnect runs once, and nothing is left.
func TestParkedEnds(t *testing.T) {
	type end struct {
		config Config
		do     func(r *rig, c *Conn, ws *wsraw.Conn)
		cause  func(error) bool
	}
	code := func(want StatusCode) func(error) bool { return func(err error) bool { return closeCode(err) == want } }
	any := func(error) bool { return true }
	for name, e := range map[string]end{
		"client closes": {do: func(_ *rig, _ *Conn, ws *wsraw.Conn) { ws.WriteFrames(wsraw.CloseFrame(1000, "")) }, cause: code(1000)},
		"client ends":   {do: func(_ *rig, _ *Conn, ws *wsraw.Conn) { ws.Close() }, cause: any},
		"client resets": {do: func(_ *rig, _ *Conn, ws *wsraw.Conn) { wsraw.Reset(ws.Conn) }, cause: any},
		"client breaks": {do: func(_ *rig, _ *Conn, ws *wsraw.Conn) { ws.Write([]byte{0xff}); ws.ReadClose(); ws.Close() }, cause: code(StatusProtocolError)},
		"Close, answered": {do: func(_ *rig, c *Conn, ws *wsraw.Conn) {
			c.Close(3000, "")
			ws.ReadClose()
			ws.WriteFrames(wsraw.CloseFrame(3000, ""))
		}, cause: code(3000)},
		"Close, silent": {config: Config{CloseTimeout: 50 * time.Millisecond}, do: func(_ *rig, c *Conn, _ *wsraw.Conn) { c.Close(3000, "") }, cause: code(3000)},
		"kill":          {do: func(_ *rig, c *Conn, _ *wsraw.Conn) { c.kill(ErrSilent) }, cause: func(err error) bool { return errors.Is(err, ErrSilent) }},
		"Disconnect": {config: Config{CloseTimeout: 50 * time.Millisecond}, do: func(r *rig, _ *Conn, _ *wsraw.Conn) {
			r.Disconnect(r.t.Context(), User("a"), 3001, "")
		}, cause: code(3001)},
		"expiry": {config: Config{CloseTimeout: 50 * time.Millisecond}, do: func(_ *rig, c *Conn, _ *wsraw.Conn) { c.SetExpiry(time.Unix(1, 0)) }, cause: code(StatusExpired)},
		"silence": {config: Config{PingInterval: 20 * time.Millisecond, PongTimeout: 20 * time.Millisecond}, do: func(*rig, *Conn, *wsraw.Conn) {},
			cause: func(err error) bool { return errors.Is(err, ErrSilent) }},
		"Shutdown": {config: Config{CloseTimeout: 50 * time.Millisecond}, do: func(r *rig, _ *Conn, _ *wsraw.Conn) { r.shutdown(time.Second) }, cause: code(StatusServiceRestart)},
	} {
		t.Run(name, func(t *testing.T) {
			parkAfter(t, time.Millisecond)
			r := newRig(t, e.config)
			ws := r.connect("user=a")
			if name != "silence" {
				awaitParked(t, r.findUser("a"))
			}
			c := r.findOrEnded(t)
			e.do(r, c, ws)
			if causes := r.ended(1); !e.cause(causes[0]) {
				t.Errorf("the cause is %v", causes[0])
			}
			ws.Close()
			if name != "Shutdown" {
				r.clean()
			}
			await(t, "no place in the poller", func() bool { return c == nil || !c.socket.turn.Is(turn.Parked) && c.socket.place == 0 })
		})
	}
}

// findOrEnded returns the Conn, or nil if it has ended.
func (r *rig) findOrEnded(t *testing.T) (found *Conn) {
	t.Helper()
	r.await("a Conn", func() bool {
		for c := range r.Conns() {
			found = c
		}
		return found != nil || r.Stats().Disconnected > 0
	})
	return found
}

// Whatever happens while a Conn is being parked or woken, it ends exactly once.
func TestKillWhileParking(t *testing.T) {
	parkAfter(t, time.Millisecond)
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	var conns sync.Map
	r := newRig(t, Config{OnConnect: func(_ context.Context, c *Conn) error {
		conns.Store(c, true)
		return nil
	}})
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range rounds {
				user := fmt.Sprintf("u%d-%d", g, i)
				ws := r.connect(query(user))
				c := r.findUser(user)
				time.Sleep(time.Duration(i%15) * time.Millisecond / 2)
				switch i % 3 {
				case 0:
					go ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("x")})
				case 1:
					go c.socket.ask()
				}
				c.kill(ErrSilent)
				ws.Close()
			}
		})
	}
	group.Wait()
	r.ended(4 * rounds)
	r.clean()
	conns.Range(func(key, _ any) bool {
		if c := key.(*Conn); c.socket.place != 0 {
			t.Errorf("%s has a place", c.ID())
		}
		return true
	})
}

// If keepalive asked a reader to let go just before OnMessage began, frames are
// read ahead all the same.
func TestAskedBeforeOnMessage(t *testing.T) {
	parkAfter(t, time.Hour)
	began, end := make(chan bool), make(chan bool)
	r := newRig(t, Config{PingInterval: 20 * time.Millisecond, PongTimeout: patience, OnMessage: func(_ context.Context, _ *Conn, m Message) {
		if m.String() == "wait" {
			began <- true
			<-end
		}
	}})
	ws := r.connect("user=a")
	c := r.findUser("a")
	ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("wait")})
	<-began
	c.socket.ask()
	ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte("!")})
	if _, err := ws.ReadUntil(func(f wsraw.Frame) bool { return f.Opcode == wsraw.Pong && string(f.Payload) == "!" }); err != nil {
		t.Fatal(err)
	}
	end <- true
	ws.Close()
	r.ended(1)
	r.clean()
}

// If the system gives no poller, each Conn keeps a goroutine. So does each Conn
// over TLS.
func TestNotParked(t *testing.T) {
	for _, secure := range []bool{false, true} {
		parkAfter(t, time.Millisecond)
		var log bytes.Buffer
		got := make(chan string, 10)
		r := newRigOver(t, secure, Config{Logger: slog.New(slog.NewTextHandler(&log, nil)),
			OnMessage: func(_ context.Context, _ *Conn, m Message) { got <- m.String() }})
		r.poller.Close() // so that it is never started
		r.logUnparked(syscall.EMFILE)
		ws := r.connectSmall(secure, "user=a")
		c := r.findUser("a")
		for range 3 {
			await(t, "a reader", func() bool { return readers() == 1 && c.socket.turn.Is(turn.Reader) })
			time.Sleep(20 * time.Millisecond)
			ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("x")})
			<-got
		}
		ws.Close()
		r.ended(1)
		r.clean()
		r.shutdown(patience)
		if n := strings.Count(log.String(), "idle connections keep a goroutine"); n != 1 {
			t.Errorf("%d lines in the log", n)
		}
	}
}

// Events of a socket that has nothing to read do not keep the poller busy. A host
// that asked for timestamps, for instance, gets one when bytes were sent.
func TestParkedEventOfNothing(t *testing.T) {
	parkAfter(t, time.Second)
	var reads, arms atomic.Int64
	r := newRig(t, Config{OnConnect: func(_ context.Context, c *Conn) error {
		var err error
		c.socket.raw.Control(func(fd uintptr) {
			const software, sent = 1 << 4, 1 << 1 // SOF_TIMESTAMPING_SOFTWARE, SOF_TIMESTAMPING_TX_SOFTWARE
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPING, software|sent)
		})
		c.socket.raw = countingRaw{c.socket.raw, &reads, &arms}
		return err
	}})
	ws := r.connect("user=a")
	c := r.findUser("a")
	awaitParked(t, c)
	if err := c.Send(Text("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := ws.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	await(t, "an event", func() bool { return reads.Load() > 0 })
	time.Sleep(100 * time.Millisecond)
	if n := reads.Load(); n > 10 {
		t.Errorf("%d reads, and nothing came", n)
	}
	ws.Close()
	r.ended(1)
	r.clean()
}
