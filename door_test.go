package herald

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// upgradeRequest returns a valid upgrade request, after change has modified it.
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

// A subscribingBus counts the topics that it is asked to subscribe to.
type subscribingBus struct {
	*MemoryBus
	topics atomic.Int64
}

func (b *subscribingBus) Subscribe(ctx context.Context, topics ...string) error {
	b.topics.Add(int64(len(topics)))
	return b.MemoryBus.Subscribe(ctx, topics...)
}

// A request that is no handshake, or comes from a page of another site, is refused
// before it costs an Authenticate or a subscription.
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
			if n := h.Stats().Rejected - rejected; n != each || h.Stats().BadRequests+h.Stats().Forbidden != h.Stats().Rejected {
				t.Errorf("Rejected counts %d of %d", n, each)
			}
		})
	}
}

// A page may connect if it is of the Hub's own host, or if OriginPatterns match it.
// A default port may be left out. The tests of internal/origin have all cases.
func TestOriginRule(t *testing.T) {
	h := newHub(t, Config{OriginPatterns: []string{"https://good.example:443", "[::1]:3000", "null"}})
	for _, test := range []struct {
		origin, host string
		tls          bool
		want         bool
	}{
		{"", "test", true, true}, // no browser
		{"https://test", "test", false, true},
		{"https://test", "test:443", false, true},
		{"http://test", "test", true, false},
		{"https://good.example", "test", false, true},
		{"http://good.example", "test", false, false},
		{"http://[::1]:3000", "test", true, true},
		{"null", "test", true, true},
		{"file://", "test", true, false},
	} {
		r := upgradeRequest(func(r *http.Request) {
			r.Host = test.host
			r.Header.Set("Origin", test.origin)
			if test.tls {
				r.TLS = &tls.ConnectionState{}
			}
		})
		if err := checkRequest(http.Header{}, r, h.door.origins); (err == nil) != test.want {
			t.Errorf("%q on %q, TLS %v: %v", test.origin, test.host, test.tls, err)
		}
	}
}

// BenchmarkHeaders measures what the longest lists in a handshake cost before they
// are refused or handed to the library.
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

// unwilling has the method of an http.Hijacker, which fails.
type unwilling struct{ http.ResponseWriter }

func (unwilling) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// knock sends a handshake from the address, and returns the status of the answer.
func (r *rig) knock(addr string, change func(r *http.Request)) int {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, upgradeRequest(func(r *http.Request) {
		r.RemoteAddr = addr
		if change != nil {
			change(r)
		}
	}))
	return w.Code
}

// Whatever one address sends, valid or not, the others keep their share of
// HandshakeRate.
func TestFloodOfOneAddress(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"no handshake":    func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") },
		"bad credentials": nil,
		"another site":    func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				r := newPipeRig(t, Config{Authenticate: func(*http.Request) (Identity, error) {
					asked.Add(1)
					return Identity{}, errors.New("no")
				}, HandshakeRatePerAddr: 1_000})
				statuses := make(map[int]int)
				for i := range 20_000 {
					statuses[r.knock(fmt.Sprintf("192.0.2.1:%d", i), change)]++
				}
				if asked.Load() > 1_000 {
					t.Errorf("one address had Authenticate asked %d times", asked.Load())
				}
				answered := 0
				for range 200 {
					if r.knock("198.51.100.1:1", nil) == http.StatusUnauthorized {
						answered++
					}
				}
				if answered != 200 {
					t.Errorf("after 20,000 requests of another address, answered with %v, %d of 200 logins were taken", statuses, answered)
				}
			})
		})
	}
}

// The number of handshakes that wait in Authenticate is bounded, on the node and
// for each address.
func TestSlowAuthenticate(t *testing.T) {
	const requests = 5_000
	for _, addrs := range []int{1, requests} {
		t.Run(fmt.Sprint(addrs, " addresses"), func(t *testing.T) {
			release := make(chan struct{})
			var asked atomic.Int64
			r := newPipeRig(t, Config{MaxConns: 100, MaxHandshakes: 1_000, HandshakeRatePerAddr: -1, HandshakeTimeout: patience, Authenticate: func(*http.Request) (Identity, error) {
				asked.Add(1)
				<-release
				return Identity{}, errors.New("no")
			}})
			var handshakes sync.WaitGroup
			var refused atomic.Int64
			for i := range requests {
				handshakes.Go(func() {
					if r.knock(fmt.Sprintf("10.%d.%d.1:1", i%addrs/256, i%addrs%256), nil) == http.StatusServiceUnavailable {
						refused.Add(1)
					}
				})
			}
			r.await("all that come", func() bool { return asked.Load()+refused.Load() == requests })
			want := min(addrs*500, 1_000)
			if n := asked.Load(); int(n) != want {
				t.Errorf("%d handshakes are under way, want %d", n, want)
			}
			if s := r.Stats(); s.Handshakes != want || s.Crowded+s.AddrLimited != requests-uint64(want) || (s.AddrLimited > 0) != (addrs == 1) {
				t.Errorf("Handshakes %d, Crowded %d, AddrLimited %d", s.Handshakes, s.Crowded, s.AddrLimited)
			}
			close(release)
			handshakes.Wait()
			if n := r.Stats().Handshakes; n != 0 {
				t.Errorf("after all, Handshakes is %d", n)
			}
		})
	}
}

