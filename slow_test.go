package herald

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/histogram"
	"github.com/heraldgo/herald/internal/receipts"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// numbered returns a message of n bytes that begins with its number.
func numbered(i, n int) Message {
	b := fmt.Appendf(nil, "%08d", i)
	return Text(string(append(b, bytes.Repeat([]byte{'x'}, n-len(b))...)))
}

// number returns the number of a message that numbered made, and an error if it is
// damaged.
func number(b []byte) (i int, err error) {
	if _, err := fmt.Sscanf(string(b[:min(len(b), 8)]), "%08d", &i); err != nil {
		return 0, err
	}
	if rest := b[8:]; !bytes.Equal(rest, bytes.Repeat([]byte{'x'}, len(rest))) {
		return 0, fmt.Errorf("message %d is torn: %.100q", i, b)
	}
	return i, nil
}

// newRigOver starts a Hub on a server over plain TCP or TLS.
func newRigOver(t *testing.T, secure bool, config Config) *rig {
	t.Helper()
	r := newPipeRig(t, config)
	r.server = httptest.NewUnstartedServer(r.Hub)
	r.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if secure {
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(r.server.Close)
	return r
}

// connectOver connects a client over plain TCP or TLS.
func (r *rig) connectOver(secure bool, query string) *wsraw.Conn {
	r.t.Helper()
	return r.upgrade(over(secure, r.dialTCP(0)), query)
}

// connectSmall connects a client whose receive buffer is small.
func (r *rig) connectSmall(secure bool, query string) *wsraw.Conn {
	r.t.Helper()
	return r.upgrade(over(secure, r.dialTCP(32<<10)), query)
}

func over(secure bool, c net.Conn) net.Conn {
	if secure {
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	return c
}

// narrow shrinks the send buffer that the kernel has for c.
func narrow(c *Conn) {
	conn := c.socket.conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.(*net.TCPConn).SetWriteBuffer(16 << 10)
}

// findUser waits for a Conn of the user, and returns it.
func (r *rig) findUser(user string) (found *Conn) {
	r.t.Helper()
	r.await("user "+user, func() bool {
		for c := range r.Conns() {
			if c.User() == user {
				found = c
			}
		}
		return found != nil
	})
	return found
}

// One of 500 clients stops reading. No other waits for it: each message reaches all
// of them before the next is sent. Its queue stays within its bounds until it is
// closed.
func TestStalledReaderAmong500(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "TCP", true: "TLS"}[secure], func(t *testing.T) {
			others, size := 499, 8<<10
			if secure { // handshakes are expensive
				others = 49
			}
			r := newRigOver(t, secure, Config{QueueMessages: 64, QueueBytes: 300 << 10, MaxSendSize: 256 << 10, WriteTimeout: patience, CloseTimeout: patience, PingInterval: -1})
			stalled := r.connectSmall(secure, "user=stalled")
			conn := r.findUser("stalled")
			narrow(conn)
			got := make(chan int, others)
			var reading sync.WaitGroup
			clients := make([]*wsraw.Conn, others)
			for i := range clients {
				c := r.connectOver(secure, fmt.Sprint("user=", i))
				clients[i] = c
				reading.Go(func() {
					for want := 0; ; want++ {
						b, err := c.ReadMessage()
						if err != nil {
							return
						}
						if n, err := number(b); err != nil || n != want {
							t.Errorf("client %d got message %d, want %d: %v", i, n, want, err)
						}
						got <- i
					}
				})
			}
			sent := 0
			for ; conn.ctx.Err() == nil && sent < 10_000; sent++ {
				if err := r.Send(t.Context(), Everyone(), numbered(sent, size)); err != nil {
					t.Fatal(err)
				}
				for range others {
					<-got // all others have message n before n+1 is sent
				}
				if q := queueOf(conn); q.size() > 64 || q.bytes > 300<<10 || len(q.rest) > flushSize {
					t.Fatalf("the queue has %d messages, %d bytes, %d taken", q.size(), q.bytes, len(q.rest))
				}
			}
			if cause := context.Cause(conn.ctx); closeCode(cause) != StatusTooSlow || !errors.Is(cause, ErrTooSlow) {
				t.Fatalf("cause %v after %d messages", cause, sent)
			}
			if q := queueOf(conn); q.frames.Len() > 0 {
				t.Errorf("%d frames are kept, %d are under way", q.frames.Len(), q.out)
			}
			s := r.Stats()
			if s.TooSlow != 1 || s.Dropped == 0 || s.Dropped > 65 {
				t.Errorf("too slow %d, dropped %d", s.TooSlow, s.Dropped)
			}
			// It reads again in time, and sees the frames that were being written,
			// then the reason.
			last := -1
			for {
				b, err := stalled.ReadMessage()
				if err != nil {
					var closed *wsraw.Closed
					if !errors.As(err, &closed) || closed.Code != uint16(StatusTooSlow) {
						t.Errorf("the stalled client saw %v", err)
					}
					break
				}
				n, err := number(b)
				if err != nil || n != last+1 {
					t.Fatalf("message %d after %d: %v", n, last, err)
				}
				last = n
			}
			if uint64(last+1)+s.Dropped != uint64(sent) {
				t.Errorf("%d seen and %d dropped of %d", last+1, s.Dropped, sent)
			}
			stalled.Close()
			for _, c := range clients {
				c.Close()
			}
			reading.Wait()
			r.clean()
			r.shutdown(patience)
		})
	}
}

