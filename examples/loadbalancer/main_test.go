package main

import (
	"bytes"
	"context"
	"log"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// The proxy's pages may connect, others may not, and each client is known by its own
// address, whatever it claims. What is not below the prefix is not for the outside.
func TestProxies(t *testing.T) {
	for proxy := range proxies {
		t.Run(proxy, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, proxy, time.Minute)
			dial := func(host string, header http.Header) (*http.Response, error) {
				ws, response, err := websocket.Dial(t.Context(), "wss://"+s.addr+"/live/ws?user=a",
					&websocket.DialOptions{HTTPClient: s.web(), HTTPHeader: header, Host: host})
				if err == nil {
					t.Cleanup(func() { ws.CloseNow() })
				}
				return response, err
			}
			for _, own := range []struct {
				host   string
				header http.Header
			}{
				{"", http.Header{"Origin": {"https://" + s.addr}}},
				{"chat.example", http.Header{"Origin": {"https://chat.example"}}},
				{"", http.Header{"X-Forwarded-For": {"203.0.113.7"}}},
			} {
				if _, err := dial(own.host, own.header); err != nil {
					t.Fatalf("%v: %v", own, err)
				}
			}
			if response, err := dial("", http.Header{"Origin": {"https://evil.example"}}); response == nil || response.StatusCode != http.StatusForbidden {
				t.Errorf("a foreign page got %v, %v", response, err)
			}
			rdb := s.redis.Client()
			hub, err := herald.New(herald.Config{Redis: rdb})
			if err != nil {
				t.Fatal(err)
			}
			defer hub.Shutdown(t.Context())
			sessions, err := hub.Sessions(t.Context(), herald.User("a"))
			if err != nil || len(sessions) != 3 {
				t.Fatalf("%d sessions, %v", len(sessions), err)
			}
			for _, session := range sessions {
				if session.Meta["addr"] != "127.0.0.1" {
					t.Errorf("the client's address is %q", session.Meta["addr"])
				}
			}
			for path, want := range map[string]bool{"/live/": true, "/live/herald.min.js": true, "/healthz": false} {
				response, err := s.web().Get("https://" + s.addr + path)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if got := response.StatusCode == http.StatusOK; got != want {
					t.Errorf("%s: %s", path, response.Status)
				}
			}
		})
	}
}

// The address is what the last proxy says.
func TestClientAddr(t *testing.T) {
	for said, want := range map[string]string{
		"":                                  "",
		"192.0.2.1":                         "192.0.2.1",
		"203.0.113.7, 192.0.2.1":            "192.0.2.1",
		"203.0.113.7|203.0.113.8,192.0.2.1": "192.0.2.1",
	} {
		r := &http.Request{Header: http.Header{}}
		for _, line := range strings.Split(said, "|") {
			r.Header.Add("X-Forwarded-For", line)
		}
		if got := clientAddr(r); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

// A client that does not answer the close frame is cut. The node has done what it could,
// so its end is no failure.
func TestSilentClient(t *testing.T) {
	addr := servertest.FreeAddr(t)
	for name, value := range map[string]string{"ADDR": addr, "REDIS": redistest.Start(t).Addr, "GRACE": "2s"} {
		t.Setenv(name, value)
	}
	stop, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- serve(stop) }()
	for end := time.Now().Add(patience); get("http://"+addr+"/healthz") != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the node does not answer")
		}
	}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/live/ws?user=a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	var said bytes.Buffer
	log.SetOutput(&said)
	defer log.SetOutput(os.Stderr)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the node ends with %v", err)
	}
	if !strings.Contains(said.String(), "were cut") {
		t.Errorf("the log does not have the client: %q", said.String())
	}
}
