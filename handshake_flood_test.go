package herald

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// knock makes a handshake from the address, and returns the status of the
// answer.
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

// What one address sends, right or wrong, leaves the others their share of
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

// Handshakes that Authenticate keeps waiting are bounded, on the node and for
// each address.
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

// A node that is full does not ask Authenticate.
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

// One account that comes and goes without end costs the cluster no more than
// its rate.
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

// Behind a proxy Config.ClientAddr says who stands there; IPv6 counts by its
// /64, for a client has all of it.
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

// The log says once that a proxy seems to stand before the node and that
// nothing tells it from its clients.
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

// It says so too if it is slow handshakes, and not many, that are refused.
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