// A stalled client that never reads again is cut after CloseTimeout, with a reset,
// so that the kernel frees its buffers.
func TestStalledForEver(t *testing.T) {
	r := newRig(t, Config{QueueMessages: 16, WriteTimeout: patience, CloseTimeout: 100 * time.Millisecond})
	c := r.connectSmall(false, "")
	conn := r.only()
	narrow(conn)
	r.await("a stuck socket", func() bool {
		q := queueOf(conn)
		if q.size() < 4 {
			conn.Send(numbered(0, 200<<10))
		}
		return q.blocked
	})
	for conn.Send(numbered(0, 200<<10)) == nil {
	}
	if err := conn.Send(Text("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after the close: %v", err)
	}
	if cause := r.ended(1)[0]; !errors.Is(cause, ErrTooSlow) {
		t.Errorf("cause %v", cause)
	}
	if _, err := io.Copy(io.Discard, c.Conn); err == nil {
		t.Error("the client saw a clean end")
	}
	// Two were dropped before they counted as delivered: one that did not fit, and
	// the late one.
	if s := r.Stats(); s.TooSlow != 1 || s.Delivered != s.Written+s.Dropped-2 {
		t.Errorf("%+v: what was delivered must be written or dropped", s)
	}
	r.clean()
}

// A client that reads nothing is closed when a write takes too long, even if its
// queue has room.
func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPipeRig(t, Config{WriteTimeout: 10 * time.Second})
		r.pipe("")
		conn := r.only()
		begun := time.Now()
		conn.Send(Text("hello"))
		if cause := r.ended(1)[0]; !errors.Is(cause, ErrTooSlow) {
			t.Errorf("cause %v", cause)
		}
		if took := time.Since(begun).Round(time.Second); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
		if s := r.Stats(); s.TooSlow != 1 || s.Dropped != 1 {
			t.Errorf("%+v", s)
		}
		r.clean()
	})
}

// With DropOldest a stalled client loses the oldest messages, and stays connected.
func TestDropOldest(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := newRigOver(t, secure, Config{QueueMessages: 50, QueueBytes: 200 << 10, MaxSendSize: 100 << 10, DropOldest: true, WriteTimeout: patience})
		c := r.connectSmall(secure, "")
		conn := r.only()
		narrow(conn)
		const sent = 1000
		for i := range sent {
			if err := conn.Send(numbered(i, 1000+i%20*1000)); err != nil {
				t.Fatal(err)
			}
			if q := queueOf(conn); q.size() > 50 || q.bytes > 200<<10 {
				t.Fatalf("%d messages, %d bytes", q.size(), q.bytes)
			}
		}
		s := r.Stats()
		seen, last := 0, -1
		for last != sent-1 {
			b, err := c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			n, err := number(b)
			if err != nil || n <= last {
				t.Fatalf("message %d after %d: %v", n, last, err)
			}
			seen, last = seen+1, n
		}
		if s.DroppedFull == 0 || s.DroppedFull != s.Dropped || seen+int(s.Dropped) != sent {
			t.Errorf("%d seen and %d dropped of %d", seen, s.Dropped, sent)
		}
		c.Close()
		r.ended(1)
		r.clean()
	}
}

