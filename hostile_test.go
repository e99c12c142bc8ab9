package herald

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// hostile lists clients that break the protocol or a limit at once, and the close
// code that they must see (RFC 6455 section 7.4).
var hostile = []struct {
	name  string
	bytes []byte
	code  StatusCode
}{
	{"message over the limit", wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, 1001)}.Bytes(), 1009},
	{"message far over the limit", append([]byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, make([]byte, 1001)...), 1009},
	{"fragments over the limit", slices.Concat(
		wsraw.Frame{Opcode: wsraw.Binary, Payload: make([]byte, 600)}.Bytes(),
		wsraw.Frame{Opcode: wsraw.Continuation, Payload: make([]byte, 600)}.Bytes()), 1009},
	{"negative length", []byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 1002},
	{"invalid UTF-8", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("a\xffb")}.Bytes(), 1007},
	{"surrogate in UTF-8", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("\xed\xa0\x80")}.Bytes(), 1007},
	{"invalid UTF-8 in fragments", slices.Concat(
		wsraw.Frame{Opcode: wsraw.Text, Payload: []byte("\xe2\x82")}.Bytes(),
		wsraw.Frame{Opcode: wsraw.Continuation}.Bytes(),
		wsraw.Frame{Fin: true, Opcode: wsraw.Continuation, Payload: []byte("a")}.Bytes()), 1007},
	{"not UTF-8, and the rest does not come", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: append([]byte("\xf4\x90"), make([]byte, 99)...)}.Bytes()[:8], 1007},
	{"not UTF-8, and no end of the message comes", slices.Concat(
		wsraw.Frame{Opcode: wsraw.Text, Payload: []byte("\xed")}.Bytes(),
		wsraw.Frame{Opcode: wsraw.Continuation, Payload: []byte("\xa0")}.Bytes()), 1007},
	{"header of a message over the limit", wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, 1001)}.Bytes()[:8], 1009},
	{"unmasked frame", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Unmasked: true, Payload: []byte("hi")}.Bytes(), 1002},
	{"unmasked ping", wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Unmasked: true}.Bytes(), 1002},
	{"RSV1", wsraw.Frame{Fin: true, RSV: 4, Opcode: wsraw.Text}.Bytes(), 1002},
	{"RSV2", wsraw.Frame{Fin: true, RSV: 2, Opcode: wsraw.Text}.Bytes(), 1002},
	{"RSV3 on a ping", wsraw.Frame{Fin: true, RSV: 1, Opcode: wsraw.Ping}.Bytes(), 1002},
	{"unknown opcode 3", wsraw.Frame{Fin: true, Opcode: 3}.Bytes(), 1002},
	{"unknown opcode 11", wsraw.Frame{Fin: true, Opcode: 11}.Bytes(), 1002},
	{"fragmented ping", wsraw.Frame{Opcode: wsraw.Ping}.Bytes(), 1002},
	{"fragmented close", wsraw.Frame{Opcode: wsraw.Close, Payload: []byte{3, 232}}.Bytes(), 1002},
	{"ping of 126 bytes", wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 126)}.Bytes(), 1002},
	{"pong of 64 KB", wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: make([]byte, 1<<16)}.Bytes(), 1002},
	{"continuation without a start", wsraw.Frame{Fin: true, Opcode: wsraw.Continuation}.Bytes(), 1002},
	{"start inside a message", slices.Concat(
		wsraw.Frame{Opcode: wsraw.Text, Payload: []byte("a")}.Bytes(),
		wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("b")}.Bytes()), 1002},
	{"close frame of 1 byte", wsraw.Frame{Fin: true, Opcode: wsraw.Close, Payload: []byte{3}}.Bytes(), 1002},
	{"close frame with a reason that is not UTF-8", wsraw.CloseFrame(1000, "\xff").Bytes(), 1007},
	{"close code 0", wsraw.CloseFrame(0, "").Bytes(), 1002},
	{"close code 999", wsraw.CloseFrame(999, "").Bytes(), 1002},
	{"close code 1004", wsraw.CloseFrame(1004, "").Bytes(), 1002},
	{"close code 1005", wsraw.CloseFrame(1005, "").Bytes(), 1002},
	{"close code 1006", wsraw.CloseFrame(1006, "").Bytes(), 1002},
	{"close code 1015", wsraw.CloseFrame(1015, "").Bytes(), 1002},
	{"close code 2999", wsraw.CloseFrame(2999, "").Bytes(), 1002},
	{"close code 5000", wsraw.CloseFrame(5000, "").Bytes(), 1002},
	{"not a frame", []byte("GET / HTTP/1.1\r\nHost: test\r\n\r\n"), 1002},
}

