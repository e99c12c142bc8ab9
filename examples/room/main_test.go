package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
)

// follow shows each message of the room once, until ctx is done.
func follow(ctx context.Context, room string, show func(Message)) error {
	shown := make(map[int]bool)
	once := func(m Message) {
		if !shown[m.ID] {
			shown[m.ID] = true
			show(m)
		}
	}
	load := func() (position string, err error) {
		response, err := http.Get(room + "/messages")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		var snapshot struct {
			Position string
			Messages []Message
		}
		err = json.NewDecoder(response.Body).Decode(&snapshot)
		for _, m := range snapshot.Messages {
			once(m)
		}
		return snapshot.Position, err
	}
	position, err := load()
	if err != nil {
		return err
	}
	client, err := heraldclient.New(heraldclient.Config{URL: room + "/ws", Resume: position})
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		event, err := client.Receive(ctx)
		if err != nil {
			return err
		}
		switch e := event.(type) {
		case heraldclient.Message:
			var m Message
			if err := json.Unmarshal(e.Data, &m); err != nil {
				return err
			}
			once(m)
		case heraldclient.Gap: // the database has what is missing
			if _, err := load(); err != nil {
				return err
			}
		}
	}
}

// patience is how long the test waits for what must come.
const patience = 30 * time.Second

// A house is the room on one node after another.
type house struct {
	*httptest.Server
	t        *testing.T
	network  *herald.MemoryNetwork
	registry *herald.MemoryRegistry
	db       Database
	hub      *herald.Hub
	handler  atomic.Pointer[http.Handler]
	cut      atomic.Bool  // nobody can connect
	loads    atomic.Int64 // of snapshots
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, network: herald.NewMemoryNetwork(), registry: herald.NewMemoryRegistry()}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/ws" && h.cut.Load():
			panic(http.ErrAbortHandler)
		case r.URL.Path == "/messages" && r.Method == "GET":
			h.loads.Add(1)
		}
		(*h.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	h.open()
	t.Cleanup(func() { h.hub.Shutdown(context.Background()) })
	return h
}

// open starts a node.
func (h *house) open() {
	h.t.Helper()
	hub, err := herald.New(herald.Config{
		Bus: h.network.Bus(), Registry: h.registry.Handle(), Retention: time.Minute, Logger: slog.New(slog.DiscardHandler),
		HandshakeRatePerUser: -1, DrainTime: time.Second,
		Authenticate: func(*http.Request) (herald.Identity, error) {
			return herald.Identity{User: "visitor", Groups: []string{"room"}}, nil
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub)
	mux.Handle("/", room(&h.db, hub))
	var handler http.Handler = mux
	h.hub = hub
	h.handler.Store(&handler)
}

func (h *house) post(text string) {
	h.t.Helper()
	response, err := http.PostForm(h.URL+"/messages", url.Values{"text": {text}})
	if err != nil {
		h.t.Fatal(err)
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

// A guest follows the room.
type guest struct {
	t    *testing.T
	got  chan Message
	done chan error
}

func (h *house) guest(ctx context.Context) *guest {
	g := &guest{h.t, make(chan Message, 1000), make(chan error, 1)}
	go func() { g.done <- follow(ctx, h.URL, func(m Message) { g.got <- m }) }()
	return g
}

// await waits until the guest has got all messages up to n, in any order.
func (g *guest) await(seen map[int]bool, n int) {
	g.t.Helper()
	for end := time.After(patience); len(seen) < n; {
		select {
		case m := <-g.got:
			seen[m.ID] = true
		case err := <-g.done:
			g.t.Fatal(err)
		case <-end:
			g.t.Fatalf("%d messages came, want %d", len(seen), n)
		}
	}
	if !seen[n] {
		g.t.Fatalf("message %d is not among %v", n, seen)
	}
}

// Who comes while others write misses nothing. A node that goes costs nothing, and a
// gap one look into the database.
func TestRoom(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	h := newHouse(t)
	var guests []*guest
	for i := range 60 {
		h.post(fmt.Sprint("before ", i))
		if i%6 == 0 {
			guests = append(guests, h.guest(ctx)) // it loads and connects while the next ones are posted
		}
	}
	seen := make([]map[int]bool, len(guests))
	for i, g := range guests {
		seen[i] = make(map[int]bool)
		g.await(seen[i], 60)
	}
	if n := h.loads.Load(); n != int64(len(guests)) {
		t.Errorf("%d guests have loaded %d snapshots", len(guests), n)
	}

	old := h.hub
	h.open()
	h.post("before they are back")
	old.Shutdown(ctx)
	h.post("when they are")
	for i, g := range guests {
		g.await(seen[i], 62)
	}
	if n := h.loads.Load(); n != int64(len(guests)) {
		t.Errorf("after a resume, %d guests have loaded %d snapshots", len(guests), n)
	}

	h.cut.Store(true)
	if err := h.hub.Disconnect(ctx, herald.User("visitor"), herald.StatusGoingAway, ""); err != nil {
		t.Fatal(err)
	}
	h.post("forgotten")
	if err := h.hub.Forget(ctx, herald.Group("room")); err != nil {
		t.Fatal(err)
	}
	h.cut.Store(false)
	for i, g := range guests {
		g.await(seen[i], 63)
	}
	if n := h.loads.Load(); n < int64(2*len(guests)) {
		t.Errorf("after a gap, %d guests have loaded %d snapshots", len(guests), n)
	}
	leave()
	for _, g := range guests {
		if err := <-g.done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
