package herald

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/wsraw"
)

// heapInUse returns the bytes of the heap that are in use.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // sync.Pools give up their memory at the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What Authenticate cuts out of a long URL or header must not keep all of it
// for the life of the connection, and what it joins as a part of a long message
// must not keep that.
func TestRequestIsNotKept(t *testing.T) {
	const clients, pad = 50, 200 << 10
	fromRequest := func(r *http.Request) (Identity, error) {
		id, err := fromQuery(r)
		cookie, _, _ := strings.Cut(r.Header.Get("Cookie"), ";")
		r.RemoteAddr, _, _ = strings.Cut(r.Header.Get("X-Forwarded-For"), ",") // as a middleware may
		id.Meta = map[string]string{cookie: cookie}
		return id, err
	}
	for name, test := range map[string]struct {
		query  string
		header http.Header
		text   string
	}{
		"URL":         {"&device=d&platform=p&groups=a,b&pad=" + strings.Repeat("x", pad), nil, ""},
		"cookie":      {"", http.Header{"Cookie": {"id=1; " + strings.Repeat("x", pad)}}, ""},
		"address":     {"", http.Header{"X-Forwarded-For": {"192.0.2.1, " + strings.Repeat("x", pad)}}, ""},
		"subprotocol": {"", http.Header{"Sec-Websocket-Protocol": {"chat, " + strings.Repeat("x", pad)}}, ""},
		"group":       {"", nil, strings.Repeat("x", pad)},
	} {
		t.Run(name, func(t *testing.T) {
			joined := make(chan error, clients)
			r := newRig(t, Config{
				Authenticate:   fromRequest,
				Subprotocols:   []string{"chat"},
				MaxMessageSize: 1 << 20,
				OnMessage: func(ctx context.Context, c *Conn, m Message) {
					joined <- c.Join(ctx, m.String()[:8])
				},
			})
			r.connect("user=first").Close()
			r.ended(1)
			before := heapInUse()
			for i := range clients {
				ws, _, err := wsraw.Handshake(r.dialTCP(0), fmt.Sprint("/?user=u", i, test.query), test.header)
				if err != nil {
					t.Fatal(err)
				}
				if test.text == "" {
					continue
				}
				ws.WriteFrames(textFrame(fmt.Sprintf("%08d", i) + test.text))
				if err := <-joined; err != nil {
					t.Fatal(err)
				}
			}
			r.await("all clients", func() bool { return r.Stats().Conns == clients })
			// The last of net/http's buffers go when their goroutines end.
			kept := int64(0)
			r.await("little that is kept", func() bool {
				kept = (heapInUse() - before) / clients
				return kept < pad/4
			})
			t.Logf("%d bytes a connection", kept)
		})
	}
}