func TestHostileFrames(t *testing.T) {
	for _, test := range hostile {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Config{MaxMessageSize: 1000, CloseTimeout: patience, OnMessage: func(context.Context, *Conn, Message) {
				t.Error("OnMessage was called")
			}})
			// The first client answers the close frame. The second says nothing
			// more. The third goes on with its nonsense until it sees the close
			// frame, or has sent half of what is read of it.
			for i := range 3 {
				c := r.connect("groups=a,b")
				if _, err := c.Write(test.bytes); err != nil {
					t.Fatal(err)
				}
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for sent := 0; i == 2 && sent < closingReads/2; sent += len(test.bytes) {
						select {
						case <-stop:
							return
						default:
							c.Write(test.bytes)
						}
					}
				}()
				closed, err := c.ReadClose()
				if err != nil {
					t.Fatalf("client %d: %v", i, err)
				}
				if closed.Code != uint16(test.code) || strings.ContainsAny(closed.Reason, "%\\:") {
					t.Errorf("client %d saw %v, want %d and no internals", i, closed, test.code)
				}
				close(stop)
				<-stopped
				if i == 0 {
					c.WriteFrames(wsraw.CloseFrame(closed.Code, ""))
				}
				c.Conn.(*net.TCPConn).CloseWrite()
				if err := c.ReadEnd(); err != nil {
					t.Error(err)
				}
			}
			for _, cause := range r.ended(3) {
				if closeCode(cause) != test.code {
					t.Errorf("cause %v, want %d", cause, test.code)
				}
			}
			r.clean()
		})
	}
}

// Frames that are odd but allowed must pass: control frames inside a message, empty
// fragments, the longest ping, UTF-8 cut between fragments.
func TestOddFramesPass(t *testing.T) {
	got := make(chan string, 10)
	r := newRig(t, Config{MaxMessageSize: 1000, OnMessage: func(_ context.Context, _ *Conn, m Message) {
		got <- fmt.Sprint(m.IsText(), len(m.Bytes()), " ", m.String()[:min(9, len(m.Bytes()))])
	}})
	c := r.connect("")
	longest := bytes.Repeat([]byte{'p'}, 125)
	c.WriteFrames(
		wsraw.Frame{Opcode: wsraw.Text, Payload: []byte("\xe2")},
		wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: longest},
		wsraw.Frame{Opcode: wsraw.Continuation},
		wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: longest},
		wsraw.Frame{Fin: true, Opcode: wsraw.Continuation, Payload: []byte("\x82\xac")},
		wsraw.Frame{Fin: true, Opcode: wsraw.Text},
		wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, 1000)},
		wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: []byte("\xff")},
	)
	if f, err := c.ReadFrame(); err != nil || f.Opcode != wsraw.Pong || !bytes.Equal(f.Payload, longest) {
		t.Errorf("got %+v, %v, want the pong", f, err)
	}
	for _, want := range []string{"true 3 €", "true 0 ", "false 1000 \x00\x00\x00\x00\x00\x00\x00\x00\x00", "false 1 \xff"} {
		if m := <-got; m != want {
			t.Errorf("got %q, want %q", m, want)
		}
	}
	// The client closes: its code comes back (RFC 6455 section 5.5.1).
	for _, code := range []uint16{1000, 1001, 1010, 3000, 4999, 1005} {
		c := r.connect("user=closing")
		f := wsraw.CloseFrame(code, "bye")
		if code == 1005 {
			f.Payload = nil
		}
		c.WriteFrames(f)
		if closed, err := c.ReadClose(); err != nil || closed.Code != code {
			t.Errorf("closed with %d: got %v, %v", code, closed, err)
		}
		if err := c.ReadEnd(); err != nil {
			t.Error(err)
		}
		r.await("the cause", func() bool {
			return slices.ContainsFunc(r.ended(1), func(err error) bool { return closeCode(err) == StatusCode(code) })
		})
	}
	c.Close()
	r.ended(7)
	r.clean()
}

