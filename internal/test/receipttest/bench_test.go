package receipttest

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A counted connection counts the bytes of both directions.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// BenchmarkReceipt shows what a receipt costs: the CPU of both nodes and the client,
// and the bytes on the client's connection, beside a Send that the client has got.
// The client acknowledges each message, which real ones do once a second.
func BenchmarkReceipt(b *testing.B) {
	for _, bench := range []struct {
		name            string
		keeps, receipts bool
	}{
		{"none", false, false},
		{"pong", false, true},
		{"none kept", true, false},
		{"acknowledgement", true, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			config, query := herald.Config{PingInterval: -1, MessageRate: -1}, "/?user=u"
			if bench.keeps {
				config.Retention, query = time.Hour, query+"&herald=1"
			}
			nodes := startNodes(b, 2, false, config, nil)
			conn, err := nodes[1].dial()
			if err != nil {
				b.Fatal(err)
			}
			var bytes atomic.Int64
			ws, _, err := wsraw.Handshake(counted{conn, &bytes}, query, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer ws.Close()
			arrived := make(chan struct{}, 1)
			go answer(ws, bench.receipts, arrived)
			m, ctx := herald.Text(strings.Repeat("x", 128)), context.Background()
			send := func() {
				if err := nodes[0].Send(ctx, herald.User("u"), m); err != nil {
					b.Fatal(err)
				}
			}
			if bench.receipts {
				send = func() {
					if d := nodes[0].deliver(ctx, herald.User("u"), m); d.ReceivedTotal != 1 {
						b.Fatalf("%+v", d)
					}
				}
			}
			send() // and the client is there
			<-arrived
			bytes.Store(0)
			began := servertest.OwnCPUTime(b)
			for b.Loop() {
				send()
				<-arrived
			}
			b.ReportMetric(float64((servertest.OwnCPUTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(bytes.Load())/float64(b.N), "wire-B/op")
		})
	}
}

// answer tells of each message that arrives, and answers it if it is to.
func answer(ws *wsraw.Conn, receipts bool, arrived chan<- struct{}) {
	for {
		f, err := ws.ReadFrame()
		if err != nil {
			return
		}
		switch text := string(f.Payload); {
		case f.Opcode == wsraw.Ping:
			f.Opcode, f.Mask = wsraw.Pong, [4]byte{1, 2, 3, 4}
			ws.WriteFrames(f)
		case strings.HasSuffix(text, "xx"):
			if line, _, kept := strings.Cut(text, "\n"); kept && receipts {
				position := strings.TrimPrefix(line, "m ")
				ws.WriteFrames(wsraw.Frame{Fin: true, Opcode: wsraw.Text, Mask: [4]byte{1, 2, 3, 4}, Payload: []byte("@ " + position)})
			}
			arrived <- struct{}{}
		}
	}
}