// Volatile messages for a busy client are dropped and counted. They never close it,
// nor take the room of other messages.
func TestVolatile(t *testing.T) {
	r := newRig(t, Config{QueueMessages: 100, WriteTimeout: patience})
	c := r.connectSmall(false, "")
	conn := r.only()
	narrow(conn)
	if err := r.Send(t.Context(), User("u"), numbered(0, 100).Volatile()); err != nil {
		t.Fatal(err)
	}
	if b, err := c.ReadMessage(); err != nil || len(b) != 100 {
		t.Fatalf("an idle client got %q, %v", b, err)
	}
	const sent = 5000
	for i := range sent {
		if err := conn.Send(numbered(i, 8<<10).Volatile()); err != nil {
			t.Fatal(err)
		}
		if q := queueOf(conn); q.size() > 26 {
			t.Fatalf("%d volatile messages wait", q.size())
		}
	}
	s := r.Stats()
	if s.DroppedVolatile == 0 || s.Dropped != 0 || s.TooSlow != 0 || s.Delivered+s.DroppedVolatile != sent+1 {
		t.Errorf("%+v", s)
	}
	if err := conn.Send(numbered(sent, 100)); err != nil {
		t.Fatal(err)
	}
	for last, seen := -1, uint64(1); last != sent; seen++ {
		b, err := c.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		n, err := number(b)
		if err != nil || n <= last {
			t.Fatalf("message %d after %d: %v", n, last, err)
		}
		if last = n; last == sent && seen != s.Delivered {
			t.Errorf("%d seen, %d delivered", seen, s.Delivered)
		}
	}
	c.Close()
	r.ended(1)
	r.clean()
}

