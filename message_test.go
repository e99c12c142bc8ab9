package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A recorder is a Tracer that notes its calls. It gives each Send the next TraceID,
// unless the context says that the Send is not sampled.
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

// take returns the notes, sorted, and forgets them.
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

// answerPings answers pings until the connection ends.
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

// A Tracer hears of each call and, on each node that has connections for them, of
// each delivery, whatever else the envelope carries.
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

// A trace is decoded as it was sent, and does not disturb the rest of an envelope.
// One of another length is skipped.
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

// The benchmarks measure what a message costs on its way through a node: go test
// -run '^$' -bench . Comparisons with others are in bench.

var payload = strings.Repeat("x", 128)

// benchHub returns a Hub in memory that logs nothing.
func benchHub(b *testing.B) *Hub {
	return newHub(b, Config{Logger: slog.New(slog.DiscardHandler)})
}

// users returns n Conns without a socket, each of another user.
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

// BenchmarkFlush measures how frames that wait share a system call.
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

// BenchmarkSend sends to a user that no node has, with several kinds of context.
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

// BenchmarkDropOldest queues messages for a client that does not read, with
// DropOldest.
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

// BenchmarkCopies measures sends to several groups while as many messages are
// remembered as may be.
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

// BenchmarkExcept measures a volatile message to everyone but its sender, for 5,000
// clients that are too busy for it.
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
		h.index.remove(c) // Shutdown would close those in the index
	}
}

// BenchmarkManyGroups has a Conn in many groups, each with another Conn. It
// measures what joining and going cost for each group, and for how long others wait
// for the index.
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

const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// deflating connects a client that offers compression, as a browser does.
func (r *rig) deflating(query string) *wsraw.Conn {
	r.t.Helper()
	ws, response, err := wsraw.Handshake(r.dialTCP(0), "/?"+query, http.Header{"Sec-Websocket-Extensions": {wsraw.Offer}})
	if err != nil {
		r.t.Fatal(err)
	}
	if got := response.Header.Values("Sec-WebSocket-Extensions"); len(got) != 1 || got[0] != agreed {
		r.t.Fatalf("agreed on %q", got)
	}
	ws.Compressed = true
	return ws
}

// packed returns a frame that a client has compressed.
func packed(opcode byte, payload string) wsraw.Frame {
	return wsraw.Frame{Fin: true, RSV: 4, Opcode: opcode, Payload: wsraw.Deflate([]byte(payload))}
}

// message reads the next message, and reports whether it was compressed.
func message(t *testing.T, c *wsraw.Conn) (text string, compressed bool) {
	t.Helper()
	f, err := c.ReadUntil(func(f wsraw.Frame) bool {
		if f.Opcode == wsraw.Ping {
			c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: f.Payload})
		}
		return f.Opcode != wsraw.Ping && f.Opcode != wsraw.Pong
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Opcode != wsraw.Text && f.Opcode != wsraw.Binary {
		t.Fatalf("opcode %d, %q", f.Opcode, f.Payload)
	}
	if f.RSV == 0 {
		return string(f.Payload), false
	}
	b, err := wsraw.Inflate(f.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), true
}