// TestFloods has clients that never stop, and checks which limit ends them.
func TestFloods(t *testing.T) {
	for _, test := range []struct {
		name  string
		first []byte
		more  []byte
	}{
		{"pings", nil, wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 125)}.Bytes()},
		{"pongs", nil, wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: make([]byte, 125)}.Bytes()},
		{"pings inside a message", wsraw.Frame{Opcode: wsraw.Text}.Bytes(), wsraw.Frame{Fin: true, Opcode: wsraw.Ping}.Bytes()},
		{"messages", nil, wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("hi")}.Bytes()},
		{"empty fragments", wsraw.Frame{Opcode: wsraw.Text}.Bytes(), wsraw.Frame{Opcode: wsraw.Continuation}.Bytes()},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Config{MessageRate: 100, MessageTimeout: 300 * time.Millisecond, CloseTimeout: 500 * time.Millisecond})
			c := r.connect("")
			c.Write(test.first)
			conn := r.only()
			flood := bytes.Repeat(test.more, 100)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for err := error(nil); err == nil; {
					_, err = c.Write(flood)
				}
			}()
			closed, err := c.ReadClose()
			if err != nil || closed.Code != 1008 {
				t.Fatalf("got %v, %v", closed, err)
			}
			<-done // the server has closed the connection, though the client goes on
			if cause := r.ended(1)[0]; closeCode(cause) != 1008 {
				t.Errorf("cause %v", cause)
			}
			if n := r.Stats().MessagesReceived; n > 250 {
				t.Errorf("%d messages were taken", n)
			}
			if q := queueOf(conn); q.frames.Len() > 0 || len(q.frames.Buf) > 1 || q.pongs != nil {
				t.Errorf("the queue keeps %d frames, pong %q", len(q.frames.Buf), q.pongs)
			}
			r.clean()
		})
	}
}

// Of a client that pings and never reads, only a few pongs wait, the latest among
// them.
func TestPingsWithoutReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{MessageRate: -1, CloseTimeout: time.Minute})
		c := r.pipe("")
		conn := r.only()
		for i := range 10_000 {
			if err := c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if q := queueOf(conn); !bytes.HasSuffix(q.pongs, []byte("\x8a\x049999")) || len(q.pongs) > maxPongs || q.size() > 0 {
			t.Errorf("%q is waiting to be written, and %d frames", q.pongs, q.size())
		}
		begun := time.Now()
		if cause := r.ended(1)[0]; !errors.Is(cause, ErrTooSlow) {
			t.Errorf("cause %v", cause)
		}
		if took := time.Since(begun).Round(time.Second); took != 10*time.Second {
			t.Errorf("closed after %v, want the WriteTimeout", took)
		}
		if n := r.Stats().TooSlow; n != 1 {
			t.Errorf("TooSlow is %d", n)
		}
		r.clean()
	})
}