// A client that reads in bursts makes writer and drain take turns. Every frame is
// whole and in order, pings and pongs come between frames, and the close frame is
// the last.
func TestBurstyReader(t *testing.T) {
	for _, secure := range []bool{false, true} {
		pinged := make(chan struct{})
		r := newRigOver(t, secure, Config{QueueMessages: 1 << 20, QueueBytes: 1 << 30, WriteTimeout: patience, CloseTimeout: patience, MessageRate: -1, PingInterval: 10 * time.Millisecond, PongTimeout: patience,
			OnMessage: func(context.Context, *Conn, Message) { close(pinged) }})
		c := r.connectSmall(secure, "user=bursty")
		conn := r.only()
		narrow(conn)
		const senders, each = 4, 100
		var sending sync.WaitGroup
		for s := range senders {
			sending.Go(func() {
				for i := range each {
					size := []int{8, 125, 126, 1000, 40 << 10, 65536, 70 << 10}[i%7]
					if err := conn.Send(numbered(s*each+i, max(size, 8))); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		sending.Go(func() {
			for i := range 200 {
				c.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: fmt.Append(nil, i)})
			}
			c.WriteFrames(textFrame("pinged"))
		})
		var closing sync.WaitGroup
		closing.Go(func() {
			sending.Wait()
			<-pinged
			conn.Close(StatusNormal, "done")
		})
		next, pongs := [senders]int{}, 0
		for read := 0; ; read++ {
			if read%100 == 0 { // a burst ends when the server is stuck or has written everything
				r.await("a stuck writer", func() bool { q := queueOf(conn); return q.blocked || secure && q.out > 0 || q.size() == 0 })
			}
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Opcode == wsraw.Close {
				break
			}
			switch f.Opcode {
			case wsraw.Text:
				n, err := number(f.Payload)
				if err != nil {
					t.Fatal(err)
				}
				if s := n / each; next[s] != n%each {
					t.Fatalf("sender %d: message %d, want %d", s, n%each, next[s])
				} else {
					next[s]++
				}
			case wsraw.Pong:
				pongs++
			}
		}
		if next != [senders]int{each, each, each, each} || pongs == 0 {
			t.Errorf("got %v messages, %d pongs", next, pongs)
		}
		c.WriteFrames(wsraw.CloseFrame(1000, ""))
		if err := c.ReadEnd(); err != nil {
			t.Error(err)
		}
		closing.Wait()
		r.clean()
	}
}

// Beside its queue, a client that never reads keeps in memory only what its socket
// has not taken of one write.
func TestStalledTakesNoBuffer(t *testing.T) {
	const clients = 50
	r := newRig(t, Config{WriteTimeout: patience})
	for i := range clients {
		r.connectSmall(false, fmt.Sprint("user=", i))
	}
	r.await("all clients", func() bool { return r.Stats().Conns == clients })
	before := heapInUse()
	for c := range r.Conns() {
		narrow(c)
		for i := 0; !queueOf(c).blocked; i++ {
			c.Send(numbered(i, 30<<10)) // these two share a write, and so are copied
			c.Send(numbered(i, 30<<10))
			r.await("a write", func() bool { q := queueOf(c); return q.blocked || q.size() == 0 })
		}
	}
	per := (heapInUse() - before) / clients
	queued := r.Stats().QueuedBytes / clients
	t.Logf("%d bytes a client, %d of them in its queue", per, queued)
	if per > queued+flushSize/2 {
		t.Errorf("%d bytes a client, %d of them in its queue", per, queued)
	}
}

// The same holds over TLS, however small the messages that wait.
func TestStalledTakesNoBufferOfTLS(t *testing.T) {
	const clients = 20
	r := newRigOver(t, true, Config{WriteTimeout: patience})
	for i := range clients {
		r.connectSmall(true, fmt.Sprint("user=", i))
	}
	r.await("all clients", func() bool { return r.Stats().Conns == clients })
	before := heapInUse()
	for c := range r.Conns() {
		narrow(c)
		for stalled := false; !stalled; {
			for i := range 4 { // two or more of these share a write
				c.Send(numbered(i, 1<<10))
			}
			for tries := 0; !stalled; tries++ {
				if q := queueOf(c); q.size() == 0 {
					break
				}
				time.Sleep(time.Millisecond)
				stalled = tries > 100
			}
		}
	}
	per := (heapInUse() - before) / clients
	queued := r.Stats().QueuedBytes / clients
	t.Logf("%d bytes a client, %d of them in its queue", per, queued)
	if per > queued+flushSize/2 {
		t.Errorf("%d bytes a client, %d of them in its queue", per, queued)
	}
}

// A script returns numbers below n, from a random source or a fuzzer.
type script func(n int) int

// conflates does what next says to a queue and to a simple model of it, and
// compares them. Of each key only the newest message may wait, behind all messages
// that wait.
func conflates(t *testing.T, h *Hub, next script) {
	type entry struct {
		frame []byte
		key   conflate.Key // the zero Key means none
	}
	c := newBareConn(t, h)
	q, config := &c.queue, &h.config
	var waiting []entry
	out, outBytes := 0, 0
	bytesOf := func() (n int) {
		for _, e := range waiting {
			n += len(e.frame)
		}
		return n + outBytes
	}
	var delivered, conflated, full, volatiles uint64
	before := h.Stats()
	for step := range 60 {
		switch next(8) {
		case 0:
			if len(waiting) > 0 {
				q.takeFrame()
				out, outBytes, waiting = out+1, outBytes+len(waiting[0].frame), waiting[1:]
			}
		case 1:
			q.written()
			out, outBytes = 0, 0
		default:
			e := entry{frame: numbered(step, 8+next(3)*100).frame()}
			var key *conflate.Key
			if k := next(4); k > 0 {
				e.key = conflate.Key{Sum: conflate.Sum{byte(k)}, Log: uint8(next(2))}
				key = &e.key
			}
			volatile := next(4) == 0
			isFull := func() bool {
				return len(waiting)+out >= config.QueueMessages || bytesOf()+len(e.frame) > config.QueueBytes
			}
			before, newer := slices.Clone(waiting), false
			if key != nil {
				if i := slices.IndexFunc(waiting, func(w entry) bool { return w.key == e.key }); i >= 0 {
					waiting = slices.Delete(waiting, i, i+1)
					newer = true
				}
			}
			busy := len(waiting)+out > config.QueueMessages/4 || bytesOf() > config.QueueBytes/4
			if volatile && (busy && !newer || isFull()) {
				waiting = before // the message is dropped, so the older one stays
				volatiles++
			} else {
				if newer {
					conflated++
				}
				for isFull() && len(waiting) > 0 {
					waiting = waiting[1:]
					full++
				}
				if isFull() {
					full++
				} else {
					waiting = append(waiting, e)
					delivered++
				}
			}
			c.enqueue(e.frame, volatile, key)
		}
		if q.frames.Len() != len(waiting) || q.out != out || q.bytes != bytesOf() {
			t.Fatalf("step %d: %d wait, %d are under way, %d bytes; want %d, %d and %d", step, q.frames.Len(), q.out, q.bytes, len(waiting), out, bytesOf())
		}
		for i, w := range waiting {
			if !same(q.frames.At(i).frame, w.frame) {
				t.Fatalf("step %d: at %d is %.10q, want %.10q", step, i, q.frames.At(i).frame, w.frame)
			}
		}
	}
	if uint64(q.dropped) != full+volatiles {
		t.Errorf("%d messages of the Conn were dropped, want %d", q.dropped, full+volatiles)
	}
	s := h.Stats()
	if s.Delivered-before.Delivered != delivered || s.Conflated-before.Conflated != conflated || s.DroppedFull-before.DroppedFull != full || s.DroppedVolatile-before.DroppedVolatile != volatiles {
		t.Errorf("%d delivered, %d conflated, %d and %d dropped; Stats are %+v, and were %+v", delivered, conflated, full, volatiles, s, before)
	}
}

var conflateConfig = Config{DropOldest: true, QueueMessages: 8, QueueBytes: 1000, MaxSendSize: 900}

func TestQueueConflates(t *testing.T) {
	h := newHub(t, conflateConfig)
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		conflates(t, h, random.IntN)
	}
}

func FuzzConflate(f *testing.F) {
	h := newHub(f, conflateConfig)
	f.Add([]byte("abcdefgh"))
	f.Fuzz(func(t *testing.T, b []byte) {
		conflates(t, h, func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := b[0]
			b = b[1:]
			return int(v) % n
		})
	})
}