// Clients that have agreed on compression get long messages compressed, and the
// others get them plain, whichever way they are sent.
func TestCompression(t *testing.T) {
	conns := make(chan *Conn, 3)
	r := newRig(t, Config{Compression: true, OnConnect: func(_ context.Context, c *Conn) error { conns <- c; return nil }})
	first, plain, second := r.deflating("user=a"), r.connect("user=b"), r.deflating("user=c")
	r.await("three Conns", func() bool { n, _, _ := r.index.size(); return n == 3 && len(conns) == 3 })
	long, short := strings.Repeat("hello ", 200), "hello"
	expect := func(how, want string) {
		t.Helper()
		for i, c := range []*wsraw.Conn{first, plain, second} {
			got, compressed := message(t, c)
			if got != want || compressed != (c.Compressed && len(want) > 512) {
				t.Errorf("%s: client %d got %.20q of %d bytes, compressed: %t", how, i, got, len(got), compressed)
			}
		}
	}
	for _, text := range []string{long, short} {
		for _, m := range []Message{Text(text), Binary([]byte(text)), Text(text).Conflate("k"), Text(text).Volatile()} {
			if err := r.Send(t.Context(), Everyone(), m); err != nil {
				t.Fatal(err)
			}
			expect("Send", text)
		}
	}
	for c := range r.Conns() {
		if err := c.Send(Text(long)); err != nil {
			t.Fatal(err)
		}
	}
	expect("Conn.Send", long)
	for _, target := range []Target{Everyone(), User("a", "b", "c")} {
		done := make(chan Delivery)
		go func() {
			d, err := r.Deliver(t.Context(), target, Text(long))
			if err != nil {
				t.Error(err)
			}
			done <- d
		}()
		expect("Deliver", long)
		for _, c := range []*wsraw.Conn{first, plain, second} {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Payload: f.Payload})
		}
		if d := <-done; d.ReceivedTotal != 3 || d.MissedTotal != 0 {
			t.Errorf("received by %d, missed by %d", d.ReceivedTotal, d.MissedTotal)
		}
	}
}

// Compression is agreed on only if the service wants it and the client offers
// something acceptable.
func TestCompressionIsAgreed(t *testing.T) {
	on, off := newRig(t, Config{Compression: true}), newRig(t, Config{})
	for _, test := range []struct {
		r     *rig
		offer []string
		want  string
	}{
		{off, []string{"permessage-deflate"}, ""},
		{on, nil, ""},
		{on, []string{"permessage-deflate; server_max_window_bits=10"}, ""},
		{on, []string{"permessage-deflate; server_max_window_bits=10", "permessage-deflate"}, agreed},
		{on, []string{"x, permessage-deflate; server_max_window_bits=15"}, agreed + "; server_max_window_bits=15"},
	} {
		ws, response, err := wsraw.Handshake(test.r.dialTCP(0), "/", http.Header{"Sec-Websocket-Extensions": test.offer})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(response.Header["Sec-Websocket-Extensions"], ","); got != test.want {
			t.Errorf("%q is answered with %q, want %q", test.offer, got, test.want)
		}
		test.r.await("the Conn", func() bool { n, _, _ := test.r.index.size(); return n == 1 })
		if err := test.r.Send(t.Context(), Everyone(), Text(strings.Repeat("a", 1000))); err != nil {
			t.Fatal(err)
		}
		ws.Compressed = test.want != ""
		if _, compressed := message(t, ws); compressed != ws.Compressed {
			t.Errorf("%q: compressed: %t", test.offer, compressed)
		}
		ws.Close()
		test.r.await("the end", func() bool { n, _, _ := test.r.index.size(); return n == 0 })
	}
	if _, err := New(Config{Compression: true, MaxMessageSize: -1}); err == nil || !strings.Contains(err.Error(), "MaxMessageSize") {
		t.Errorf("no bound of what is inflated: %v", err)
	}
}