// Ten pings at once get ten pongs, in order.
func TestTenPings(t *testing.T) {
	r := newRig(t, Config{})
	c := r.connect("")
	var pings []wsraw.Frame
	for i := range 10 {
		pings = append(pings, wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: bytes.Repeat([]byte{byte('0' + i)}, 125)})
	}
	if err := c.WriteFrames(pings...); err != nil {
		t.Fatal(err)
	}
	for i, ping := range pings {
		if f, err := c.ReadFrame(); err != nil || f.Opcode != wsraw.Pong || !bytes.Equal(f.Payload, ping.Payload) {
			t.Fatalf("pong %d: %+v, %v", i, f, err)
		}
	}
	c.Close()
	// Each Ping of this library waits for its own pong.
	conn, _, err := websocket.Dial(t.Context(), r.server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(conn.CloseRead(t.Context()), patience)
	defer cancel()
	var pinging sync.WaitGroup
	for range 10 {
		pinging.Go(func() {
			if err := conn.Ping(ctx); err != nil {
				t.Errorf("ping: %v", err)
			}
		})
	}
	pinging.Wait()
}

// A fragment of fewer than 16 bytes counts against MessageRate. Longer ones do not.
func TestFragments(t *testing.T) {
	got := make(chan int, 1)
	r := newRig(t, Config{MessageRate: 100, MessageTimeout: -1, ByteRate: -1, CloseTimeout: patience, OnMessage: func(_ context.Context, _ *Conn, m Message) {
		got <- len(m.Bytes())
	}})
	for _, size := range []int{0, 15, 16} {
		c := r.connect("")
		frames := []wsraw.Frame{{Opcode: wsraw.Binary, Payload: make([]byte, 16)}}
		for range 1000 {
			frames = append(frames, wsraw.Frame{Opcode: wsraw.Continuation, Payload: make([]byte, size)})
		}
		c.WriteFrames(append(frames, wsraw.Frame{Fin: true, Opcode: wsraw.Continuation})...)
		if size < 16 {
			if closed, err := c.ReadClose(); err != nil || closed.Code != 1008 || closed.Reason != "more than 100 messages a second" {
				t.Errorf("fragments of %d: %v, %v", size, closed, err)
			}
		} else if n := <-got; n != 16+1000*size {
			t.Errorf("fragments of %d: a message of %d", size, n)
		}
		c.Close()
	}
	r.ended(3)
	r.clean()
}

// dribbled lists ways to begin something and never end it.
var dribbled = []struct {
	name  string
	bytes []byte // one a second, then silence
	want  StatusCode
}{
	{"half a message", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: make([]byte, 20)}.Bytes()[:10], 1008},
	{"a message, a byte a second", wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: make([]byte, 100)}.Bytes(), 1008},
	{"fragments, a byte a second", append(wsraw.Frame{Opcode: wsraw.Text}.Bytes(), bytes.Repeat(wsraw.Frame{Opcode: wsraw.Continuation}.Bytes(), 10)...), 1008},
	{"half a ping", wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 20)}.Bytes()[:10], 1008},
	{"half a close frame", wsraw.CloseFrame(1000, "").Bytes()[:7], 1008},
}

func TestDribble(t *testing.T) {
	for _, test := range dribbled {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newPipeRig(t, Config{MessageTimeout: 30 * time.Second, PingInterval: -1})
				c := r.pipe("groups=a")
				var writing sync.WaitGroup
				writing.Go(func() {
					for _, b := range test.bytes {
						if _, err := c.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
				closed, err := c.ReadClose()
				if err != nil || closed.Code != uint16(test.want) {
					t.Fatalf("got %v, %v", closed, err)
				}
				io.Copy(io.Discard, c.Conn) // the client never answers
				writing.Wait()
				if cause := r.ended(1)[0]; closeCode(cause) != test.want {
					t.Errorf("cause %v", cause)
				}
				r.clean()
			})
		})
	}
}

