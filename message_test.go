package herald

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A recorder is a Tracer that notes what it is told. It gives each Send the next
// TraceID, but for one whose context says that it is not sampled.
type recorder struct {
	mu    sync.Mutex
	sends byte
	notes []string
}

type unsampled struct{}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// take returns the notes in order, and forgets them.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	notes := r.notes
	r.notes = nil
	slices.Sort(notes)
	return notes
}

func (r *recorder) TraceSend(ctx context.Context, s TracedSend) (t TraceContext, end func(error)) {
	if ctx.Value(unsampled{}) == nil {
		r.mu.Lock()
		r.sends++
		t = TraceContext{TraceID: [16]byte{r.sends}, SpanID: [8]byte{7: r.sends}, Flags: 1}
		r.mu.Unlock()
	}
	return t, func(err error) { r.note("%s to %d of %s, %d bytes: %v", s.Call, s.Names, s.Target, s.Size, err) }
}

func (r *recorder) TraceDelivery(t TraceContext) func(int) {
	if t.TraceID[0] != t.SpanID[7] || t.Flags != 1 {
		r.note("the trace is %v", t)
	}
	return func(conns int) { r.note("delivery of %d to %d", t.TraceID[0], conns) }
}

// answerPings reads until the connection ends.
func answerPings(ws *wsraw.Conn) {
	for {
		f, err := ws.ReadFrame()
		if err != nil {
			return
		}
		if f.Opcode|0x80 == frame.Ping {
			ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: frame.Pong & 0xf, Payload: f.Payload})
		}
	}
}

// A Tracer hears of each call, and on each node that has connections for it of what
// the call has sent, whatever else the envelope carries.
func TestTracer(t *testing.T) {
	for _, retention := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprint("Retention ", retention), func(t *testing.T) {
			tracer := new(recorder)
			rigs := newPair(t, false, Config{Tracer: tracer, Retention: retention})
			for i, r := range rigs {
				go answerPings(r.connect("user=u&groups=a,b"))
				r.connect(fmt.Sprint("user=alone&device=", i))
			}
			settled(t, rigs)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			send := func(t Target) func() error {
				return func() error { return rigs[0].Send(ctx, t, Text("Hello")) }
			}
			ids := rigs[1].findUser("u").ID()
			for _, test := range []struct {
				call func() error
				want []string
			}{
				{send(User("u")), []string{"Send to 1 of user, 5 bytes: <nil>", "delivery of 1 to 1", "delivery of 1 to 1"}},
				{send(Everyone().ExceptUser("u")), []string{"Send to 0 of everyone, 5 bytes: <nil>", "delivery of 2 to 1", "delivery of 2 to 1"}},
				{send(Group("a", "b")), []string{"Send to 2 of group, 5 bytes: <nil>", "delivery of 3 to 0", "delivery of 3 to 0", "delivery of 3 to 1", "delivery of 3 to 1"}},
				{send(Connection(ids)), []string{"Send to 1 of connection, 5 bytes: <nil>", "delivery of 4 to 1"}},
				{func() error { return rigs[0].Send(context.WithValue(ctx, unsampled{}, true), User("u"), Text("")) }, []string{"Send to 1 of user, 0 bytes: <nil>"}},
				{send(User("nobody")), []string{"Send to 1 of user, 5 bytes: <nil>"}},
				{send(User()), nil},
				{func() error {
					_, err := rigs[0].Deliver(ctx, Group("a"), Binary([]byte{1}))
					return err
				}, []string{"Deliver to 1 of group, 1 bytes: <nil>", "delivery of 6 to 1", "delivery of 6 to 1"}},
			} {
				if err := test.call(); err != nil {
					t.Fatal(err)
				}
				var got []string
				await(t, fmt.Sprintf("%q", test.want), func() bool {
					got = append(got, tracer.take()...)
					return len(got) >= len(test.want)
				})
				if slices.Sort(got); !slices.Equal(got, test.want) {
					t.Fatalf("the Tracer heard %q, want %q", got, test.want)
				}
			}
			cancel()
			err := rigs[0].Send(ctx, User("u"), Text(""))
			if got := tracer.take(); !errors.Is(err, context.Canceled) || len(got) != 1 || !strings.HasSuffix(got[0], err.Error()) {
				t.Errorf("Send with a context that has ended: %v; the Tracer heard %q", err, got)
			}
		})
	}
}

// A trace is read as it was, and is not in the way of what else an envelope has. One
// of another form is skipped.
func TestTraceTravels(t *testing.T) {
	sent := TraceContext{TraceID: [16]byte{1, 15: 2}, SpanID: [8]byte{3, 7: 4}, Flags: 5}
	for _, e := range envelopes() {
		if e.message.data == nil || len(e.message.data) > 100 {
			continue
		}
		e.carrier = sent.encode()
		b := e.encode()
		got, err := decodeAgain(b)
		if err != nil || !reflect.DeepEqual(got, e) || got.carrier.decode() != sent {
			t.Errorf("got %+v, %v, want %+v", got, err, e)
		}
		e.carrier = nil
		if got, err := decodeEnvelope(extend(e.encode(), tagTrace, "short"), fuzzFrame); err != nil || got.carrier != nil {
			t.Errorf("a short trace: %+v, %v", got, err)
		}
	}
	if (&TraceContext{SpanID: sent.SpanID, Flags: 1}).encode() != nil {
		t.Error("a context without a trace travels")
	}
}

// What a message costs on its way through a node: go test -run '^$' -bench .
// Comparisons with others are in bench.

var payload = strings.Repeat("x", 128)

// benchHub returns a Hub in memory.
func benchHub(b *testing.B) *Hub {
	return newHub(b, Config{Logger: slog.New(slog.DiscardHandler)})
}