// OnMessage gets a compressed message like any other, also if the Conn is parked,
// if control frames come between its fragments, and if it is read ahead.
func TestCompressedMessages(t *testing.T) {
	got, held := make(chan string, 100), make(chan struct{})
	r := newRig(t, Config{Compression: true, MaxMessageSize: 100_000, PingInterval: 20 * time.Millisecond, PongTimeout: patience, OnMessage: func(_ context.Context, _ *Conn, m Message) {
		got <- fmt.Sprint(m.IsText(), " ", m.String())
		if m.String() == "hold" {
			<-held
		}
	}})
	c := r.deflating("")
	expect := func(opcode byte, want string) {
		t.Helper()
		if m := <-got; m != fmt.Sprint(opcode == wsraw.Text, " ", want) {
			t.Fatalf("got %.30q of %d bytes, want %.20q of %d", m, len(m), want, len(want))
		}
	}
	texts := []string{"", "hello", strings.Repeat("hé", 20_000), strings.Repeat("x", 100_000)}
	for _, opcode := range []byte{wsraw.Text, wsraw.Binary} {
		for _, text := range texts {
			c.WriteFrames(packed(opcode, text))
			expect(opcode, text)
			whole := packed(opcode, text)
			first, last := whole, wsraw.Frame{Fin: true, Opcode: wsraw.Continuation}
			first.Fin, first.Payload, last.Payload = false, whole.Payload[:len(whole.Payload)/2], whole.Payload[len(whole.Payload)/2:]
			ping := wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: []byte("p")}
			c.WriteFrames(first, ping, wsraw.Frame{Opcode: wsraw.Continuation}, last, wsraw.Frame{Fin: true, Opcode: opcode, Payload: []byte("plain")})
			expect(opcode, text)
			expect(opcode, "plain")
		}
	}
	// While OnMessage runs, messages are read ahead and wait.
	c.WriteFrames(packed(wsraw.Text, "hold"))
	expect(wsraw.Text, "hold")
	for _, text := range texts {
		c.WriteFrames(packed(wsraw.Text, text), packed(wsraw.Binary, text))
	}
	conn := r.only()
	r.await("reading ahead", func() bool {
		conn.tick(conn.socket.unread.Load()+int64(time.Hour), 0, true)
		return conn.socket.lastRead.Load() > conn.socket.unread.Load()
	})
	close(held)
	for _, text := range texts {
		expect(wsraw.Text, text)
		expect(wsraw.Binary, text)
	}
}

// If compressed messages are dropped for a client that can come back, a Gap stands
// in their place. Protocol lines are not dropped.
func TestCompressedMessagesDropped(t *testing.T) {
	r := newPipeRig(t, Config{Compression: true, Retention: time.Minute, DropOldest: true, QueueMessages: 16, WriteTimeout: patience})
	ws, _, err := r.tryPipeRequest(upgradeRequest(func(r *http.Request) {
		r.URL.RawQuery = "user=a&herald=1"
		r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
	}))
	if err != nil {
		t.Fatal(err)
	}
	ws.Compressed = true
	for sent := 0; r.Stats().DroppedFull < 20; sent++ {
		if err := r.Send(t.Context(), User("a"), Text(fmt.Sprintf("%06d %s", sent, strings.Repeat("a", 600)))); err != nil {
			t.Fatal(err)
		}
	}
	gaps, packed, last := 0, 0, -1
	for {
		whole, compressed := message(t, ws)
		if compressed {
			packed++
		}
		line, text, _ := strings.Cut(whole, "\n")
		switch {
		case line[0] == 'g':
			gaps++
			// This message is dropped too, and makes another Gap, if frames being
			// written fill the queue.
			if err := r.Send(t.Context(), User("a"), Text("the end")); err != nil {
				t.Fatal(err)
			}
		case text == "the end":
			if gaps == 0 || packed == 0 {
				t.Errorf("%d Gaps, and %d messages compressed", gaps, packed)
			}
			return
		case line[0] == 'm':
			number, err := strconv.Atoi(text[:6])
			if err != nil || number <= last || number > last+1 && gaps == 0 {
				t.Fatalf("message %d after %d, and %d Gaps: %v", number, last, gaps, err)
			}
			last = number
		}
	}
}

