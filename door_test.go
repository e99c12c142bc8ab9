package herald

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// upgradeRequest returns a request for an upgrade, as it should be but for
// change.
func upgradeRequest(change func(r *http.Request)) *http.Request {
	r := httptest.NewRequest("GET", "http://test/?user=u", nil)
	for name, value := range map[string]string{
		"Connection": "keep-alive, Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(name, value)
	}
	if change != nil {
		change(r)
	}
	return r
}

// A subscribingBus counts the topics that it is to subscribe to.
type subscribingBus struct {
	*MemoryBus
	topics atomic.Int64
}

func (b *subscribingBus) Subscribe(ctx context.Context, topics ...string) error {
	b.topics.Add(int64(len(topics)))
	return b.MemoryBus.Subscribe(ctx, topics...)
}

// What is no handshake, or comes from another site's page, is refused before
// it costs an Authenticate or a subscription.
func TestBadRequestsCostNothing(t *testing.T) {
	const each = 100
	bus := &subscribingBus{MemoryBus: NewMemoryNetwork().Bus()}
	var authenticated atomic.Int64
	h := newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry(), Authenticate: func(r *http.Request) (Identity, error) {
		authenticated.Add(1)
		return fromQuery(r)
	}})
	own := bus.topics.Load()
	header := func(name string, values ...string) func(r *http.Request) {
		return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
	}
	tokens := strings.Repeat("x,", 500_000)
	for name, test := range map[string]struct {
		change func(r *http.Request)
		want   int
		header string // that the answer must have
	}{
		"no upgrade":             {header("Upgrade"), 426, "Upgrade"},
		"another upgrade":        {header("Upgrade", "h2c"), 426, "Upgrade"},
		"no connection":          {header("Connection"), 426, "Connection"},
		"HTTP/1.0":               {func(r *http.Request) { r.Proto, r.ProtoMinor = "HTTP/1.0", 0 }, 426, "Upgrade"},
		"another method":         {func(r *http.Request) { r.Method = "POST" }, 405, "Allow"},
		"old version":            {header("Sec-WebSocket-Version", "8"), 400, "Sec-WebSocket-Version"},
		"no key":                 {header("Sec-WebSocket-Key"), 400, ""},
		"short key":              {header("Sec-WebSocket-Key", "YQ=="), 400, ""},
		"key of no base64":       {header("Sec-WebSocket-Key", "!GhlIHNhbXBsZSBub25jZQ=="), 400, ""},
		"two keys":               {header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="), 400, ""},
		"another's origin":       {header("Origin", "https://evil.example"), 403, ""},
		"null origin":            {header("Origin", "null"), 403, ""},
		"two origins":            {header("Origin", "http://test", "https://evil.example"), 403, ""},
		"long Connection":        {header("Connection", tokens+"Upgrade"), 431, ""},
		"long Upgrade":           {header("Upgrade", tokens+"websocket"), 431, ""},
		"long subprotocols":      {header("Sec-WebSocket-Protocol", tokens), 431, ""},
		"many subprotocols":      {header("Sec-WebSocket-Protocol", make([]string, 10_000)...), 431, ""},
		"long extensions":        {header("Sec-WebSocket-Extensions", tokens), 431, ""},
		"long origin":            {header("Origin", "http://"+tokens), 431, ""},
		"extensions' parameters": {header("Sec-WebSocket-Extensions", strings.Repeat("x;", 4_000)), 431, ""},
		"long key":               {header("Sec-WebSocket-Key", tokens), 431, ""},
		"long version":           {header("Sec-WebSocket-Version", tokens), 431, ""},
		"http page on https":     {func(r *http.Request) { r.TLS = &tls.ConnectionState{}; r.Header.Set("Origin", "http://test") }, 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			authenticated.Store(0)
			before, rejected := bus.topics.Load(), h.Stats().Rejected
			for range each {
				_, server := tcpPair(t)
				w := httptest.NewRecorder()
				h.ServeHTTP(hijacker{w, server}, upgradeRequest(test.change))
				server.Close()
				if w.Code != test.want || test.header != "" && w.Header().Get(test.header) == "" {
					t.Fatalf("answered with %d and %v, want %d and a %q", w.Code, w.Header(), test.want, test.header)
				}
			}
			if n, s := authenticated.Load(), bus.topics.Load()-before; n > 0 || s > 0 {
				t.Errorf("%d requests cost %d Authenticates and %d topics, beside the node's %d", each, n, s, own)
			}
			if n := h.Stats().Rejected - rejected; n != each || h.Stats().BadRequests != h.Stats().Rejected {
				t.Errorf("Rejected counts %d of %d", n, each)
			}
		})
	}
}

// Whose page may connect, by the rule of Config.OriginPatterns.
func TestOriginRule(t *testing.T) {
	for _, test := range []struct {
		origin, host string
		tls          bool
		want         bool
	}{
		{"", "test", true, true}, // no browser
		{"http://test", "test", false, true},
		{"https://test", "test", false, true}, // behind a proxy that ends TLS
		{"https://TEST", "test", true, true},
		{"http://test", "test", true, false},
		{"https://test:8443", "test:8443", true, true},
		{"https://test:8443", "test", true, false},
		{"capacitor://test", "test", false, false},
		{"null", "test", false, false},
		{"https://test.evil", "test", false, false},
		{"https://user@test", "test", false, true},
		{"%", "test", false, false},
		{"http://a.example.com", "test", true, true}, // a pattern without a scheme
		{"https://good.example", "test", false, true},
		{"http://good.example", "test", false, false},
		{"capacitor://localhost", "test", true, true},
	} {
		r := upgradeRequest(func(r *http.Request) {
			r.Host = test.host
			r.Header.Set("Origin", test.origin)
			if test.tls {
				r.TLS = &tls.ConnectionState{}
			}
		})
		err := checkRequest(http.Header{}, r, []string{"*.example.com", "https://Good.example", "capacitor://localhost"})
		if (err == nil) != test.want {
			t.Errorf("%q on %q, TLS %v: %v", test.origin, test.host, test.tls, err)
		}
	}
}

// BenchmarkHeaders tells what a handshake's longest lists cost before they are
// refused, or are handed to the library.
func BenchmarkHeaders(b *testing.B) {
	for name, tokens := range map[string]int{"1 MB": 500_000, "the longest": maxHandshakeList - 1} {
		b.Run(name, func(b *testing.B) {
			h := newHub(b, Config{HandshakeRate: -1, Subprotocols: []string{"v1", "v2"}})
			list := strings.Repeat("x,", tokens)
			request := upgradeRequest(func(r *http.Request) {
				r.Header.Set("Connection", list+"Upgrade")
				r.Header.Set("Sec-WebSocket-Protocol", list)
				r.Header.Set("Sec-WebSocket-Extensions", list)
			})
			for b.Loop() {
				h.ServeHTTP(unwilling{httptest.NewRecorder()}, request)
			}
		})
	}
}

// An unwilling one is a hijacker only at first sight.
type unwilling struct{ http.ResponseWriter }

func (unwilling) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}