// A client's connection may be reset at any time. Nothing is left of it.
func TestResetInEveryPhase(t *testing.T) {
	reached := make(chan *Conn, 1)
	proceed := make(chan struct{})
	stop := func(in string) func(c *Conn) {
		return func(c *Conn) {
			if c.Identity().Device == in {
				reached <- c
				<-proceed
			}
		}
	}
	r := newRig(t, Config{
		CloseTimeout: 200 * time.Millisecond,
		OnConnect:    func(_ context.Context, c *Conn) error { stop("connect")(c); return nil },
		OnMessage: func(_ context.Context, c *Conn, _ Message) {
			stop("message")(c)
			if c.Identity().Device == "closing" {
				c.Close(StatusNormal, "")
				reached <- c
			}
		},
	})
	for _, test := range []struct {
		phase string
		bytes []byte
	}{
		{"connect", nil},
		{"idle", nil},
		{"message", wsraw.Frame{Fin: true, Opcode: wsraw.Text}.Bytes()},
		{"header", []byte{0x81}},
		{"payload", []byte{0x81, 0x85, 0, 0, 0, 0, 'a'}},
		{"ping", []byte{0x89, 0x85, 0, 0, 0, 0, 'a'}},
		{"closing", wsraw.Frame{Fin: true, Opcode: wsraw.Text}.Bytes()},
		{"closed", wsraw.CloseFrame(1000, "").Bytes()},
		{"broken", []byte{0x83, 0x80}},
	} {
		t.Run(test.phase, func(t *testing.T) {
			r.t = t
			before := r.Stats().Accepted
			tcp := r.dialTCP(0)
			if err := wsraw.WriteRequest(tcp, "/?groups=g&device="+test.phase, nil); err != nil {
				t.Fatal(err)
			}
			if test.phase == "connect" {
				<-reached
			} else {
				r.await("the Conn", func() bool { return r.Stats().Accepted == before+1 })
			}
			tcp.Write(test.bytes)
			if test.phase == "message" || test.phase == "closing" {
				<-reached
			}
			wsraw.Reset(tcp)
			if test.phase == "connect" || test.phase == "message" {
				proceed <- struct{}{}
			}
			r.await("the end", func() bool { return r.Stats().Disconnected == before+1 })
			r.clean()
		})
	}
	r.t = t
	// Before there is a Conn: no request, half a request, a request alone.
	for _, request := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n"} {
		tcp := r.dialTCP(0)
		io.WriteString(tcp, request)
		wsraw.Reset(tcp)
	}
	r.clean()
	r.shutdown(patience)
}

// A busyRig is a rig whose OnMessage, for the message "work", runs until it is
// released.
type busyRig struct {
	*rig
	secure  bool
	began   chan context.Context // OnMessage's, for "work"
	release chan struct{}
	got     chan string // all other messages
}

// busyRigs runs a test over plain TCP and over TLS, with a short PingInterval.
func busyRigs(t *testing.T, test func(t *testing.T, r *busyRig)) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "TCP", true: "TLS"}[secure], func(t *testing.T) {
			r := &busyRig{secure: secure, began: make(chan context.Context, 1), release: make(chan struct{}), got: make(chan string, 10_000)}
			r.rig = newRigOver(t, secure, Config{
				PingInterval: 20 * time.Millisecond, PongTimeout: patience, CloseTimeout: patience, MessageRate: -1, ByteRate: -1,
				OnMessage: r.onMessage,
			})
			test(t, r)
		})
	}
}

func (r *busyRig) onMessage(ctx context.Context, _ *Conn, m Message) {
	if m.String() != "work" {
		r.got <- m.String()
		return
	}
	r.began <- ctx
	<-r.release
}

// work connects a client and has its OnMessage run.
func (r *busyRig) work() (*wsraw.Conn, context.Context) {
	r.t.Helper()
	c := r.connectOver(r.secure, "")
	c.WriteFrames(textFrame("work"))
	return c, <-r.began
}

func isPong(f wsraw.Frame) bool { return f.Opcode == wsraw.Pong }