// A protocol line for the log may come compressed, as browsers send it. It is
// answered even while OnMessage runs.
func TestCompressedWords(t *testing.T) {
	got, held := make(chan string, 10), make(chan struct{})
	r := newRig(t, Config{Compression: true, Retention: time.Minute, OnMessage: func(_ context.Context, _ *Conn, m Message) {
		if got <- m.String(); m.String() == "hold" {
			<-held
		}
	}})
	c := r.deflating("user=a&herald=1")
	ask := func(n int) {
		t.Helper()
		c.WriteFrames(packed(wsraw.Text, fmt.Sprint("@?", n)))
		for want := fmt.Sprintf("! %d\n", n); ; {
			if line, _ := message(t, c); line == want {
				return
			} else if line[0] == '!' {
				t.Fatalf("got %q, want %q", line, want)
			}
		}
	}
	ask(1)
	c.WriteFrames(packed(wsraw.Text, "hold"))
	<-got
	ask(2)
	c.WriteFrames(packed(wsraw.Text, "@@at"))
	ask(3)
	close(held)
	if m := <-got; m != "@at" {
		t.Errorf("got %q", m)
	}
	ask(4)
	c.WriteFrames(packed(wsraw.Text, "@nonsense"))
	if closed, err := c.ReadClose(); err != nil || closed.Code != 1008 {
		t.Errorf("got %v, %v", closed, err)
	}
}

// hostileDeflate lists what clients may send that have agreed on compression and
// then break a rule of it or a limit.
var hostileDeflate = []struct {
	name   string
	frames []wsraw.Frame
	code   StatusCode
}{
	{"RSV1 of a continuation", []wsraw.Frame{{Opcode: wsraw.Text, RSV: 4}, {Fin: true, RSV: 4}}, 1002},
	{"RSV1 of a continuation alone", []wsraw.Frame{{Opcode: wsraw.Text}, {Fin: true, RSV: 4}}, 1002},
	{"RSV1 of a ping", []wsraw.Frame{{Fin: true, RSV: 4, Opcode: wsraw.Ping}}, 1002},
	{"RSV1 of a close frame", []wsraw.Frame{{Fin: true, RSV: 4, Opcode: wsraw.Close}}, 1002},
	{"RSV1 and RSV2", []wsraw.Frame{{Fin: true, RSV: 6, Opcode: wsraw.Text}}, 1002},
	{"a byte too much", []wsraw.Frame{packed(wsraw.Binary, strings.Repeat("a", 1001))}, 1009},
	{"a bomb", []wsraw.Frame{packed(wsraw.Binary, strings.Repeat("a", 1<<20))}, 1009},
	{"compressed and too much", []wsraw.Frame{{Opcode: wsraw.Binary, RSV: 4, Payload: make([]byte, 1000)}, {Payload: make([]byte, 1000)}}, 1009},
	{"not compressed", []wsraw.Frame{{Fin: true, RSV: 4, Opcode: wsraw.Text, Payload: []byte("hello")}}, 1007},
	{"cut", []wsraw.Frame{{Fin: true, RSV: 4, Opcode: wsraw.Text, Payload: packed(wsraw.Text, strings.Repeat("hello", 100)).Payload[:8]}}, 1007},
	{"not UTF-8", []wsraw.Frame{packed(wsraw.Text, "a\xffb")}, 1007},
	{"a reference to the message before", []wsraw.Frame{{Fin: true, RSV: 4, Opcode: wsraw.Text, Payload: []byte("\xf2\x00\x11\x00\x00")}}, 1007},
}

func TestHostileCompression(t *testing.T) {
	for _, test := range hostileDeflate {
		t.Run(test.name, func(t *testing.T) {
			got := make(chan string, 10)
			r := newRig(t, Config{Compression: true, MaxMessageSize: 1000, CloseTimeout: patience, OnMessage: func(_ context.Context, _ *Conn, m Message) { got <- m.String() }})
			for _, before := range []bool{true, false} {
				c := r.deflating("")
				if before {
					c.WriteFrames(packed(wsraw.Text, "before"))
				}
				c.WriteFrames(append(test.frames, packed(wsraw.Text, "after"))...)
				if closed, err := c.ReadClose(); err != nil || closed.Code != uint16(test.code) {
					t.Errorf("got %v, %v, want %d", closed, err, test.code)
				}
				c.WriteFrames(wsraw.CloseFrame(uint16(test.code), ""))
				if err := c.ReadEnd(); err != nil {
					t.Error(err)
				}
				c.Close()
			}
			for _, cause := range r.ended(2) {
				if closeCode(cause) != test.code {
					t.Errorf("cause %v, want %d", cause, test.code)
				}
			}
			r.clean()
			close(got)
			if m := <-got; m != "before" {
				t.Errorf("OnMessage got %q", m)
			}
			if m, more := <-got; more {
				t.Errorf("and then %q", m)
			}
		})
	}
}

