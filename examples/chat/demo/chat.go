package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/heraldgo/herald"
)

const (
	room    = "room"  // the group of everybody
	curious = "watch" // connections that want to know who is there

	maxName = 64   // characters
	maxText = 8000 // characters
)

// A frame is what clients get, as JSON. Frames of other types than room, direct,
// receipt and error go only to connections that asked for presence.
type frame struct {
	Type   string `json:"type"` // room, direct, receipt, error; hello, notice, gap, redis, presence
	From   string `json:"from"` // a user; empty is the node
	Text   string `json:"text"`
	To     string `json:"to,omitempty"`     // direct and receipt only
	Device string `json:"device,omitempty"` // room and direct only: the sender's
	Node   string `json:"node,omitempty"`   // the sender's; of hello and presence: the client's own
	Conn   string `json:"conn,omitempty"`   // hello only: the client's own id
	At     int64  `json:"at,omitempty"`     // room and direct only: when it was sent, in ms since 1970
	ID     string `json:"id,omitempty"`     // the request's
	Again  bool   `json:"again,omitempty"`  // error only: the same request may succeed later
	State  string `json:"state,omitempty"`  // redis only; of a receipt: received, missed or away
}

// A request is what clients send, as JSON.
type request struct {
	Type string `json:"type"` // room or direct
	To   string `json:"to"`   // direct only: a user
	Text string `json:"text"`

	// ID is the client's own name for the message, so that it can send it again if it
	// does not know whether it went out: a client that gets two with one From and ID
	// drops the second. It may be empty.
	ID string `json:"id"`
}

// authenticate believes everybody. A real one would look at a session or a
// token.
func authenticate(r *http.Request) (herald.Identity, error) {
	q := r.URL.Query()
	id := herald.Identity{User: q.Get("user"), Device: q.Get("device"), Platform: q.Get("platform"), Groups: []string{room}}
	err := checkName("user", id.User)
	for _, f := range []struct{ field, value string }{{"device", id.Device}, {"platform", id.Platform}} {
		if err == nil && f.value != "" {
			err = checkName(f.field, f.value)
		}
	}
	if err != nil {
		return id, &herald.HTTPError{Status: http.StatusBadRequest, Message: err.Error()}
	}
	if q.Get("presence") == "1" {
		id.Groups = append(id.Groups, curious)
	}
	return id, nil
}

// checkName reports whether value can be a name. The error is for the client.
func checkName(field, value string) error {
	if !utf8.ValidString(value) || !visible(value) || utf8.RuneCountInString(value) > maxName {
		return fmt.Errorf("%s: %s: must be 1 to %d characters of UTF-8, at least one of them visible", field, short(value), maxName)
	}
	return nil
}

// visible reports whether anything of text can be seen. Trimming it is not enough: Go
// and JavaScript do not agree on what a space is, and marks, fillers and controls are
// none.
func visible(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool {
		return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S) && !unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r)
	})
}

// short quotes a client's value for an answer to it.
func short(value string) string {
	if utf8.RuneCountInString(value) > maxName {
		return fmt.Sprintf("%q and so on, %d characters", string([]rune(value)[:20]), utf8.RuneCountInString(value))
	}
	return fmt.Sprintf("%q", value)
}

func (n *node) onConnect(_ context.Context, c *herald.Conn) error {
	if !slices.Contains(c.Groups(), curious) {
		return nil
	}
	if err := c.Send(herald.JSON(frame{Type: "hello", Text: "You are on node " + n.name, Node: n.name, Conn: c.ID()})); err != nil {
		return err
	}
	n.watch.join(c)
	return nil
}

func (n *node) onMessage(ctx context.Context, c *herald.Conn, m herald.Message) {
	in, err := parse(m)
	if err != nil {
		c.Send(herald.JSON(frame{Type: "error", Text: err.Error(), ID: in.ID}))
		return
	}
	out := frame{
		Type: in.Type, From: c.User(), Text: in.Text, Device: c.Identity().Device, Node: n.name,
		At: time.Now().UnixMilli(), ID: in.ID,
	}
	if in.Type == "direct" {
		out.To = in.To
		n.direct(ctx, c, out)
		return
	}
	notSent(c, out, c.Hub().Send(ctx, herald.Group(room), herald.JSON(out)))
}

// parse understands and checks a client's message. The error is for the
// client.
func parse(m herald.Message) (request, error) {
	var in request
	if !m.IsText() {
		return in, errors.New("message: binary: must be a text frame")
	}
	if err := json.Unmarshal(m.Bytes(), &in); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return in, fmt.Errorf("%s: %s: must be a string", wrong.Field, wrong.Value)
		}
		return in, fmt.Errorf("message: %s: must be a JSON object", short(m.String()))
	}
	switch in.Type {
	case "room":
	case "direct":
		if err := checkName("to", in.To); err != nil {
			return in, err
		}
	default:
		return in, fmt.Errorf(`type: %s: must be "room" or "direct"`, short(in.Type))
	}
	if len(in.ID) > maxName {
		return request{}, fmt.Errorf("id: %s: must be at most %d bytes", short(in.ID), maxName)
	}
	if !visible(in.Text) || utf8.RuneCountInString(in.Text) > maxText {
		return in, fmt.Errorf("text: %s: must be 1 to %d characters, at least one of them visible", short(in.Text), maxText)
	}
	return in, nil
}

// notSent tells a client that its message did not go out, or may not have, and no
// internal details.
func notSent(c *herald.Conn, out frame, err error) {
	text := "the message did not go out: the node can not reach the others now"
	switch {
	case err == nil:
		return
	case errors.Is(err, herald.ErrUnknown):
		text = "it is unknown whether the message went out: its receipt did not come"
	}
	c.Send(herald.JSON(frame{Type: "error", Text: text, ID: out.ID, Again: true}))
}

// announce tells everywhere that a user came or went. herald calls it on one
// node only.
func (n *node) announce(user, what string) {
	hub := n.hub.Load()
	if hub == nil {
		return // New has not returned yet, so nobody is connected here
	}
	ctx, cancel := context.WithTimeout(n.stopped, time.Second)
	defer cancel()
	hub.Send(ctx, herald.Group(curious), herald.JSON(frame{Type: "notice", From: user, Text: what}))
}

// onGap tells this node's clients that messages may be missing. Those that speak
// herald's protocol know already.
func (n *node) onGap(g herald.Gap) {
	text := fmt.Sprintf("Messages sent to node %s within %v may be lost: its link to the others was down", n.name, g.Until.Sub(g.Since).Round(100*time.Millisecond))
	n.tell(herald.JSON(frame{Type: "gap", Text: text}))
}

// tell sends m to the connections of this node that want to know.
func (n *node) tell(m herald.Message) {
	hub := n.hub.Load()
	if hub == nil {
		return
	}
	for c := range hub.Conns() {
		if slices.Contains(c.Groups(), curious) {
			c.Send(m) // a Conn that is full or has gone needs no news
		}
	}
}