// users adds a Conn without a socket for each of so many users.
func (h *Hub) users(b *testing.B, n int) []*Conn {
	conns := make([]*Conn, n)
	for i := range conns {
		conns[i] = h.newConn(httptest.NewRequest("GET", "/", nil), Identity{User: fmt.Sprint("u", i)})
		b.Cleanup(func() { conns[i].cancel(nil) })
	}
	return conns
}

func BenchmarkEnqueue(b *testing.B) {
	h := benchHub(b)
	c := h.users(b, 1)[0]
	frame := Text(payload).frame()
	for _, limit := range []int{1, 1000} {
		b.Run(fmt.Sprint("of=", limit), func(b *testing.B) {
			b.ReportAllocs()
			c.queue.clear()
			for b.Loop() {
				if c.queue.size() == limit {
					c.queue.clear()
				}
				if err := c.enqueue(frame, false, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Frames that wait share a system call.
func BenchmarkFlush(b *testing.B) {
	client, conn := tcpPair(b)
	go io.Copy(io.Discard, client)
	h := benchHub(b)
	c := h.users(b, 1)[0]
	c.socket.conn, c.socket.raw = conn, rawio.Conn(conn)
	if c.socket.raw == nil {
		b.Skip("no raw writes on this system")
	}
	w := &writer{buf: make([]byte, 0, flushSize)}
	frame := Text(payload).frame()
	for _, frames := range []int{1, 20} {
		b.Run(fmt.Sprint("frames=", frames), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.mu.Lock()
				for range frames {
					c.queue.put(frame)
				}
				c.queue.owner = ownerWriter
				c.mu.Unlock()
				w.flush(c)
				for busy := true; busy; { // while a goroutine waits for the client
					c.mu.Lock()
					busy = c.queue.owner != ownerNone
					c.mu.Unlock()
				}
			}
		})
	}
}

func BenchmarkEnvelope(b *testing.B) {
	e := envelope{kind: kindMessage, message: Text(payload)}
	data := e.encode()
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			buf = e.append(buf[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decodeEnvelope(data, 1<<20); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	conns := benchHub(b).users(b, 5000)
	x := newIndex()
	for _, c := range conns {
		x.add(c, 0, 0)
	}
	topics := make([]string, len(conns))
	for i, c := range conns {
		topics[i] = userTopic(c.User())
	}
	var found []*Conn
	b.Run("user", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			found = x.appendConns(found[:0], topics[i%len(topics)])
		}
	})
	b.Run("everyone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			found = x.appendConns(found[:0], topicEveryone)
		}
	})
	b.Run("come and go", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			c := conns[i%len(conns)]
			x.remove(c)
			x.add(c, 0, 0)
		}
	})
}

// Send to a user of no node, by the context it is given.
func BenchmarkSend(b *testing.B) {
	h := benchHub(b)
	cancelable, cancel := context.WithCancel(b.Context())
	defer cancel()
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancelable": cancelable} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := h.Send(ctx, User("u"), Text(payload)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A client that does not read, of a Hub that drops the oldest messages.
func BenchmarkDropOldest(b *testing.B) {
	h := newHub(b, Config{DropOldest: true})
	c := h.users(b, 1)[0]
	frame := Text("x").frame()
	for range h.config.QueueMessages {
		c.enqueue(frame, false, nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.enqueue(frame, false, nil)
	}
}

// Sends to several groups, of which as many are remembered as may be.
func BenchmarkCopies(b *testing.B) {
	var s copies
	id := uint64(0)
	for ; id < maxCopies; id++ {
		s.of("node", id)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.of("node", id)
		id++
	}
}

// A message to everyone but its sender, for 5,000 clients that are too busy
// for it.
func BenchmarkExcept(b *testing.B) {
	h := benchHub(b)
	conns := h.users(b, 5000)
	for _, c := range conns {
		h.index.add(c, 0, 0)
		c.queue.blocked = true
	}
	target := Everyone().Except(conns[0].ID())
	e := envelope{kind: kindMessage, volatile: true, message: Text(payload), filter: target.filter()}
	packet := Packet{topicEveryone, e.encode()}
	var scratch []*Conn
	b.ReportAllocs()
	for b.Loop() {
		scratch = h.take(packet, nil, nil, scratch)
	}
	for _, c := range conns {
		h.index.remove(c) // or Shutdown would close them
	}
}

// A Conn that belongs to many groups, each with another Conn: what joining,
// leaving and going cost each, and for how long others wait for the index.
func BenchmarkManyGroups(b *testing.B) {
	conns := benchHub(b).users(b, 2)
	for _, n := range []int{1, 10, 100, 1_000, 50_000} {
		groups := make([]string, n)
		for i := range groups {
			groups[i] = fmt.Sprint("group ", i)
		}
		b.Run(fmt.Sprint("groups=", n), func(b *testing.B) {
			x := newIndex()
			x.add(conns[1], 0, 0)
			x.joinGroups(conns[1], groups, 0)
			stop, waited := make(chan struct{}), make(chan time.Duration)
			go func() {
				var worst time.Duration
				var found []*Conn
				for {
					select {
					case <-stop:
						waited <- worst
						return
					default:
					}
					begun := time.Now()
					found = x.appendConns(found[:0], topicEveryone)
					worst = max(worst, time.Since(begun))
					time.Sleep(100 * time.Microsecond)
				}
			}()
			for b.Loop() {
				x.add(conns[0], 0, 0)
				x.joinGroups(conns[0], groups, 0)
				x.remove(conns[0])
			}
			close(stop)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/group")
			b.ReportMetric(float64((<-waited).Microseconds()), "us-waited")
		})
	}
}
