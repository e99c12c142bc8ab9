package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// patience is how long the test waits for what must come.
const patience = 30 * time.Second

// A browser keeps cookies.
type browser struct {
	*http.Client
	t *testing.T
}

func newBrowser(t *testing.T) browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return browser{&http.Client{Jar: jar}, t}
}

// get returns the status and the body.
func (b browser) get(page string) (int, string) {
	b.t.Helper()
	response, err := b.Get(page)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// post returns the status.
func (b browser) post(page, name, value string) int {
	b.t.Helper()
	response, err := b.PostForm(page, url.Values{name: {value}})
	if err != nil {
		b.t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// expect awaits a message of the text, and no Gap before it.
func expect(ctx context.Context, t *testing.T, client *heraldclient.Client, text string) {
	t.Helper()
	for {
		event, err := client.Receive(ctx)
		if err != nil {
			t.Fatalf("no %q: %v", text, err)
		}
		switch e := event.(type) {
		case heraldclient.Gap:
			t.Fatalf("a gap before %q: %+v", text, e)
		case heraldclient.Message:
			var m Message
			if err := json.Unmarshal(e.Data, &m); err != nil || m.Text != text {
				t.Fatalf("%s, %v: want %q", e.Data, err, text)
			}
			return
		}
	}
}

// Two nodes share logins and messages. Who is logged in misses nothing while a node is
// away, whose login has ended is told so, and a Redis that is away logs nobody out.
func TestService(t *testing.T) {
	store := redistest.Start(t)
	program := filepath.Join(t.TempDir(), "room")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var nodes []*servertest.Server
	for range 2 {
		addr := servertest.FreeAddr(t)
		nodes = append(nodes, servertest.Start(t, servertest.Command{
			Program: program, Env: []string{"ADDR=" + addr, "REDIS=" + store.Addr}, Addr: addr,
			Ready: func() error { return servertest.Dial(addr) }, Patience: patience,
		}))
	}
	if log := nodes[0].Log(); !strings.Contains(log, "serving http://"+nodes[0].Addr) {
		t.Errorf("it does not say where it is: %q", log)
	}
	on := func(node int, path string) string { return "http://" + nodes[node].Addr + path }
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	connect := func(b browser, position string) *heraldclient.Client {
		client, err := heraldclient.New(heraldclient.Config{
			URL: on(0, "/ws"), HTTPClient: b.Client, Resume: position, MinDelay: 1, MaxDelay: 100 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client
	}

	stranger := newBrowser(t)
	for path, want := range map[string]int{"/": 401, "/messages": 401, "/herald.min.js": 401, "/metrics": 200} {
		if code, body := stranger.get(on(1, path)); code != want {
			t.Errorf("a stranger gets %d for %s: %s", code, path, body)
		}
	}
	if _, err := connect(stranger, "").Receive(ctx); !errors.Is(err, heraldclient.ErrUnauthorized) {
		t.Errorf("a stranger connects: %v", err)
	}

	anna, bert := newBrowser(t), newBrowser(t)
	anna.post(on(1, "/login"), "name", "anna") // and the other node knows her
	bert.post(on(0, "/login"), "name", "bert")
	if code := bert.post(on(1, "/messages"), "text", "first"); code != 200 {
		t.Fatal(code)
	}
	code, body := anna.get(on(0, "/messages"))
	var snapshot struct {
		Position string
		Messages []Message
	}
	if err := json.Unmarshal([]byte(body), &snapshot); err != nil || len(snapshot.Messages) != 1 || snapshot.Messages[0] != (Message{1, "first"}) {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	client := connect(anna, snapshot.Position)
	bert.post(on(1, "/messages"), "text", "second")
	expect(ctx, t, client, "second")
	nodes[0].Kill()
	for i := range 5 {
		bert.post(on(1, "/messages"), "text", fmt.Sprint("missed ", i))
	}
	nodes[0].Restart()
	for i := range 5 {
		expect(ctx, t, client, fmt.Sprint("missed ", i))
	}
	if _, metrics := stranger.get(on(0, "/metrics")); !strings.Contains(metrics, "\nherald_connections 1\n") {
		t.Errorf("the metrics lack the connection: %s", metrics)
	}

	rdb := store.Client()
	if n, err := rdb.Del(ctx, rdb.Keys(ctx, "login:*").Val()...).Result(); n != 2 || err != nil {
		t.Fatalf("%d logins, %v", n, err)
	}
	nodes[0].Kill()
	nodes[0].Restart()
	for event, err := client.Receive(ctx); !errors.Is(err, heraldclient.ErrUnauthorized); event, err = client.Receive(ctx) {
		if err != nil {
			t.Fatalf("%+v, %v", event, err)
		}
	}
	if code, _ := anna.get(on(1, "/messages")); code != 401 {
		t.Errorf("without her login she gets %d", code)
	}

	anna.post(on(1, "/login"), "name", "anna")
	store.Kill()
	if code, body := anna.get(on(1, "/")); code != 503 {
		t.Errorf("without Redis she gets %d: %s", code, body)
	}
	r := httptest.NewRequestWithContext(ctx, "GET", "/ws", nil)
	r.AddCookie(&http.Cookie{Name: "login", Value: "perhaps"})
	var answer *herald.HTTPError
	if _, err := (&logins{rdb}).whoIs(r); !errors.As(err, &answer) || answer.Status != 503 {
		t.Errorf("without Redis: %v", err)
	}
}
