package heraldclient_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// at once: what a test waits for is the client, not its backoff.
const atOnce = time.Microsecond

// A connection that ends at any byte loses nothing and repeats nothing.
func TestCutAnywhere(t *testing.T) {
	const ahead = 3 // messages behind where the client is
	finished := make(chan int, 1)
	url := serveTCP(t, func(cut int, c *raw) {
		at := c.offset(t)
		resumed := at >= 0
		at = max(at, 0)
		stream := c.upgrade() + greeting("c."+strconv.Itoa(cut), at, resumed)
		for n := at + 1; n <= at+ahead; n++ {
			stream += text("m 0.a.%d\n%d", n, n)
		}
		if cut >= len(stream) {
			finished <- at + ahead
			c.write(stream)
			c.ignore()
			return
		}
		c.write(stream[:cut])
		if tcp := c.Conn.(*net.TCPConn); cut%2 == 0 {
			tcp.SetLinger(0) // a reset, which may overtake what was written
		}
	})
	client := start(t, heraldclient.Config{URL: url, MinDelay: atOnce, MaxDelay: atOnce})
	got, last, connections := 0, -1, 0
	for got != last {
		switch e := next(t, client).(type) {
		case heraldclient.Message:
			if got++; string(e.Data) != strconv.Itoa(got) {
				t.Fatalf("message %q instead of %d", e.Data, got)
			}
		case heraldclient.Connected:
			connections++
			if !e.History || connections > 1 && !e.Resumed {
				t.Fatalf("connection %d: %+v", connections, e)
			}
		case heraldclient.Gap:
			t.Fatalf("told that something is missing behind message %d", got)
		}
		select {
		case last = <-finished:
		default:
		}
	}
	if connections < 20 {
		t.Errorf("%d connections came about", connections)
	}
}

// Whatever comes, the client neither hangs nor gives up, and a good server serves
// it.
func TestGarbage(t *testing.T) {
	const rounds = 200
	url := serveTCP(t, func(i int, c *raw) {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		if i%2 == 1 {
			c.write(c.upgrade(), greeting("good", 1, true), text("m\ngood %d", i), closing(1012, ""))
			c.ignore()
			return
		}
		good := []byte(c.upgrade() + greeting("c.1", i, false) + text("m 0.a.%d\nHello", i) + text("p 0.a.%d complete\n", i))
		head := len(c.upgrade())
		switch i / 2 % 4 {
		case 0: // from the start
			garbage(random, good)
		case 1: // behind the handshake
			garbage(random, good[head:])
		case 2: // a few bytes of it
			for range 3 {
				good[head+random.IntN(len(good)-head)] = byte(random.Uint32())
			}
		default: // a length that nobody has
			good = append(good[:head], 0x81, 127)
			good = binary.BigEndian.AppendUint64(good, random.Uint64())
		}
		c.write(string(good))
	})
	client := start(t, heraldclient.Config{URL: url, MinDelay: atOnce, MaxDelay: atOnce})
	for range rounds {
		for !strings.HasPrefix(string(await[heraldclient.Message](t, client).Data), "good ") {
		}
	}
}

func garbage(random *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(random.Uint32())
	}
}

