package heraldclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/heraldclient"
	"github.com/heraldgo/herald/internal/history"
)

// A session is one of sessions.json.
type session struct {
	Name        string
	Connections []connection
}

type connection struct {
	Restart      bool
	From         string
	Conns        []string
	Frames       []frame
	Acknowledged *string
	Close        int
	Status       int
	Last         bool
}

type frame struct {
	Frame     string
	Message   *string
	Missing   bool
	Plain     bool
	Malformed bool
}

// The client does in each session what PROTOCOL.md's vectors say.
func TestSessions(t *testing.T) {
	b, err := os.ReadFile("../testdata/protocol/sessions.json")
	if err != nil {
		t.Fatal(err)
	}
	var sessions []session
	if err := json.Unmarshal(b, &sessions); err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		t.Run(s.Name, func(t *testing.T) { synctest.Test(t, s.run) })
	}
}

func (s session) run(t *testing.T) {
	var n atomic.Int64
	client := servePipes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i := int(n.Add(1)) - 1; i < len(s.Connections) {
			s.Connections[i].serve(t, i, w, r)
		} else {
			w.WriteHeader(500)
		}
	}))
	config := heraldclient.Config{
		HTTPClient: client, MinDelay: time.Second,
		Endpoint: func(context.Context) (string, http.Header, error) { return "ws://pipe/", nil, nil },
	}
	c := start(t, config)
	for i, connection := range s.Connections {
		if connection.Restart {
			config.Resume = c.Position()
			c.Close()
			c = start(t, config)
		}
		var got []string
		var err error
		for err == nil {
			var e heraldclient.Event
			e, err = c.Receive(t.Context())
			if _, ended := e.(heraldclient.Disconnected); ended {
				break
			}
			if err == nil {
				got = append(got, describe(e))
			}
		}
		if expected := connection.events(); !slices.Equal(got, expected) {
			t.Errorf("connection %d: the client told %q, not %q", i, got, expected)
		}
		if connection.Last != errors.Is(err, heraldclient.ErrReplaced) {
			t.Errorf("connection %d ended with %v", i, err)
		}
	}
}

// describe names an event for comparisons.
func describe(e heraldclient.Event) string {
	switch e := e.(type) {
	case heraldclient.Connected:
		return fmt.Sprintf("connected, history: %v", e.History)
	case heraldclient.Gap:
		return "missing"
	case heraldclient.Message:
		return "message " + string(e.Data)
	}
	return fmt.Sprintf("%T", e)
}

// events returns what the client has to tell of the connection.
func (c connection) events() (told []string) {
	for i, f := range c.Frames {
		if i == 0 {
			told = append(told, fmt.Sprintf("connected, history: %v", !f.Plain))
		}
		if f.Missing {
			told = append(told, "missing")
		}
		if f.Message != nil {
			told = append(told, "message "+*f.Message)
		}
	}
	return told
}

// serve is the server of the i-th connection.
func (c connection) serve(t *testing.T, i int, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	conns := strings.FieldsFunc(q.Get("herald.conn"), func(r rune) bool { return r == ',' })
	if q.Get("herald") != "1" || q.Get("herald.from") != c.From || !slices.Equal(conns, c.Conns) {
		t.Errorf("connection %d begins with %q", i, r.URL.RawQuery)
	}
	if c.Status != 0 {
		w.WriteHeader(c.Status)
		return
	}
	p := accept(t, w, r)
	defer p.leave()
	malformed := false
	for j, f := range c.Frames {
		p.send(f.Frame)
		if j == 0 {
			p.listen()
		}
		malformed = malformed || f.Malformed
	}
	if len(c.Frames) > 0 {
		time.Sleep(5 * time.Second) // of the bubble's time: for acknowledgements
		c.check(t, i, p)
	}
	if malformed {
		<-p.done
		if websocket.CloseStatus(p.end) != websocket.StatusProtocolError {
			t.Errorf("connection %d: the client did not close it for what is malformed: %v", i, p.end)
		}
	} else if c.Close != 0 {
		p.Close(websocket.StatusCode(c.Close), "")
	}
}

// check checks what the client has acknowledged: a mark that it had besides may be
// in it, and partitions in which nothing moved.
func (c connection) check(t *testing.T, i int, p *peer) {
	var at history.Positions
	for _, said := range p.heard() {
		text, ok := strings.CutPrefix(said, "@ ")
		var some history.Positions
		if !ok || some.UnmarshalText([]byte(text)) != nil {
			t.Errorf("connection %d: the client said %q", i, said)
		}
		for j, point := range some {
			if point.Epoch != 0 {
				at[j] = point
			}
		}
	}
	if c.Acknowledged == nil {
		return
	}
	var least history.Positions
	if err := least.UnmarshalText([]byte(*c.Acknowledged)); err != nil {
		t.Fatal(err)
	}
	for j, point := range least {
		if point.Epoch != 0 && (at[j].Epoch != point.Epoch || at[j].Offset < point.Offset) {
			t.Errorf("connection %d: the client acknowledged %v, not %v", i, at, least)
		}
	}
}