// A message that is read ahead and turns out to be broken ends the connection when
// its turn comes. The messages before it are delivered, and those after it are not.
func TestBrokenMessageReadAhead(t *testing.T) {
	for _, size := range []int{10, 2000} { // the smaller one is inflated at once, the larger one when its turn comes
		got, held := make(chan string, 10), make(chan struct{})
		r := newRig(t, Config{Compression: true, PongTimeout: patience, OnMessage: func(_ context.Context, _ *Conn, m Message) {
			got <- m.String()
			if m.String() == "hold" {
				<-held
			}
		}})
		c := r.deflating("")
		c.WriteFrames(packed(wsraw.Text, "hold"))
		<-got
		broken := wsraw.Frame{Fin: true, RSV: 4, Opcode: wsraw.Text, Payload: bytes.Repeat([]byte{6}, size)}
		c.WriteFrames(packed(wsraw.Text, "before"), broken, packed(wsraw.Text, "after"), wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("after")})
		conn := r.only()
		r.await("reading ahead", func() bool {
			conn.tick(conn.socket.unread.Load()+int64(time.Hour), 0, true)
			return conn.socket.lastRead.Load() > conn.socket.unread.Load()
		})
		close(held)
		if m := <-got; m != "before" {
			t.Errorf("got %q", m)
		}
		if closed, err := c.ReadClose(); err != nil || closed.Code != 1007 {
			t.Errorf("got %v, %v", closed, err)
		}
		c.Close()
		r.ended(1)
		r.clean()
		if len(got) > 0 {
			t.Errorf("and then %q", <-got)
		}
	}
}

// If a Conn is being closed, its client's messages are not inflated, but the close
// frame behind them is read.
func TestCompressedWhileClosing(t *testing.T) {
	r := newRig(t, Config{Compression: true, CloseTimeout: patience})
	c := r.deflating("")
	r.only().Close(StatusNormal, "")
	c.WriteFrames(packed(wsraw.Text, strings.Repeat("a", 1<<20)), wsraw.Frame{Fin: true, RSV: 4, Opcode: wsraw.Text, Payload: []byte{6}}, wsraw.CloseFrame(1000, ""))
	if closed, err := c.ReadClose(); err != nil || closed.Code != 1000 {
		t.Errorf("got %v, %v", closed, err)
	}
	if err := c.ReadEnd(); err != nil {
		t.Error(err)
	}
}

// A client's message that is sent on twice, with two keys, is two messages.
func TestConflateSentOnTwice(t *testing.T) {
	r := newRig(t, Config{OnMessage: func(_ context.Context, c *Conn, m Message) {
		c.mu.Lock()
		c.queue.owner = ownerDrain // nobody writes
		c.mu.Unlock()
		for _, m := range []Message{m.Conflate("a"), m.Conflate("b"), Text("b2").Conflate("b"), Text("b3").Conflate("b")} {
			c.Send(m)
		}
		c.mu.Lock()
		c.queue.owner = ownerNone
		start := c.claim()
		c.mu.Unlock()
		c.start(start)
	}})
	ws := r.connect("user=a")
	ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("a1")})
	for _, want := range []string{"a1", "b3"} {
		if got, err := ws.ReadMessage(); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}
