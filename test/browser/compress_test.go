package browser

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// agreed is what a browser is told that both ends do.
const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

// A compressor is a Hub that compresses, and what its client sends.
type compressor struct {
	*herald.Hub
	conns chan *herald.Conn
	got   chan herald.Message
}

func newCompressor(t *testing.T, retention time.Duration) compressor {
	t.Helper()
	c := compressor{conns: make(chan *herald.Conn, 10), got: make(chan herald.Message, 100)}
	hub, err := herald.New(herald.Config{
		Compression: true, Retention: retention, MaxMessageSize: 1 << 20, ByteRate: -1, OriginPatterns: []string{"*"},
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			if offer := r.Header.Get("Sec-WebSocket-Extensions"); offer != wsraw.Offer {
				t.Errorf("the browser offers %q", offer)
			}
			return herald.Identity{User: "42"}, nil
		},
		OnConnect: func(_ context.Context, conn *herald.Conn) error {
			c.conns <- conn
			return nil
		},
		OnMessage: func(_ context.Context, _ *herald.Conn, m herald.Message) { c.got <- m },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, hub) })
	c.Hub = hub
	return c
}

// returns waits for a message that must be the one that was sent.
func (c compressor) returns(t *testing.T, what string, sent herald.Message) {
	t.Helper()
	select {
	case m := <-c.got:
		if m.IsText() != sent.IsText() || m.String() != sent.String() {
			t.Fatalf("%s of %d bytes comes back as %d bytes, text: %t", what, len(sent.Bytes()), len(m.Bytes()), m.IsText())
		}
	case <-time.After(patience):
		t.Fatalf("%s of %d bytes does not come back", what, len(sent.Bytes()))
	}
}

// What a browser gets and sends is compressed on the way, and not changed: short and long,
// text and bytes, whether it becomes shorter or not.
func TestCompression(t *testing.T) {
	hub := newCompressor(t, 0)
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><script>
			const ws = new WebSocket("ws://" + location.host + "/ws")
			ws.binaryType = "arraybuffer"
			ws.onmessage = (e) => ws.send(e.data)
		</script>`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p := open(t, browser(t), server.URL)
	p.until("ws.readyState === ws.OPEN")
	if got := p.text("ws.extensions"); got != agreed {
		t.Fatalf("the browser has agreed on %q", got)
	}
	conn := <-hub.conns
	noise := rand.NewChaCha8([32]byte{})
	for _, kind := range []struct {
		name    string
		make    func(n int) herald.Message
		shorter bool
	}{
		{"text", func(n int) herald.Message { return herald.Text(strings.Repeat("schön, ", n/8+1)[:n/8*8]) }, true},
		{"bytes", func(n int) herald.Message { return herald.Binary(make([]byte, n)) }, true},
		{"text in disorder", func(n int) herald.Message { return herald.Text(disorder(noise, n)) }, false},
		{"bytes in disorder", func(n int) herald.Message {
			b := make([]byte, n)
			noise.Read(b)
			return herald.Binary(b)
		}, false},
	} {
		for _, size := range []int{0, 1, 8, 511, 512, 4 << 10, 65_535, 65_536, 1 << 20} {
			m, before := kind.make(size), hub.Stats()
			for i, send := range []func() error{
				func() error { return hub.Send(t.Context(), herald.User("42"), m) },
				func() error { return conn.Send(m) },
			} {
				if err := send(); err != nil {
					t.Fatal(err)
				}
				hub.returns(t, fmt.Sprint(kind.name, " ", i), m)
			}
			after := hub.Stats()
			written, read := after.BytesWritten-before.BytesWritten, after.BytesReceived-before.BytesReceived
			if most := uint64(len(m.Bytes())); kind.shorter && size > 512 && (written > most || read > most) {
				t.Errorf("%s of %d bytes, twice: %d bytes were written, and %d read", kind.name, size, written, read)
			}
		}
	}
}

// disorder returns n bytes of text with few repetitions.
func disorder(source *rand.ChaCha8, n int) string {
	b := make([]byte, n)
	source.Read(b)
	for i := range b {
		b[i] = ' ' + b[i]%95
	}
	return string(b)
}

const compressedPage = `<!doctype html><script type="module">
	import { Herald } from "/client/js/herald.min.js"
	const sockets = (window.sockets = [])
	class Socket extends WebSocket {
		constructor(...args) { super(...args); sockets.push(this) }
	}
	const ws = (window.ws = new Herald("ws://%s/ws", { minDelay: 50, maxDelay: 200, timeout: 60000, queue: 100, WebSocket: Socket }))
	ws.binaryType = "arraybuffer"
	window.events = []
	for (const type of ["welcome", "gap", "close"]) ws["on" + type] = (e) => events.push(type + (e.resumed ?? ""))
	ws.onmessage = (e) => ws.send(e.data)
</script>`

// client/js compresses too, as the browser does it: what is new, and what its page sends,
// also after it has come back. What it missed comes as it was sent.
func TestCompressionResuming(t *testing.T) {
	hub := newCompressor(t, time.Minute)
	mux := files()
	mux.Handle("/ws", hub)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	proxy := netproxy.Start(t, server.Listener.Addr().String())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, compressedPage, proxy.Addr) })
	p := open(t, browser(t), server.URL)
	p.until(`window.events?.join() === "welcomefalse"`)

	number := 0
	pass := func(meanwhile func()) (written, read, sent uint64) {
		t.Helper()
		before := hub.Stats()
		var all []herald.Message
		for range 20 {
			number++
			text := fmt.Sprint(number, strings.Repeat(" a long message", 300))
			m := herald.Text(text)
			if number%2 == 0 {
				m = herald.Binary([]byte(text))
			}
			if err := hub.Send(t.Context(), herald.User("42"), m); err != nil {
				t.Fatal(err)
			}
			all, sent = append(all, m), sent+uint64(len(text))
		}
		meanwhile()
		for i, m := range all {
			hub.returns(t, fmt.Sprint("message ", number-len(all)+1+i), m)
		}
		after := hub.Stats()
		return after.BytesWritten - before.BytesWritten, after.BytesReceived - before.BytesReceived, sent
	}
	for round := range 3 {
		if written, read, sent := pass(func() {}); written > sent/2 || read > sent/2 {
			t.Errorf("round %d: %d bytes were sent, %d written, and %d read", round, sent, written, read)
		}
		conn := <-hub.conns
		proxy.Stall(true) // what is sent now does not arrive
		if _, read, sent := pass(func() {
			proxy.Cut()
			proxy.Stall(false)
		}); read > sent/2 {
			t.Errorf("round %d, coming back: %d bytes were sent, and %d read", round, sent, read)
		}
		<-conn.Done()
	}
	if got := p.text("events"); got != "welcomefalse,welcometrue,welcometrue,welcometrue" {
		t.Errorf("the page was told %s", got)
	}
	if got := p.text(fmt.Sprintf("sockets.filter((s) => s.extensions === %q).length", agreed)); got != p.text("sockets.length") || got == "1" {
		t.Errorf("%s of %s connections have agreed", got, p.text("sockets.length"))
	}
}
