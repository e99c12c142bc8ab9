package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
)

// pause bounds how long a client waits before it comes again.
const pause = 500 * time.Millisecond

// A fleet is the clients of a restart, and what they have seen together.
type fleet struct {
	*site
	web     *http.Client
	running sync.WaitGroup

	mu      sync.Mutex
	clients []*client
	failed  []string      // handshakes
	closes  []string      // that were not by 1012
	longest time.Duration // that a client had no connection
	told    map[bool]int  // messages that clients missed and were told of, by whether they come back to where they were
	untold  int           // that they missed and were not told of
	again   int           // that came once more, or after a later one
}

// A client counts the messages that it gets, which are numbers.
type client struct {
	fleet *fleet
	user  string
	keeps bool // it comes back to where it was, if the nodes keep messages

	// Guarded by fleet.mu.
	connected bool
	came      int       // how often it connected
	since     time.Time // it has no connection
	last      int       // number
	warned    bool      // it was told that something may be missing before the next one
}

func (c *client) arrived() {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	c.connected = true
	if c.came++; c.came > 1 {
		c.fleet.longest = max(c.fleet.longest, time.Since(c.since))
	}
}

// left notes the end of a connection, or of a try, with the code that the client saw.
func (c *client) left(code int, err error) {
	f := c.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !c.connected:
		f.failed = append(f.failed, fmt.Sprintf("%s: %v", c.user, err))
		return
	case code != int(herald.StatusServiceRestart):
		f.closes = append(f.closes, fmt.Sprintf("%s: %v", c.user, err))
	}
	c.connected, c.since = false, time.Now()
	if !c.keeps {
		c.warned = true
	}
}

func (c *client) warn() {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	c.warned = true
}

func (c *client) take(text []byte) {
	n, err := strconv.Atoi(string(text))
	if err != nil {
		c.fleet.t.Errorf("%s got %q", c.user, text)
		return
	}
	f := c.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	switch missing := n - c.last - 1; {
	case missing < 0:
		if !c.warned || c.keeps && f.retention > 0 {
			f.again++
		}
		return
	case c.warned:
		f.told[c.keeps] += missing
	default:
		f.untold += missing
	}
	c.last, c.warned = n, false
}

// keep runs a heraldclient until ctx is done.
func (c *client) keep(ctx context.Context) {
	hc, err := heraldclient.New(heraldclient.Config{
		URL: "wss://" + c.fleet.addr + "/live/ws?user=" + c.user, HTTPClient: c.fleet.web,
		Timeout: patience, MinDelay: pause, MaxDelay: pause, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.fleet.t.Error(err)
		return
	}
	defer hc.Close()
	for {
		event, err := hc.Receive(ctx)
		if err != nil {
			return // ctx is done
		}
		switch e := event.(type) {
		case heraldclient.Connected:
			c.arrived()
		case heraldclient.Disconnected:
			code := 0
			if closed, ok := errors.AsType[*heraldclient.CloseError](e.Err); ok {
				code = closed.Code
			}
			c.left(code, e.Err)
		case heraldclient.Gap:
			c.warn()
		case heraldclient.Message:
			c.take(e.Data)
		}
	}
}

// plain runs a plain WebSocket client until ctx is done.
func (c *client) plain(ctx context.Context) {
	url := "wss://" + c.fleet.addr + "/live/ws?user=" + c.user
	for ctx.Err() == nil {
		ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: c.fleet.web})
		if err == nil {
			c.arrived()
			var text []byte
			for err == nil {
				if _, text, err = ws.Read(ctx); err == nil {
					c.take(text)
				}
			}
			ws.CloseNow()
		}
		if ctx.Err() != nil {
			return
		}
		c.left(int(websocket.CloseStatus(err)), err)
		select {
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
		}
	}
}

// await waits until all clients are as cond says.
func (f *fleet) await(what string, cond func(*client) bool) {
	f.t.Helper()
	missing := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		missing = ""
		f.mu.Lock()
		for _, c := range f.clients {
			if !cond(c) {
				missing = c.user
			}
		}
		f.mu.Unlock()
		if missing == "" {
			return
		}
	}
	f.t.Fatalf("%s is not %s", missing, what)
}

