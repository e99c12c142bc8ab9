package receipttest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A counted connection counts its bytes in both directions.
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

// A countedBus counts the bytes that its node publishes.
type countedBus struct {
	*herald.MemoryBus
	bytes *atomic.Int64
}

func (b *countedBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	for _, p := range packets {
		b.bytes.Add(int64(len(p.Topic) + len(p.Data)))
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

// BenchmarkReceipt measures what a receipt costs beside a Send that all devices
// have got. It reports, for each device, the CPU time of both nodes and of the
// clients, the bytes on the client's connection and, if nothing is kept, those on
// the Bus. The clients acknowledge each message. Real ones do so once a second.
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
		for _, devices := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/%d", bench.name, devices), func(b *testing.B) {
				benchmarkReceipt(b, bench.keeps, bench.receipts, devices)
			})
		}
	}
}

func benchmarkReceipt(b *testing.B, keeps, receipts bool, devices int) {
	config, query := herald.Config{PingInterval: -1, MessageRate: -1}, "/?user=u"
	if keeps {
		config.Retention, query = time.Hour, query+"&herald=1"
	}
	var wire, bus atomic.Int64
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	nodes := startNodes(b, 2, false, config, func(c *herald.Config) {
		c.Bus, c.Registry = &countedBus{network.Bus(), &bus}, registry
	})
	arrived := make(chan struct{}, devices)
	var answering sync.WaitGroup
	defer answering.Wait()
	for range devices {
		conn, err := nodes[1].dial()
		if err != nil {
			b.Fatal(err)
		}
		ws, _, err := wsraw.Handshake(counted{conn, &wire}, query, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer ws.Close()
		answering.Go(func() { answer(ws, receipts, arrived) })
	}
	m, ctx := herald.Text(strings.Repeat("x", 128)), context.Background()
	send := func() {
		if !receipts {
			if err := nodes[0].Send(ctx, herald.User("u"), m); err != nil {
				b.Fatal(err)
			}
		} else if d := nodes[0].deliver(ctx, herald.User("u"), m); d.ReceivedTotal != devices {
			b.Fatalf("%+v", d)
		}
		for range devices {
			<-arrived
		}
	}
	send() // once before the loop, so that the clients are there
	wire.Store(0)
	bus.Store(0)
	began := servertest.OwnCPUTime(b)
	for b.Loop() {
		send()
	}
	received := float64(b.N * devices)
	b.ReportMetric(float64((servertest.OwnCPUTime(b)-began).Nanoseconds())/received, "cpu-ns/device")
	b.ReportMetric(float64(wire.Load())/received, "wire-B/device")
	if !keeps { // kept messages go another way
		b.ReportMetric(float64(bus.Load())/received, "bus-B/device")
	}
}

// answer reports each message that arrives, and answers it if receipts is set.
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
