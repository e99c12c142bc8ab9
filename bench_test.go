package herald

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/rawio"
)

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
		scratch = h.take(packet, nil, scratch)
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
