package demo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/heraldgo/herald"
)

// lookEvery is how often a node asks who is there. It is a demo's way: it
// shows a crash as soon as it can be seen, and costs a question that grows
// with the number of users.
const lookEvery = 500 * time.Millisecond

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

// lookAgain makes watch look at once.
func (n *node) lookAgain() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// freshLooks is how many looks are told after somebody has come, even if nothing
// has changed: the first may be over before OnConnect is, and the second, at a
// tick, may follow at once.
const freshLooks = 3

// watch tells this node's clients who is there, whenever that changes, until
// the node ends.
func (n *node) watch() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last []byte
	fresh := 0 // looks that are to be told: somebody may have come who knows nothing yet
	for {
		select {
		case <-n.stopped.Done():
			return
		case <-n.changed:
			fresh = freshLooks
		case <-ticker.C:
		}
		now, err := n.look()
		if err != nil {
			continue // the next look may be luckier
		}
		text, err := json.Marshal(now)
		if err == nil && (fresh > 0 || !bytes.Equal(text, last)) {
			last, fresh = text, max(fresh-1, 0)
			n.tell(herald.Text(string(text)))
		}
	}
}

// look asks who is there.
func (n *node) look() (presence, error) {
	ctx, cancel := context.WithTimeout(n.stopped, time.Second)
	defer cancel()
	hub := n.hub.Load()
	sessions, err := hub.Sessions(ctx, herald.Group(room))
	if err != nil {
		return presence{}, err
	}
	nodes, err := hub.Nodes(ctx)
	if err != nil {
		return presence{}, err
	}
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

// nodeNames maps the ids of nodes to the names that they were given, or to
// themselves if two living nodes, of two processes, have one name.
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

// serveOnline answers whether a user is online, and with which devices.
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