// The client takes what comes in the order in which it comes, and a welcome only
// as the first.
func TestOutOfOrder(t *testing.T) {
	pong := string(wsraw.Frame{Fin: true, Opcode: wsraw.Pong, Unmasked: true}.Bytes())
	for _, test := range []struct {
		name   string
		frames []string
		want   []string
	}{
		{"a message before the welcome", []string{text("m 0.a.1\nHello"), greeting("c.1", 1, false)},
			[]string{"connected, history: false", "message m 0.a.1\nHello", "message " + greeting("c.1", 1, false)[2:]}},
		{"a pong before the welcome", []string{pong, greeting("c.1", 1, false), text("m 0.a.2\nHello")},
			[]string{"connected, history: false", "message " + greeting("c.1", 1, false)[2:], "message m 0.a.2\nHello"}},
		{"a ping before the welcome", []string{"\x89\x00", greeting("c.1", 1, false), text("m 0.a.2\nHello")},
			[]string{"connected, history: true", "message Hello"}},
		{"a welcome of another version", []string{text(`w {"herald":2,"conn":"c.1","positions":""}` + "\n"), text("m\nHello")},
			[]string{"connected, history: false", `message w {"herald":2,"conn":"c.1","positions":""}` + "\n", "message m\nHello"}},
		{"a binary welcome", []string{"\x82" + greeting("c.1", 1, false)[1:]},
			[]string{"connected, history: false", "message " + greeting("c.1", 1, false)[2:]}},
		{"in pieces", []string{"\x01\x02m ", "\x00\x04\nHel", "\x80\x02lo"},
			[]string{"connected, history: false", "message m \nHello"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := start(t, heraldclient.Config{URL: serveTCP(t, func(i int, c *raw) {
				c.write(c.upgrade(), strings.Join(test.frames, ""))
				c.ignore()
			})})
			for _, want := range test.want {
				if got := describe(next(t, client)); got != want {
					t.Fatalf("%q instead of %q", got, want)
				}
			}
		})
	}
}

// A message above the limit is told as missing, and the client is behind it.
func TestHuge(t *testing.T) {
	for _, test := range []struct {
		name string
		kept bool
		huge string
	}{
		{"in one frame", true, text("m 0.a.2\n%s", strings.Repeat("x", 3<<20))},
		{"in many", true, "\x01\x08m 0.a.2\n" + strings.Repeat("\x00\x04xxxx", 1<<15) + "\x80\x00"},
		{"not kept", false, text("m\n%s", strings.Repeat("x", 3<<20))},
		{"just too long", true, text("m 0.a.2\n%s", strings.Repeat("x", 1<<16-7))},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := start(t, heraldclient.Config{ReadLimit: 1 << 16, URL: serveTCP(t, func(i int, c *raw) {
				c.write(c.upgrade(), greeting("c.1", 1, false), test.huge, text("m\nand on"))
				c.ignore()
			})})
			next(t, client)
			if e, ok := next(t, client).(heraldclient.Gap); !ok {
				t.Fatalf("%T instead of a gap", e)
			}
			want(t, client, "and on")
			if at, behind := client.Position(), "0.a.2 c.1"; test.kept != (at == behind) {
				t.Errorf("it is at %q", at)
			}
		})
	}
	limit := strings.Repeat("x", 1<<16-8)
	client := start(t, heraldclient.Config{ReadLimit: 1 << 16, URL: serveTCP(t, func(i int, c *raw) {
		c.write(c.upgrade(), greeting("c.1", 1, false), text("m 0.a.2\n%s", limit))
		c.ignore()
	})})
	next(t, client)
	want(t, client, limit)
}

// A refusal is told with its status, and only 401 without an Endpoint is the end.
func TestRefused(t *testing.T) {
	for status, end := range map[int]bool{401: true, 403: false, 404: false, 408: false, 409: false, 410: false, 429: false, 500: false, 503: false} {
		client := start(t, heraldclient.Config{MinDelay: atOnce, MaxDelay: atOnce, URL: serveTCP(t, func(i int, c *raw) {
			if i == 0 {
				c.write("HTTP/1.1 " + strconv.Itoa(status) + " No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				return
			}
			c.write(c.upgrade(), text("in"))
			c.ignore()
		})})
		if end {
			if _, err := client.Receive(t.Context()); !errors.Is(err, heraldclient.ErrUnauthorized) {
				t.Errorf("%d: %v", status, err)
			}
			continue
		}
		var refused *heraldclient.CloseError
		if e := next(t, client).(heraldclient.Disconnected); !errors.As(e.Err, &refused) || refused.Code != 4000+status {
			t.Errorf("%d: %v", status, e.Err)
		}
		next(t, client)
		want(t, client, "in")
	}
}