// A full node refuses without calling Authenticate.
func TestFullNodeAsksNobody(t *testing.T) {
	var asked atomic.Int64
	r := newRig(t, Config{MaxConns: 1, Authenticate: func(r *http.Request) (Identity, error) {
		asked.Add(1)
		return fromQuery(r)
	}})
	ws := r.connect("")
	for range 100 {
		r.refusedWith(http.StatusServiceUnavailable, "")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("Authenticate was asked %d times for one place", n)
	}
	ws.Close()
	r.ended(1)
	r.clean()
}

// A node that is not ready answers with a plain 503, whatever RejectAfterUpgrade
// says, and does not call Authenticate.
func TestNotReadyIsPlain(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	var asked atomic.Int64
	r := newRig(t, Config{Bus: bus, Registry: NewMemoryRegistry(), RejectAfterUpgrade: true, Authenticate: func(*http.Request) (Identity, error) {
		asked.Add(1)
		return Identity{}, errors.New("no")
	}})
	bus.cutOff()
	r.await("a red Health", func() bool { return r.Health() != nil })
	r.refusedWith(http.StatusServiceUnavailable, "")
	bus.heal()
	r.await("a green Health", func() bool { return r.Health() == nil })
	if n := asked.Load(); n != 0 {
		t.Errorf("Authenticate was asked %d times", n)
	}
	r.clean()
}

// An account that connects and disconnects without end costs the cluster no more
// than its rate.
func TestOneAccountComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var online atomic.Int64
		r := newPipeRig(t, Config{OnOnline: func(string) { online.Add(1) }, OfflineDelay: -1, HandshakeRatePerUser: 10})
		statuses := make(map[int]int)
		come := func(user string) {
			ws, w, err := r.tryPipe(query(user))
			if err != nil {
				statuses[w.status]++
				return
			}
			statuses[http.StatusSwitchingProtocols]++
			ws.Close()
			synctest.Wait()
		}
		for range 1_000 {
			come("mallory")
		}
		if statuses[101] != 100 || statuses[429] != 900 {
			t.Errorf("1,000 connects of one account at once: %v; OnOnline %d times", statuses, online.Load())
		}
		if n := r.Stats().UserLimited; n != 900 {
			t.Errorf("UserLimited is %d", n)
		}
		come("alice")
		if statuses[101] != 101 {
			t.Error("another user was refused")
		}
		clear(statuses)
		time.Sleep(time.Second)
		for range 20 {
			come("mallory")
		}
		if statuses[101] != 10 {
			t.Errorf("a second later: %v", statuses)
		}
		r.clean()
	})
}

// Behind a proxy, Config.ClientAddr tells one client from another. IPv6 addresses
// count by their /64, because a client has all of it.
func TestClientAddr(t *testing.T) {
	for _, test := range []struct{ a, b string }{
		{"192.0.2.1:1", "192.0.2.1:2"},
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"[2001:db8::1]:1", "[2001:db8::ffff]:2"},
		{"2001:db8::1", "2001:db8:0:0:ffff::%eth0"},
		{"2001:db8::1", " 2001:db8::2"},
		{"2001:db8::1", "[2001:db8::3]"},
		{"unix", "unix"},
	} {
		d := newDoor(&Config{})
		if d.key(test.a) != d.key(test.b) {
			t.Errorf("%s and %s are two", test.a, test.b)
		}
	}
	for _, test := range []struct{ a, b string }{
		{"192.0.2.1:1", "192.0.2.2:1"}, {"[2001:db8::1]:1", "[2001:db8:0:1::1]:1"}, {"a", "b"},
	} {
		d := newDoor(&Config{})
		if d.key(test.a) == d.key(test.b) {
			t.Errorf("%s and %s are one", test.a, test.b)
		}
	}
	r := newPipeRig(t, Config{HandshakeRatePerAddr: 2, ClientAddr: func(r *http.Request) string {
		if r.Header.Get("X-Forwarded-For") == "panic" {
			panic("oops")
		}
		return r.Header.Get("X-Forwarded-For")
	}, Authenticate: func(*http.Request) (Identity, error) { return Identity{}, errors.New("no") }})
	var got []int
	for _, client := range []string{"203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2", "", "", "", "panic"} {
		got = append(got, r.knock("10.0.0.1:1", func(r *http.Request) { r.Header.Set("X-Forwarded-For", client) }))
	}
	if want := []int{401, 401, 429, 401, 401, 401, 429, 500}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if s := r.Stats(); s.AddrLimited != 2 || s.Panics != 1 {
		t.Errorf("AddrLimited %d, Panics %d", s.AddrLimited, s.Panics)
	}
}

