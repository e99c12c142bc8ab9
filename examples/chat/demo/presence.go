package demo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

// lookEvery is how often a node looks which nodes of other processes there are,
// besides each time that somebody comes or goes: nothing else shows a node without
// clients.
const lookEvery = lease

// A presence is the frame that tells who is there.
type presence struct {
	frame
	People []person   `json:"people"`
	Nodes  []nodeInfo `json:"nodes"`  // this process' own
	Others []string   `json:"others"` // nodes of other processes
}

type person struct {
	User     string    `json:"user"`
	Sessions []session `json:"sessions"` // oldest first
}

type session struct {
	Node     string `json:"node"`
	Device   string `json:"device"`
	Platform string `json:"platform"`
	Conn     string `json:"conn,omitempty"`
}

// A watch is what this node knows of the room, and which of its clients want to know
// that.
type watch struct {
	changed chan struct{} // something is to be told

	mu       sync.Mutex
	sessions map[string]herald.Session // by id; nil until the first list
	last     herald.Message            // what was told last, if told
	told     bool
	clients  map[*herald.Conn]bool
}

func newWatch() *watch {
	return &watch{changed: make(chan struct{}, 1), clients: make(map[*herald.Conn]bool)}
}

// change has tellPresence look again.
func (w *watch) change() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// join tells a client who is there, and then what changes.
func (w *watch) join(c *herald.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients[c] = true
	if w.told {
		c.Send(w.last)
	}
}

func (w *watch) leave(c *herald.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.clients, c)
}

// watchRoom learns who comes to the room and who leaves it, until the node ends. While
// Redis is away at the start there is no list yet.
func (n *node) watchRoom() {
	for n.stopped.Err() == nil {
		all := make(map[string]herald.Session)
		for p, err := range n.hub.Load().Watch(n.stopped, room) {
			if err != nil {
				break
			}
			n.watch.mu.Lock()
			for _, s := range p.Left {
				delete(all, s.ID)
			}
			for _, s := range p.Joined {
				all[s.ID] = s
			}
			n.watch.sessions = all
			n.watch.mu.Unlock()
			n.watch.change()
		}
		select {
		case <-n.stopped.Done():
		case <-time.After(time.Second):
		}
	}
}

// tellPresence tells this node's clients who is there, whenever that changes, until the
// node ends.
func (n *node) tellPresence() {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	var before []byte
	for {
		select {
		case <-n.stopped.Done():
			return
		case <-n.watch.changed:
		case <-timer.C:
		}
		now, err := n.look()
		if err != nil {
			timer.Reset(time.Second) // the next look may succeed
			continue
		}
		timer.Reset(lookEvery)
		text, err := json.Marshal(now)
		if err != nil || bytes.Equal(text, before) {
			continue
		}
		before = text
		w := n.watch
		w.mu.Lock()
		w.last, w.told = herald.Text(string(text)), true
		for c := range w.clients {
			c.Send(w.last) // a Conn that is full or has gone needs no news
		}
		w.mu.Unlock()
	}
}

var errNotListed = errors.New("the room has not been listed yet")

// look puts together who is there, and where.
func (n *node) look() (presence, error) {
	ctx, cancel := context.WithTimeout(n.stopped, time.Second)
	defer cancel()
	nodes, err := n.hub.Load().Nodes(ctx)
	if err != nil {
		return presence{}, err
	}
	n.watch.mu.Lock()
	sessions := slices.Collect(maps.Values(n.watch.sessions))
	listed := n.watch.sessions != nil
	n.watch.mu.Unlock()
	if !listed {
		return presence{}, errNotListed
	}
	slices.SortFunc(sessions, func(a, b herald.Session) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	names := nodeNames(nodes)
	p := presence{frame: frame{Type: "presence", Node: n.name}, People: people(sessions, names), Nodes: n.cluster.list(), Others: []string{}}
	for _, other := range nodes {
		if other.Alive && !n.cluster.owns(other.ID) {
			p.Others = append(p.Others, names[other.ID])
		}
	}
	slices.Sort(p.Others)
	p.Text = fmt.Sprintf("%d online", len(p.People))
	return p, nil
}

// people groups sessions by their user, by name.
func people(sessions []herald.Session, names map[string]string) []person {
	byUser := make(map[string][]session)
	for _, s := range sessions {
		seen := toSession(s, names)
		seen.Conn = s.ID
		byUser[s.User] = append(byUser[s.User], seen)
	}
	all := []person{}
	for user, own := range byUser {
		all = append(all, person{user, own})
	}
	slices.SortFunc(all, func(a, b person) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.User), strings.ToLower(b.User)), cmp.Compare(a.User, b.User))
	})
	return all
}

func toSession(s herald.Session, names map[string]string) session {
	return session{Node: cmp.Or(names[s.Node], s.Node), Device: s.Device, Platform: s.Platform}
}

// nodeNames maps the ids of nodes to their names, or to the id itself if two living
// nodes, of two processes, share a name.
func nodeNames(nodes []herald.Node) map[string]string {
	count := make(map[string]int)
	for _, n := range nodes {
		if n.Alive {
			count[shortName(n.ID)]++
		}
	}
	names := make(map[string]string)
	for _, n := range nodes {
		names[n.ID] = n.ID
		if name := shortName(n.ID); count[name] <= 1 {
			names[n.ID] = name
		}
	}
	return names
}

// shortName returns an id without its random part.
func shortName(id string) string {
	if i := strings.LastIndexByte(id, '-'); i > 0 {
		return id[:i]
	}
	return id
}

// serveOnline reports whether a user is online, and with which devices.
func (n *node) serveOnline(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user")
	if err := checkName("user", user); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	hub := n.hub.Load()
	found, err := hub.Sessions(r.Context(), herald.User(user))
	if err == nil {
		var nodes []herald.Node
		nodes, err = hub.Nodes(r.Context())
		if err == nil {
			writeOnline(w, found, nodeNames(nodes))
			return
		}
	}
	writeError(w, http.StatusServiceUnavailable, "the registry does not answer now")
}

func writeOnline(w http.ResponseWriter, found []herald.Session, names map[string]string) {
	answer := struct {
		Online   bool      `json:"online"`
		Sessions []session `json:"sessions"`
	}{len(found) > 0, []session{}}
	for _, s := range found {
		answer.Sessions = append(answer.Sessions, toSession(s, names))
	}
	writeJSON(w, http.StatusOK, answer)
}
