package demo

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// A page whose own name was made to lead here, after it was loaded, is of the
// same origin to its browser: only the Host tells it from a page of ours.
func TestReboundName(t *testing.T) {
	d := start(t, Options{Nodes: 2})
	ask := func(method, base, path, host string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		request.Header.Set("Origin", "http://"+host)
		request.Header.Set("Sec-Fetch-Site", "same-origin")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for _, base := range []string{d.door, d.nodes[0]} {
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(base, "http://"))
		for _, host := range []string{"evil.example", "evil.example:" + port, "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost", "1.2.3.4:" + port, "[::1", "localhost:x:y"} {
			for path, method := range map[string]string{"/": "GET", "/api/nodes": "GET", "/api/online?user=ann": "GET", "/api/nodes/n2/stop": "POST"} {
				if status, said := ask(method, base, path, host); status != http.StatusMisdirectedRequest || !strings.Contains(said, `must be localhost`) {
					t.Errorf("%s %s%s as %q: %d %q: want 421, in words", method, base, path, host, status, said)
				}
			}
			header := http.Header{"Origin": {"http://" + host}}
			_, response, err := websocket.Dial(t.Context(), base+"/ws?user=ann", &websocket.DialOptions{Host: host, HTTPHeader: header})
			if err == nil || response == nil || response.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("socket of %s as %q: %v: want status 421", base, host, err)
			}
		}
		for _, host := range []string{"localhost", "LOCALHOST:" + port, "127.0.0.1", "127.0.0.1:1", "[::1]:" + port, "[::1]"} {
			if status, said := ask("GET", base, "/api/nodes", host); status != 200 {
				t.Errorf("%s as %q: %d %q", base, host, status, said)
			}
		}
	}
	if status, said := ask("GET", d.door, "/api/nodes", "localhost"); status != 200 || strings.Contains(said, stateStopped) {
		t.Errorf("%d %s: want two running nodes", status, said)
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		addr    string
		yes, no []string
	}{
		{"127.0.0.1:8080", []string{"localhost:8080", "127.0.0.1:8080", "[::1]:8080", "localhost"}, []string{"", "chat.example:8080", "10.0.0.7:8080", "[fe80::1]:8080"}},
		{"10.0.0.7:8080", []string{"10.0.0.7:8080", "10.0.0.7", "localhost:8080"}, []string{"10.0.0.8:8080"}},
		{"chat.example:80", []string{"chat.example", "Chat.Example:80", "127.0.0.1"}, []string{"x.chat.example", "10.0.0.7"}},
		// No address can be rebound to another.
		{":8080", []string{"localhost:8080", "10.0.0.7:8080", "[2001:db8::1]:8080", "[2001:db8::1]"}, []string{"chat.example:8080", "10.0.0.7.chat.example", "10.0.0"}},
		{"0.0.0.0:8080", []string{"10.0.0.7:8080"}, []string{"chat.example:8080"}},
		{"[::]:8080", []string{"10.0.0.7:8080", "[2001:db8::1]:8080"}, []string{"chat.example:8080"}},
		{"[2001:db8::1]:8080", []string{"[2001:db8::1]:8080", "[2001:0db8::1]"}, []string{"[2001:db8::2]:8080"}},
	} {
		hosts := hostsOf(c.addr)
		for _, host := range c.yes {
			if !hosts.allow(host) {
				t.Errorf("-addr %s: %q is refused", c.addr, host)
			}
		}
		for _, host := range c.no {
			if hosts.allow(host) {
				t.Errorf("-addr %s: %q is allowed", c.addr, host)
			}
		}
	}
}