// load sends numbers to everyone until ctx is done, and calls sent after each.
func (f *fleet) load(ctx context.Context, sent func(n int)) {
	rdb := f.redis.Client()
	hub, err := herald.New(herald.Config{
		Redis: rdb, Retention: f.retention, SendTimeout: patience, ProbeTimeout: patience, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.t.Error(err)
		return
	}
	defer hub.Shutdown(context.Background())
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		if err := hub.Send(context.Background(), herald.Everyone(), herald.Text(strconv.Itoa(n))); err != nil {
			f.t.Error(err)
			return
		}
		sent(n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Three nodes restart one after the other, under load. Each client is closed with 1012,
// waits once, and is back with its first handshake. With a Retention it misses nothing.
// HERALD_CLIENTS says how many there are, 40 if it does not.
func TestRollingRestart(t *testing.T) {
	count := 40
	if text := os.Getenv("HERALD_CLIENTS"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for proxy := range proxies {
		for _, retention := range []time.Duration{0, 5 * time.Minute} {
			name := proxy
			if retention > 0 {
				name += " with a Retention"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, proxy, retention)
				f := &fleet{site: s, web: s.web(), told: make(map[bool]int)}
				sent := f.restart(count)
				f.verdict(name, sent)
			})
		}
	}
}

// restart restarts each node once, and returns how many messages were sent.
func (f *fleet) restart(count int) (sent int) {
	ctx, stop := context.WithCancel(context.Background())
	defer f.running.Wait()
	defer stop()
	for i := range count {
		c := &client{fleet: f, user: fmt.Sprint("user", i), keeps: i%2 == 0}
		c.warned = !c.keeps || f.retention == 0 // the first message may come before OnConnect has run
		f.clients = append(f.clients, c)
		run := c.plain
		if c.keeps {
			run = c.keep
		}
		f.running.Go(func() { run(ctx) })
	}
	connected := func(c *client) bool { return c.connected }
	f.await("connected", connected)
	f.running.Go(func() {
		f.load(ctx, func(n int) {
			f.mu.Lock()
			defer f.mu.Unlock()
			sent = n
		})
	})
	for _, n := range f.nodes {
		f.awaitUp()
		n.Stop()
		n.Restart()
	}
	f.awaitUp()
	f.await("back", connected)
	f.mu.Lock()
	goal := sent + 1
	f.mu.Unlock()
	f.await("up to date", func(c *client) bool { return c.last >= goal })
	stop()
	f.running.Wait()
	return sent
}

func (f *fleet) verdict(name string, sent int) {
	handshakes := 0
	for _, c := range f.clients {
		handshakes += c.came
	}
	f.t.Logf("%s: %d clients, %d messages sent, %d handshakes, %d failed, longest without a connection %v; missed and told: heraldclient %d, plain %d; missed and not told: %d",
		name, len(f.clients), sent, handshakes, len(f.failed), f.longest.Round(time.Millisecond), f.told[true], f.told[false], f.untold)
	if handshakes < len(f.clients)+len(f.clients)/3 {
		f.t.Errorf("%d handshakes of %d clients: most were not closed", handshakes, len(f.clients))
	}
	for i, n := range f.nodes {
		if strings.Contains(n.Log(), "refused=") {
			f.t.Errorf("node %d has refused handshakes", i+1)
		}
	}
	fault := f.t.Errorf
	if f.troubled() {
		fault = f.t.Logf
	}
	for _, failed := range f.failed {
		fault("a handshake failed: %s", failed)
	}
	for _, end := range f.closes {
		fault("a connection did not end with %d: %s", herald.StatusServiceRestart, end)
	}
	if f.retention > 0 && f.told[true] > 0 {
		fault("clients that come back to where they were missed %d messages", f.told[true])
	}
	if f.untold > 0 || f.again > 0 {
		fault("%d messages were missed and not told, %d came again or too late", f.untold, f.again)
	}
}