func TestBusyHandlerAnswersPing(t *testing.T) {
	busyRigs(t, func(t *testing.T, r *busyRig) {
		c, ctx := r.work()
		c.WriteFrames(textFrame("first"))
		for i := range 3 {
			ping := fmt.Sprint("ping ", i)
			c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte(ping)}, textFrame(ping))
			f, err := c.ReadUntil(isPong)
			if err != nil || string(f.Payload) != ping {
				t.Fatalf("%+v, %v", f, err)
			}
		}
		if ctx.Err() != nil || len(r.got) > 0 {
			t.Errorf("%v, %d messages while OnMessage ran", ctx.Err(), len(r.got))
		}
		r.release <- struct{}{}
		c.WriteFrames(textFrame("last"))
		for _, want := range []string{"first", "ping 0", "ping 1", "ping 2", "last"} {
			if m := <-r.got; m != want {
				t.Errorf("got %q, want %q", m, want)
			}
		}
		c.Close()
		r.ended(1)
		r.clean()
	})
}

// While OnMessage runs, a close frame is answered and the connection ends. The
// messages before it are not lost.
func TestBusyHandlerNoticesClose(t *testing.T) {
	busyRigs(t, func(t *testing.T, r *busyRig) {
		c, ctx := r.work()
		c.WriteFrames(textFrame("last"), wsraw.CloseFrame(4000, "bye"))
		if closed, err := c.ReadClose(); err != nil || closed.Code != 4000 {
			t.Errorf("%v, %v", closed, err)
		}
		if err := c.ReadEnd(); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		if closeCode(context.Cause(ctx)) != 4000 {
			t.Errorf("the cause is %v", context.Cause(ctx))
		}
		r.release <- struct{}{}
		if m := <-r.got; m != "last" {
			t.Errorf("got %q", m)
		}
		if cause := r.ended(1)[0]; closeCode(cause) != 4000 {
			t.Errorf("the cause is %v", cause)
		}
		r.clean()
	})
}

func TestBusyHandlerNoticesReset(t *testing.T) {
	busyRigs(t, func(t *testing.T, r *busyRig) {
		c, ctx := r.work()
		conn := c.Conn
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		wsraw.Reset(conn)
		<-ctx.Done()
		if closed := (*CloseError)(nil); errors.As(context.Cause(ctx), &closed) {
			t.Errorf("the cause is %v", closed)
		}
		r.release <- struct{}{}
		r.ended(1)
		r.clean()
	})
}

// While OnMessage runs, a client that breaks the protocol is told so.
func TestBusyHandlerNoticesBreach(t *testing.T) {
	busyRigs(t, func(t *testing.T, r *busyRig) {
		c, ctx := r.work()
		c.WriteFrames(textFrame("last"), textFrame("\xff"))
		if closed, err := c.ReadClose(); err != nil || closed.Code != 1007 {
			t.Errorf("%v, %v", closed, err)
		}
		<-ctx.Done()
		r.release <- struct{}{}
		if m := <-r.got; m != "last" {
			t.Errorf("got %q", m)
		}
		c.Close()
		if cause := r.ended(1)[0]; closeCode(cause) != 1007 {
			t.Errorf("the cause is %v", cause)
		}
		r.clean()
	})
}

// However much the client sends while OnMessage runs, the bytes of it in memory are
// bounded. All messages arrive, in order.
func TestBusyHandlerBoundsReadAhead(t *testing.T) {
	busyRigs(t, func(t *testing.T, r *busyRig) {
		c, _ := r.work()
		s := &r.only().socket
		const messages, size = 5000, 1000
		var sending sync.WaitGroup
		sending.Go(func() {
			for i := range messages {
				if err := c.WriteFrames(textFrame(numbered(i, size).String())); err != nil {
					t.Error(err)
					return
				}
			}
		})
		held := func() (n int) {
			if !s.turn.BeginAhead() { // another goroutine has the turn
				return 0
			}
			defer s.turn.EndAhead()
			if s.backlog != nil {
				n = s.backlog.size + s.in.Held()
			}
			return n
		}
		r.await("as much as may be read", func() bool { return held() > maxWaiting })
		for range 100 {
			if n := held(); n > maxWaiting+2*(size+messageCost) {
				t.Fatalf("%d bytes are held", n)
			}
			time.Sleep(time.Millisecond) // keepalive runs meanwhile
		}
		r.release <- struct{}{}
		for i := range messages {
			if n, err := number([]byte(<-r.got)); n != i || err != nil {
				t.Fatalf("message %d: %d, %v", i, n, err)
			}
		}
		sending.Wait()
		c.Close()
		r.ended(1)
		r.clean()
	})
}

