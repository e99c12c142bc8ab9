package herald

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

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
				if err := c.enqueue(frame, false); err != nil {
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