// A slow client gets only the newest message of each key, whichever node sent it,
// and all other messages, in order. A message that was replaced counts as not
// received.
func TestConflate(t *testing.T) {
	network, registry := NewMemoryNetwork(), NewMemoryRegistry()
	connected, release := make(chan *Conn, 1), make(chan struct{})
	r := newRig(t, Config{Bus: network.Bus(), Registry: registry, OnConnect: func(_ context.Context, c *Conn) error {
		connected <- c
		<-release // until then all messages wait
		return nil
	}})
	other := newHub(t, Config{Bus: network.Bus(), Registry: registry})
	client := r.connect("user=u&groups=g")
	c := <-connected
	queued := uint64(0)
	send := func(to Target, text, key string) {
		t.Helper()
		if err := other.Send(t.Context(), to, Text(text).Conflate(key)); err != nil {
			t.Fatal(err)
		}
		queued++
		r.await(text, func() bool { return r.Stats().Delivered == queued })
	}
	send(User("u"), "a 1", "a")
	send(User("u"), "b 1", "b")
	send(User("u"), "each 1", "")
	send(User("u"), "a 2", "a")
	send(User("u").Except("nobody.1"), "a 3", "a")
	send(Group("g"), "a of the group 1", "a")
	send(User("u"), "each 2", "")
	send(Connection(c.ID()), "a of the connection 1", "a")
	call := make(chan Delivery, 1)
	go func() {
		d, err := other.Deliver(t.Context(), User("u"), Text("a 4").Conflate("a"))
		if err != nil {
			t.Error(err)
		}
		call <- d
	}()
	queued++
	r.await("a 4", func() bool { return r.Stats().Delivered == queued })
	send(User("u"), "a 5", "a")
	if d := <-call; d.ReceivedTotal != 0 || len(d.Missed) != 1 {
		t.Errorf("a receipt for what gave up its place: %+v", d)
	}
	if err := c.Send(Text("a of the connection 2").Conflate("a")); err != nil {
		t.Fatal(err)
	}
	if s := r.Stats(); s.Conflated != 5 || s.Dropped != 0 || s.DroppedVolatile != 0 || c.Stats().Dropped != 0 {
		t.Errorf("%+v", s)
	}
	close(release)
	for _, want := range []string{"b 1", "each 1", "a of the group 1", "each 2", "a 5", "a of the connection 2"} {
		if got, err := client.ReadMessage(); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
}

// Fences, keys and meter each learn of every frame that is given up, even if they
// are the only ones that follow the queue.
func TestQueueTellsWhoTakesNote(t *testing.T) {
	config := Config{QueueMessages: 1, QueueBytes: 1000}
	for way, giveUp := range map[string]func(q *queue){
		"one more comes":        func(q *queue) { q.makeRoom(&config, 1) },
		"the oldest is dropped": func(q *queue) { q.drop(1) },
		"all are dropped":       func(q *queue) { q.clear() },
	} {
		f := receipts.AppendFence(Text("m").frame(), 1)
		end := &f[len(f)-1]

		var lost int
		q := queue{fences: receipts.NewFences(func(_ receipts.Wanted, received bool) {
			if !received {
				lost++
			}
		})}
		q.fences.Add(receipts.Wanted{Until: math.MaxInt64}, 1, end, 0)
		q.put(f)
		q.fences.Queued(end)
		if giveUp(&q); lost != 1 {
			t.Errorf("%s: %d fences are lost", way, lost)
		}

		q = queue{}
		q.put(f)
		q.remember(conflate.Key{}, f)
		giveUp(&q)
		if q.keys.Find(conflate.Key{}, 1, func(int) *byte { return &f[len(f)-1] }) >= 0 {
			t.Errorf("%s: its key is still known", way)
		}

		q = queue{}
		q.put(f)
		q.measure(clock.Now()-int64(time.Hour), nil)
		if giveUp(&q); q.meter.Age() != 0 {
			t.Errorf("%s: its time still counts: %v", way, q.meter.Age())
		}
	}
}

// If the frame of a fence is dropped, the fence is no longer open.
func TestQueueDropsFences(t *testing.T) {
	c := newBareConn(t, newHub(t, Config{}))
	q := &c.queue
	c.mu.Lock()
	q.fences = receipts.NewFences(c.settled)
	for n := range receipts.Token(3) {
		f := receipts.AppendFence(Text("m").frame(), n)
		end := &f[len(f)-1]
		q.fences.Add(receipts.Wanted{ID: uint64(n), Until: math.MaxInt64}, n, end, 0)
		q.put(f)
		q.fences.Queued(end)
	}
	q.drop(1)
	q.giveUp(2)
	empty := q.fences.Empty()
	c.mu.Unlock()
	if !empty {
		t.Error("fences are open whose frames are gone")
	}
}

// A fence may be answered or dropped as soon as it is in the queue.
func TestFenceIsOpenWhenQueued(t *testing.T) {
	r := newPipeRig(t, Config{PingInterval: -1})
	c := &Conn{hub: r.Hub}
	const fences = 10_000
	done := make(chan struct{})
	go func() { // this is both the writer and the client
		defer close(done)
		for answered := 0; answered < fences; {
			c.mu.Lock()
			p, _, _ := c.queue.take(nil)
			c.queue.written()
			c.mu.Unlock()
			if p == nil {
				runtime.Gosched()
				continue
			}
			if answered++; !c.receipt(p[len(p)-8:]) {
				t.Errorf("fence %d is answered, and not open", answered)
			}
		}
	}()
	for i := range fences {
		token := receipts.Token(i)
		c.enqueueFenced(receipts.AppendFence(Text("m").frame(), token), false, nil, receipts.Wanted{Until: math.MaxInt64}, token)
		for q := queueOf(c); q.size() > 0; q = queueOf(c) {
			runtime.Gosched()
		}
	}
	<-done
}

// A message's age is measured even if one behind it is replaced. An empty queue has
// no age.
func TestQueueMeasures(t *testing.T) {
	var q queue
	q.put(numbered(0, 8).frame())
	q.takeFrame()
	q.put(numbered(1, 8).frame())
	var told histogram.Histogram
	q.measure(clock.Now()-int64(time.Hour), &told)
	keyed := numbered(2, 8).frame()
	q.put(keyed)
	q.remember(conflate.Key{}, keyed)
	q.supersede(1)
	if age := q.oldest(); age < time.Hour {
		t.Errorf("the oldest has waited %v", age)
	}
	q.meter.Passed(1)
	if n := told.Counts().Sum; n != 0 {
		t.Errorf("after one that was before it, it is told that it took %v", n)
	}
	q.meter.Passed(1)
	if n := told.Counts().Sum; n < time.Hour {
		t.Errorf("it is told that it took %v", n)
	}
	if q.clear(); q.oldest() < time.Hour {
		t.Errorf("what is under way has waited %v", q.oldest())
	}
	if q.written(); q.oldest() != 0 {
		t.Errorf("in an empty queue the oldest has waited %v", q.oldest())
	}
}

// A volatile message that does not fit leaves the older one with its key in the
// queue, and closes no Conn. That holds even if the queue is over its bounds, as
// messages from a log may make it.
func TestVolatileNeverClosesAbove(t *testing.T) {
	h := newHub(t, Config{QueueMessages: 4})
	c := newBareConn(t, h)
	if err := c.enqueue(numbered(0, 8).frame(), false, new(conflate.Key)); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		c.queue.put(numbered(1+n, 8).frame())
	}
	if err := c.enqueue(numbered(9, 8).frame(), true, new(conflate.Key)); err != errDropped {
		t.Errorf("one more: %v", err)
	}
	if q := queueOf(c); c.isClosing() || q.size() != 6 || q.dropped != 1 {
		t.Errorf("closing %v, %d wait, %d are dropped", c.isClosing(), q.size(), q.dropped)
	}
}