// The log warns once if a proxy seems to stand before the node, and no ClientAddr
// tells its clients apart.
func TestProxyIsSuspected(t *testing.T) {
	for name, clientAddr := range map[string]func(*http.Request) string{"unset": nil, "set": func(*http.Request) string { return "a" }} {
		logger, log := newLog()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(), Logger: logger, HandshakeRatePerAddr: 1, ClientAddr: clientAddr})
		warned := 0
		for i := range 5 {
			r.knock("10.0.0.1:1", func(r *http.Request) {
				if i > 2 {
					r.Header.Set("X-Forwarded-For", "203.0.113.1")
				}
			})
		}
		for len(log) > 0 {
			if line := <-log; strings.Contains(line, "ClientAddr") && strings.Contains(line, "level=WARN") {
				warned++
			}
		}
		if want := map[string]int{"unset": 1, "set": 0}[name]; warned != want {
			t.Errorf("ClientAddr %s: warned %d times, want %d", name, warned, want)
		}
	}
}

// If a proxy that is not set up for WebSockets gets browsers refused, the log says
// once a minute what refuses them, and what to do.
func TestRefusalsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := newLog()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(), Logger: logger})
		for name, change := range map[string]func(r *http.Request){
			"$http_host":    func(r *http.Request) { r.Host = "upstream"; r.Header.Set("Origin", "https://chat.example") },
			"$http_upgrade": func(r *http.Request) { r.Header.Del("Upgrade") },
			"":              func(r *http.Request) { r.Header.Del("Upgrade"); r.Header.Del("Sec-WebSocket-Key") },
		} {
			var warned []string
			for range 3 {
				for range 10 {
					r.knock("10.0.0.1:1", change)
				}
				time.Sleep(time.Minute)
			}
			for len(log) > 0 {
				if line := <-log; strings.Contains(line, "level=WARN") {
					warned = append(warned, line)
				}
			}
			if name == "" {
				if len(warned) > 0 {
					t.Errorf("what is no handshake: %q", warned)
				}
			} else if len(warned) != 3 || !strings.Contains(warned[0], name) || !strings.Contains(warned[0], "refused=1 ") || !strings.Contains(warned[1], "refused=10 ") {
				t.Errorf("%s: warned with %q", name, warned)
			}
		}
	})
}

// The log warns of a proxy also if handshakes are refused because they are slow,
// not because they are many.
func TestProxyIsSuspectedOfSlowHandshakes(t *testing.T) {
	logger, log := newLog()
	release, asked := make(chan struct{}), make(chan struct{})
	r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: NewMemoryRegistry(), Logger: logger, MaxHandshakes: 2, Authenticate: func(*http.Request) (Identity, error) {
		close(asked)
		<-release
		return Identity{}, errors.New("no")
	}})
	forwarded := func(r *http.Request) { r.Header.Set("X-Forwarded-For", "203.0.113.1") }
	var slow sync.WaitGroup
	slow.Go(func() { r.knock("10.0.0.1:1", forwarded) })
	<-asked
	if status := r.knock("10.0.0.1:2", forwarded); status != http.StatusServiceUnavailable {
		t.Errorf("status %d", status)
	}
	close(release)
	slow.Wait()
	warned := false
	for len(log) > 0 {
		warned = strings.Contains(<-log, "ClientAddr") || warned
	}
	if !warned {
		t.Error("the log says nothing of a proxy")
	}
}

