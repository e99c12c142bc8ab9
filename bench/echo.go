package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
)

// The two servers of -echo.
const (
	echoHerald = "echo-herald"
	echoCoder  = "echo-coder"
)

var echoMakers = map[string]func(string) (server, error){
	echoHerald: newEchoHerald,
	echoCoder:  func(string) (server, error) { return echoServer{http.HandlerFunc(serveEchoCoder)}, nil },
}

// An echoServer sends back what it gets, and nothing else.
type echoServer struct{ http.Handler }

func (echoServer) toUser(context.Context, string, payload) error { return errors.ErrUnsupported }
func (echoServer) toEveryone(context.Context, payload) error     { return errors.ErrUnsupported }

// newEchoHerald is a Hub in memory, without the limits that a coder/websocket server
// has not.
func newEchoHerald(string) (server, error) {
	hub, err := herald.New(herald.Config{
		Authenticate:   func(*http.Request) (herald.Identity, error) { return herald.Identity{User: "echo"}, nil },
		OnMessage:      func(_ context.Context, c *herald.Conn, m herald.Message) { c.Send(m) },
		MaxMessageSize: maxEcho, MaxSendSize: maxEcho, QueueBytes: 4 * maxEcho, MaxQueuedBytes: -1,
		MessageRate: -1, ByteRate: -1, MaxConnsPerUser: -1, MaxHandshakes: -1, HandshakeRatePerAddr: -1, HandshakeRatePerUser: -1,
		Logger: slog.New(slog.DiscardHandler),
	})
	return echoServer{hub}, err
}

func serveEchoCoder(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(maxEcho)
	for {
		kind, data, err := c.Read(context.Background())
		if err != nil || c.Write(context.Background(), kind, data) != nil {
			return
		}
	}
}

const maxEcho = 16 << 20

// echoes are what -echo measures. The clients send a message, wait until it is back,
// and send the next.
var echoes = []struct {
	name     string
	size     int
	fragment int // bytes of each fragment; 0 is one frame
	count    int // messages a turn
}{
	{"64 KiB", 64 << 10, 0, 2000},
	{"4 KiB", 4 << 10, 0, 8000},
	{"empty", 0, 0, 16000},
	{"16 MiB", 16 << 20, 0, 12},
	{"64 KiB in fragments of 64 B", 64 << 10, 64, 1000},
}

const (
	echoClients = 4
	echoIdle    = 2000 // connections of the idle figures
)

// echo compares the CPU that herald and a coder/websocket server take to send back
// what they get. They take turns, for whatever else the machine does is to hit both.
func echo(rounds int, profiles string) error {
	nodes := make(map[string]*node)
	for _, kind := range []string{echoHerald, echoCoder} {
		n, err := startNode(kind, "", false)
		if err != nil {
			return err
		}
		defer n.stop()
		nodes[kind] = n
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "µs of CPU a message\therald\tcoder/websocket\tratio, median of %d pairs\tleast\tmost\t\n", rounds)
	for n, e := range echoes {
		if profiles != "" {
			c := command{Do: "profile", Path: filepath.Join(profiles, fmt.Sprintf("echo.%d.pprof", n))}
			if _, err := nodes[echoHerald].do(c); err != nil {
				return err
			}
		}
		message := clientMessage(e.size, e.fragment)
		cpu := make(map[string][]float64)
		var ratios []float64
		for i := range rounds + 1 {
			turns := []string{echoHerald, echoCoder}
			if i%2 == 1 {
				slices.Reverse(turns)
			}
			for _, kind := range turns {
				took, err := echoTurn(nodes[kind], message, e.size, e.count)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", kind, e.name, err)
				}
				if i > 0 { // the first warms both up
					cpu[kind] = append(cpu[kind], took.Seconds()*1e6/float64(e.count))
				}
			}
			if i > 0 {
				ratios = append(ratios, cpu[echoHerald][i-1]/cpu[echoCoder][i-1])
			}
		}
		slices.Sort(ratios)
		fmt.Fprintf(out, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t\n", e.name, middle(cpu[echoHerald]), middle(cpu[echoCoder]), middle(ratios), ratios[0], ratios[len(ratios)-1])
	}
	if _, err := nodes[echoHerald].do(command{Do: "profile"}); err != nil {
		return err
	}
	for _, kind := range []string{echoHerald, echoCoder} {
		if err := idle(out, nodes[kind], kind); err != nil {
			return fmt.Errorf("%s: idle: %w", kind, err)
		}
	}
	return out.Flush()
}

// echoTurn has the clients send count messages, and returns the server's CPU.
func echoTurn(n *node, message []byte, size, count int) (time.Duration, error) {
	conns, err := dialEcho(n.addr, echoClients)
	if err != nil {
		return 0, err
	}
	defer closeAll(conns)
	before, err := n.do(command{Do: "settle"})
	if err != nil {
		return 0, err
	}
	want := len(appendFrame(nil, make([]byte, size)))
	errs := make([]error, len(conns))
	var clients sync.WaitGroup
	for i, c := range conns {
		clients.Go(func() {
			b := make([]byte, want)
			var sending sync.WaitGroup
			for range count / len(conns) {
				sending.Go(func() { c.Write(message) }) // a server may answer before it has all
				_, err := io.ReadFull(c, b)
				sending.Wait()
				if errs[i] = err; err != nil {
					return
				}
			}
		})
	}
	clients.Wait()
	after, err := n.do(command{Do: "stats"})
	return after.CPU - before.CPU, errors.Join(append(errs, err)...)
}

func idle(out io.Writer, n *node, kind string) error {
	before, err := n.do(command{Do: "settle"})
	if err != nil {
		return err
	}
	conns, err := dialEcho(n.addr, echoIdle)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	after, err := n.do(command{Do: "settle"})
	fmt.Fprintf(out, "%s, idle connection: %.2f KB of heap and stacks\t%.2f KB resident\t%.2f goroutines\t\t\t\t\n", kind,
		float64(after.Memory-before.Memory)/echoIdle/1e3, float64(after.RSS-before.RSS)/echoIdle/1e3, float64(after.Goroutines-before.Goroutines)/echoIdle)
	return err
}

func dialEcho(addr string, n int) (conns []net.Conn, err error) {
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", addr)
		var head []byte
		for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one[0]) {
			if _, err := c.Read(one); err != nil {
				return conns, err
			}
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
			return conns, fmt.Errorf("refused: %q", head)
		}
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// clientMessage returns a binary message as a client sends it, in fragments.
func clientMessage(size, fragment int) (b []byte) {
	mask := []byte{0x12, 0x34, 0x56, 0x78}
	first := byte(opBinary)
	for left, n := size, 0; ; left -= n {
		n = min(left, cmp.Or(fragment, size))
		if n == left {
			first |= 0x80
		}
		header := appendFrame(nil, make([]byte, n))
		header = header[:len(header)-n]
		header[0] = first
		header[1] |= 0x80
		b = append(append(b, header...), mask...)
		for i := range n {
			b = append(b, byte(i)^mask[i%4])
		}
		if n == left {
			return b
		}
		first = 0
	}
}

func middle(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