// While OnMessage runs, a client that says nothing is found silent, but one that
// has sent more than may be read ahead is not.
func TestBusyHandlerNoticesSilence(t *testing.T) {
	for _, talks := range []bool{false, true} {
		t.Run(fmt.Sprint("talks ", talks), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took := make(chan time.Duration, 1)
				r := newPipeRig(t, Config{PingInterval: 25 * time.Second, PongTimeout: 10 * time.Second, OnMessage: func(ctx context.Context, _ *Conn, m Message) {
					if m.String() != "work" {
						return
					}
					began := time.Now()
					select {
					case <-ctx.Done():
					case <-time.After(time.Hour):
					}
					took <- time.Since(began)
				}})
				c := r.pipe("")
				var client sync.WaitGroup
				client.Go(func() { io.Copy(io.Discard, c.Conn) })
				client.Go(func() {
					c.WriteFrames(textFrame("work"))
					for i := 0; talks; i++ {
						if c.WriteFrames(textFrame(numbered(i, 1000).String())) != nil {
							return
						}
					}
				})
				switch d := <-took; {
				case talks && d != time.Hour:
					t.Errorf("the context was done after %v: %v", d, r.ended(1))
				case !talks && (d < 35*time.Second || d > 38*time.Second):
					t.Errorf("the context was done after %v", d)
				}
				c.Close()
				cause := r.ended(1)[0]
				if !talks && !errors.Is(cause, ErrSilent) {
					t.Errorf("the cause is %v", cause)
				}
				client.Wait()
				r.clean()
			})
		})
	}
}

// Messages that a client sent while OnMessage ran, no faster than it may, do not
// count as a burst.
func TestBusyHandlerIsNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 40
		got := 0
		r := newPipeRig(t, Config{MessageRate: 5, PingInterval: time.Second, OnMessage: func(_ context.Context, _ *Conn, m Message) {
			if m.String() == "work" {
				time.Sleep(messages / 4 * time.Second)
			} else {
				got++
			}
		}})
		c := r.pipe("")
		go io.Copy(io.Discard, c.Conn)
		c.WriteFrames(textFrame("work"))
		for range messages {
			time.Sleep(time.Second / 4)
			c.WriteFrames(textFrame("more"))
		}
		c.WriteFrames(wsraw.CloseFrame(1000, ""))
		if cause := r.ended(1)[0]; closeCode(cause) != 1000 || got != messages {
			t.Errorf("%d messages of %d, %v", got, messages, cause)
		}
		r.clean()
	})
}

// One client's flood during OnMessage does not stop keepalive for the others.
func TestBusyHandlerSharesKeepalive(t *testing.T) {
	r := &busyRig{began: make(chan context.Context, 1), release: make(chan struct{}), got: make(chan string, 10)}
	r.rig = newRig(t, Config{PingInterval: 20 * time.Millisecond, PongTimeout: patience, MessageRate: -1, ByteRate: -1, OnMessage: r.onMessage})
	flooder, _ := r.work()
	other, ctx := r.work()
	pong := wsraw.Frame{Fin: true, Opcode: wsraw.Pong}
	flood := bytes.Repeat(pong.Bytes(), 10_000)
	var flooding sync.WaitGroup
	defer flooding.Wait()
	defer flooder.Close()
	flooding.Go(func() {
		for {
			if _, err := flooder.Conn.Write(flood); err != nil {
				return
			}
		}
	})
	for range 20 {
		other.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte("there?")})
		if _, err := other.ReadUntil(isPong); err != nil {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Error(context.Cause(ctx))
	}
	flooder.Close()
	other.Close()
	close(r.release)
	r.ended(2)
	r.clean()
}