// A client may send ByteRate, and one message of MaxMessageSize at once. If it
// sends more, it is closed with the reason. Time stands still except in Sleep.
func TestByteRate(t *testing.T) {
	const rate, size = 100 << 10, 30 << 10
	message := wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, size)}.Bytes()
	large := wsraw.Frame{Fin: true, Opcode: wsraw.Binary, Payload: make([]byte, 500<<10)}.Bytes()
	pings := bytes.Repeat(wsraw.Frame{Fin: true, Opcode: wsraw.Ping, Payload: make([]byte, 100)}.Bytes(), 2000)
	for _, test := range []struct {
		name   string
		limits Config
		writes [][]byte
		every  time.Duration
		taken  uint64
		closed string
	}{
		{"flood", Config{}, bytesOf(message, 20), 0, 3, "more than 102400 bytes a second"},
		{"as fast as may be", Config{}, bytesOf(message, 100), 301 * time.Millisecond, 100, ""},
		{"a little faster", Config{}, bytesOf(message, 100), 250 * time.Millisecond, 14, "more than 102400 bytes a second"},
		{"the largest at once", Config{MaxMessageSize: 500 << 10}, [][]byte{large}, 0, 1, ""},
		{"the largest again and again", Config{MaxMessageSize: 500 << 10}, bytesOf(large, 5), 5010 * time.Millisecond, 5, ""},
		{"two of the largest", Config{MaxMessageSize: 500 << 10}, bytesOf(large, 2), 0, 1, "more than 102400 bytes a second"},
		{"a large one in pieces", Config{MaxMessageSize: -1}, pieces(large, 50<<10), 501 * time.Millisecond, 1, ""},
		{"pings", Config{}, [][]byte{pings}, 0, 0, "more than 102400 bytes a second"},
		{"off", Config{ByteRate: -1}, bytesOf(message, 100), 0, 100, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := test.limits
				config.MessageRate = -1
				if config.ByteRate == 0 {
					config.ByteRate = rate
				}
				config.OnMessage = func(context.Context, *Conn, Message) {}
				r := newPipeRig(t, config)
				c := r.pipe("")
				reason := make(chan string, 1)
				go func() { // the client does not answer, and its writes block until the server hangs up
					closed, err := c.ReadClose()
					if err != nil {
						closed = &wsraw.Closed{}
					}
					reason <- closed.Reason
				}()
				for _, b := range test.writes {
					c.Write(b)
					time.Sleep(test.every)
				}
				synctest.Wait()
				s := r.Stats()
				if s.MessagesReceived != test.taken || (s.TooFast == 1) != (test.closed != "") {
					t.Errorf("%d messages were taken, want %d; TooFast is %d", s.MessagesReceived, test.taken, s.TooFast)
				}
				c.Close()
				if got := <-reason; got != test.closed {
					t.Errorf("closed with %q, want %q", got, test.closed)
				}
				r.ended(1)
				r.clean()
			})
		})
	}
}

// Messages that a client sent at its rate while OnMessage took its time are no
// burst, although they have waited in the kernel and are read at once.
func TestByteRateAfterSlowCallback(t *testing.T) {
	const rate, size = 100 << 10, 10 << 10
	slow := true
	r := newRig(t, Config{ByteRate: rate, MessageRate: -1, PingInterval: -1, OnMessage: func(context.Context, *Conn, Message) {
		if slow {
			slow = false
			time.Sleep(300 * time.Millisecond)
		}
	}})
	ws := r.connect("")
	for range 12 { // a burst, and two more
		ws.WriteFrames(textFrame(strings.Repeat("x", size)))
	}
	r.await("all messages", func() bool { return r.Stats().MessagesReceived == 12 || r.Stats().TooFast > 0 })
	if n := r.Stats().TooFast; n != 0 {
		t.Error("the client was closed")
	}
}

func bytesOf(b []byte, n int) (all [][]byte) {
	for range n {
		all = append(all, b)
	}
	return all
}

func pieces(b []byte, n int) (all [][]byte) {
	for len(b) > 0 {
		all = append(all, b[:min(n, len(b))])
		b = b[min(n, len(b)):]
	}
	return all
}

// A client that sends too much to a room is closed, but not the members of the room
// that read more slowly.
func TestRoomOutlivesFastSender(t *testing.T) {
	var h *Hub
	r := newRig(t, Config{
		QueueBytes: 16 << 20, MaxSendSize: 100 << 10, WriteTimeout: patience, PingInterval: -1,
		OnMessage: func(ctx context.Context, _ *Conn, m Message) { h.Send(ctx, Group("room"), m) },
	})
	h = r.Hub
	for range 5 {
		r.connectSmall(false, "user=slow&groups=room") // it reads next to nothing
	}
	r.await("the room", func() bool { return r.Stats().Conns == 5 })
	for c := range r.Conns() {
		narrow(c)
	}
	sender := r.connect("user=sender")
	told := make(chan *wsraw.Closed)
	go func() {
		closed, _ := sender.ReadClose()
		told <- closed
	}()
	message := textFrame(strings.Repeat("x", 60<<10))
	for range 500 {
		if sender.WriteFrames(message) != nil {
			break
		}
	}
	if closed := <-told; closed == nil || closed.Code != uint16(StatusPolicyViolation) || closed.Reason != "more than 1048576 bytes a second" {
		t.Errorf("the sender saw %v", closed)
	}
	if s := r.Stats(); s.TooSlow != 0 || s.TooFast != 1 {
		t.Errorf("%d of the room were closed, TooFast is %d", s.TooSlow, s.TooFast)
	}
}
