package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// A running is a demo that a test started.
type running struct {
	t     *testing.T
	door  string
	nodes []string // n1 first
	end   func() error
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	ctx, cancel := context.WithCancel(t.Context())
	in, out := io.Pipe()
	o.Out, o.Log = out, t.Output()
	done := make(chan error, 1)
	go func() {
		err := Run(ctx, o)
		out.CloseWithError(io.EOF)
		done <- err
	}()
	d := &running{t: t}
	ended := false
	d.end = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	lines := bufio.NewScanner(in)
	for len(d.nodes) < o.Nodes && lines.Scan() {
		line := lines.Text()
		if base, ok := strings.CutPrefix(line, "front door "); ok {
			d.door = base
			continue
		}
		base, ok := strings.CutPrefix(line, fmt.Sprintf("node n%d ", len(d.nodes)+1))
		if !ok {
			t.Fatalf("line %q: want the address of node n%d", line, len(d.nodes)+1)
		}
		d.nodes = append(d.nodes, base)
	}
	if len(d.nodes) < o.Nodes || d.door == "" {
		t.Fatalf("the demo did not start: %v", <-done)
	}
	return d
}

// A client is a plain WebSocket client. It reads at once, for so it gives receipts.
type client struct {
	t    *testing.T
	ws   *websocket.Conn
	got  chan []byte   // text
	done chan struct{} // closed when the connection has ended
	err  error         // why it has
}

func (d *running) connect(base, query string) *client {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	ws, response, err := websocket.Dial(ctx, strings.Replace(base, "http", "ws", 1)+"/ws?"+query, nil)
	if err != nil {
		if response != nil {
			body, _ := io.ReadAll(response.Body)
			d.t.Fatalf("connect %s: %v: %s", query, err, body)
		}
		d.t.Fatalf("connect %s: %v", query, err)
	}
	c := &client{t: d.t, ws: ws, got: make(chan []byte, 1024), done: make(chan struct{})}
	go c.read()
	d.t.Cleanup(func() {
		ws.CloseNow()
		<-c.done
	})
	return c
}

func (c *client) read() {
	defer close(c.done)
	for {
		kind, data, err := c.ws.Read(context.Background())
		if err == nil && kind != websocket.MessageText {
			err = fmt.Errorf("a frame of type %v: want text", kind)
		}
		if err != nil {
			c.err = err
			return
		}
		select {
		case c.got <- data:
		case <-c.t.Context().Done():
			return
		}
	}
}

func (c *client) say(text string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// hear returns the next frame.
func (c *client) hear() map[string]any {
	c.t.Helper()
	var data []byte
	select {
	case data = <-c.got:
	case <-c.done:
		select {
		case data = <-c.got:
		default:
			c.t.Fatal(c.err)
		}
	case <-time.After(patience):
		c.t.Fatal("there came no frame")
	}
	var f map[string]any
	if err := json.Unmarshal(data, &f); err != nil {
		c.t.Fatalf("frame %q: want JSON", data)
	}
	for _, field := range []string{"type", "from", "text"} {
		if _, ok := f[field].(string); !ok {
			c.t.Fatalf("frame %s has no %s", data, field)
		}
	}
	return f
}

func (c *client) want(kind, from, text string) {
	c.t.Helper()
	if f := c.hear(); f["type"] != kind || f["from"] != from || f["text"] != text {
		c.t.Fatalf("got %v: want type %q, from %q, text %q", f, kind, from, text)
	}
}

// hearAll returns the next frames by their type, in whichever order they come.
func (c *client) hearAll(kinds ...string) map[string]map[string]any {
	c.t.Helper()
	got := make(map[string]map[string]any)
	for range kinds {
		f := c.hear()
		got[f["type"].(string)] = f
	}
	for _, kind := range kinds {
		if got[kind] == nil {
			c.t.Fatalf("got %v: want %q", got, kinds)
		}
	}
	return got
}

// until returns the notices before the frame it waits for, and skips the
// other frames.
func (c *client) until(kind, from, text string) (notices []string) {
	c.t.Helper()
	for {
		f := c.hear()
		if f["type"] == kind && f["from"] == from && f["text"] == text {
			return notices
		}
		if f["type"] == "notice" {
			notices = append(notices, fmt.Sprint(f["from"], " ", f["text"]))
		}
	}
}

// gone waits until the connection has ended, and returns why.
func (c *client) gone() error {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatal("the connection has not ended")
	}
	return c.err
}

type online struct {
	Online   bool
	Sessions []session
	Error    string
}

func (d *running) online(base, query string) (online, int) {
	d.t.Helper()
	response, err := http.Get(base + "/api/online?" + query)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer online
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		d.t.Fatal(err)
	}
	return answer, response.StatusCode
}

// order has a node, as in "nodes/n1", or Redis or a tab, stopped or started.
func (d *running) order(what, how string) int {
	d.t.Helper()
	response, err := http.Post(d.door+"/api/"+what+"/"+how, "", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// eventually waits until something that no event tells of is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
	}
}
