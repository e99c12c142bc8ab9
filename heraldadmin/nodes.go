package heraldadmin

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/heraldgo/herald"
)

// patience is how long nodes have to answer a question.
const patience = 3 * time.Second

// A nodeView is what the page shows of a node. Times are in milliseconds.
type nodeView struct {
	ID     string   `json:"id"`
	Error  string   `json:"error,omitempty"` // why it has said nothing
	Took   float64  `json:"took"`
	Health []string `json:"health"`

	Conns        int     `json:"conns"`
	Users        int     `json:"users"`
	Queued       int     `json:"queued"`
	QueuedBytes  int64   `json:"queuedBytes"`
	OldestQueued float64 `json:"oldestQueued"`
	OpenGaps     int     `json:"openGaps"`
	OpenGapFor   float64 `json:"openGapFor"`
	Gaps         uint64  `json:"gaps"`
	GapFor       float64 `json:"gapFor"`
	BusTrip      float64 `json:"busTrip"`
	RegistryTrip float64 `json:"registryTrip"`

	// Counters, from which the page makes rates.

	Sent      uint64 `json:"sent"`
	Delivered uint64 `json:"delivered"`
	Dropped   uint64 `json:"dropped"`
	TooSlow   uint64 `json:"tooSlow"`
	Accepted  uint64 `json:"accepted"`
	Rejected  uint64 `json:"rejected"`

	Slowest []connView `json:"slowest"`
}

// oneLine returns an error without the line breaks of errors.Join.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func viewOfNode(r herald.NodeReport) nodeView {
	s := r.Stats
	v := nodeView{
		ID: r.Node, Took: ms(r.Took), Health: r.Health,
		Conns: s.Conns, Users: s.Users, Queued: s.Queued, QueuedBytes: s.QueuedBytes, OldestQueued: ms(s.OldestQueued),
		OpenGaps: s.OpenGaps, OpenGapFor: ms(s.OpenGapFor), Gaps: s.Gaps, GapFor: ms(s.GapFor),
		BusTrip: ms(s.BusRoundTrip), RegistryTrip: ms(s.RegistryRoundTrip),
		Sent: s.Sent, Delivered: s.Delivered, Dropped: s.Dropped + s.DroppedVolatile, TooSlow: s.TooSlow, Accepted: s.Accepted, Rejected: s.Rejected,
		Slowest: []connView{},
	}
	if r.Err != nil {
		v.Error = oneLine(r.Err)
	}
	for _, c := range r.Slowest {
		v.Slowest = append(v.Slowest, viewOfConn(c))
	}
	return v
}

// nodes serves GET nodes.
func (h *Handler) nodes(r *http.Request) (any, error) {
	ctx, cancel := within(r, patience)
	defer cancel()
	var views []nodeView
	for _, report := range h.hub.Reports(ctx) {
		views = append(views, viewOfNode(report))
	}
	return map[string]any{"asked": h.hub.NodeID(), "nodes": views}, nil
}

// A connView is what the page shows of a connection.
type connView struct {
	ID       string            `json:"id"`
	Node     string            `json:"node"`
	User     string            `json:"user"`
	Device   string            `json:"device,omitempty"`
	Platform string            `json:"platform,omitempty"`
	Addr     string            `json:"addr,omitempty"`
	Since    time.Time         `json:"since,omitzero"`
	Meta     map[string]string `json:"meta,omitempty"`
	Groups   []string          `json:"groups,omitempty"`

	Doubt string     `json:"doubt,omitempty"` // what is odd about it
	State *connState `json:"state,omitempty"` // as its node says
}

// A connState is herald.ConnStats. Times are in milliseconds, or how long ago.
type connState struct {
	Queued      int     `json:"queued"`
	QueuedBytes int     `json:"queuedBytes"`
	Oldest      float64 `json:"oldest"`
	WritingFor  float64 `json:"writingFor"`
	Dropped     int     `json:"dropped"`
	Unconfirmed int     `json:"unconfirmed"`
	LastWrite   float64 `json:"lastWrite"` // -1 is never
	LastRead    float64 `json:"lastRead"`
}

func viewOfSession(s herald.Session) connView {
	return connView{ID: s.ID, Node: s.Node, User: s.User, Device: s.Device, Platform: s.Platform, Addr: s.RemoteAddr, Since: s.Since, Meta: s.Meta}
}

func viewOfConn(r herald.ConnReport) connView {
	v, s := viewOfSession(r.Session), r.Stats
	v.Groups = r.Groups
	v.State = &connState{
		Queued: s.Queued, QueuedBytes: s.QueuedBytes, Oldest: ms(s.Oldest), WritingFor: ms(s.WritingFor),
		Dropped: s.Dropped, Unconfirmed: s.Unconfirmed, LastWrite: ago(s.LastWrite), LastRead: ago(s.LastRead),
	}
	return v
}

// ago returns how long ago a moment was, by the clock of the node that told it.
func ago(t time.Time) float64 {
	if t.IsZero() {
		return -1
	}
	return max(0, ms(time.Since(t)))
}

// user serves GET user?id=…: the connections that the Registry lists, and those that
// nodes have.
func (h *Handler) user(r *http.Request) (any, error) {
	id := r.URL.Query().Get("id")
	if id == "" {
		return nil, &fault{http.StatusBadRequest, "id: must not be empty"}
	}
	views, doubts := h.connsOf(r.Context(), id)
	return map[string]any{"user": id, "conns": views, "doubts": doubts}, nil
}

// connsOf returns the user's connections, and what the answer may lack. The Registry and
// the nodes each have their time, because one of them may be silent.
func (h *Handler) connsOf(ctx context.Context, user string) (views []connView, doubts []string) {
	views = []connView{}
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sessions, err := h.hub.Sessions(first, herald.User(user))
	unlisted := ""
	if err != nil {
		doubts = append(doubts, oneLine(err))
	} else {
		unlisted = "The Registry does not list it: it has just come or gone, or the Registry has lost it."
	}
	then, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reports, err := h.hub.Inspect(then, herald.User(user))
	if err != nil {
		doubts = append(doubts, oneLine(err))
	}
	listed := make(map[string]bool)
	for _, s := range sessions {
		listed[s.ID] = true
	}
	known := make(map[string]bool)
	for _, c := range reports {
		known[c.Session.ID] = true
		v := viewOfConn(c)
		if !listed[v.ID] {
			v.Doubt = unlisted
		}
		views = append(views, v)
	}
	for _, s := range sessions {
		if !known[s.ID] {
			v := viewOfSession(s)
			v.Doubt = "The Registry lists it, and its node has not told of it: the node does not answer, or the connection has just gone."
			views = append(views, v)
		}
	}
	return views, doubts
}

// disconnect serves POST disconnect: of a connection, or of all of a user.
func (h *Handler) disconnect(r *http.Request) (any, error) {
	var body struct {
		Connection string `json:"connection"`
		User       string `json:"user"`
	}
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	to := herald.User(body.User)
	switch {
	case (body.Connection == "") == (body.User == ""):
		return nil, &fault{http.StatusBadRequest, "body: must have a connection or a user"}
	case body.Connection != "":
		to = herald.Connection(body.Connection)
	}
	ctx, cancel := within(r, 2*patience)
	defer cancel()
	err := h.hub.Disconnect(ctx, to, herald.StatusServiceRestart, "disconnected by an administrator")
	h.log.Info("heraldadmin: disconnect", "who", r.Context().Value(whoKey{}), "user", body.User, "connection", body.Connection, "err", err)
	return struct{}{}, err
}
