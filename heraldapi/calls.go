package heraldapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/heraldgo/herald"
)

// maxBatch bounds the messages of a send, and the users that one request asks about.
const maxBatch = 1_000

// send serves POST /send: a message, or an array of them. The messages go out in
// order. If one fails, the messages after it are not tried, so that none overtakes it.
func (h *Handler) send(ctx context.Context, q *request) *answer {
	messages, fail := q.messages()
	if fail != nil {
		return fail
	}
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout)
	defer cancel()
	for sent, m := range messages {
		if err := h.config.Hub.Send(ctx, m.to, m.message); err != nil {
			return failed(err, &sent)
		}
	}
	return ok(struct {
		Sent int `json:"sent"`
	}{len(messages)})
}

// A parcel is a message with its target.
type parcel struct {
	to      herald.Target
	message herald.Message
}

// messages decodes the body of a send. All of it is checked before any of it is sent.
func (q *request) messages() ([]parcel, *answer) {
	batch := bytes.HasPrefix(bytes.TrimLeft(q.body, " \t\r\n"), []byte("["))
	list := make([]message, 1)
	var fail *answer
	if !batch {
		fail = decode(q.body, &list[0])
	} else if n := elements(q.body); n > maxBatch {
		fail = invalid("", fmt.Sprintf("%d messages: must be at most %d", n, maxBatch))
	} else {
		fail = decode(q.body, &list)
	}
	if fail != nil {
		return nil, fail
	}
	parcels := make([]parcel, len(list))
	for i := range list {
		field := ""
		if batch {
			field = fmt.Sprintf("[%d]", i)
		}
		if parcels[i].to, parcels[i].message, fail = list[i].message(field); fail != nil {
			return nil, fail
		}
	}
	return parcels, nil
}

// An element of an array is only counted. It takes no memory.
type element struct{}

func (*element) UnmarshalJSON([]byte) error { return nil }

// elements returns how many elements the array has that the body begins with, or 0 if it
// is not JSON. Three bytes of the body can be a message, which takes 200 when it is decoded.
func elements(body []byte) int {
	var list []element
	json.NewDecoder(bytes.NewReader(body)).Decode(&list) // decode says what is wrong
	return len(list)
}

// deliver serves POST /deliver.
func (h *Handler) deliver(ctx context.Context, q *request) *answer {
	body := struct {
		message
		Timeout float64 `json:"timeout"` // seconds
	}{Timeout: 10}
	if fail := decode(q.body, &body); fail != nil {
		return fail
	}
	if !(body.Timeout > 0 && body.Timeout <= 60) {
		return invalid("timeout", fmt.Sprintf("%v seconds: must be more than 0 and at most 60", body.Timeout))
	}
	to, m, fail := body.message.message("")
	if fail != nil {
		return fail
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(body.Timeout*float64(time.Second)))
	defer cancel()
	d, err := h.config.Hub.Deliver(ctx, to, m)
	switch {
	case errors.Is(err, herald.ErrClosed): // before it was sent, or after
		return failed(fmt.Errorf("%w: %w", herald.ErrUnknown, err), nil)
	case err != nil:
		return failed(err, nil)
	}
	return ok(struct {
		Received      []session `json:"received"`
		Missed        []session `json:"missed"`
		ReceivedTotal int       `json:"receivedTotal"`
		MissedTotal   int       `json:"missedTotal"`
	}{sessionsOf(d.Received), sessionsOf(d.Missed), d.ReceivedTotal, d.MissedTotal})
}

// join serves POST /join.
func (h *Handler) join(ctx context.Context, q *request) *answer {
	return h.regroup(ctx, q, h.config.Hub.Join)
}

// leave serves POST /leave.
func (h *Handler) leave(ctx context.Context, q *request) *answer {
	return h.regroup(ctx, q, h.config.Hub.Leave)
}

func (h *Handler) regroup(ctx context.Context, q *request, call func(context.Context, herald.Target, ...string) error) *answer {
	var body struct {
		To     target   `json:"to"`
		Groups []string `json:"groups"`
	}
	if fail := decode(q.body, &body); fail != nil {
		return fail
	}
	if len(body.Groups) == 0 {
		return invalid("groups", "must have at least one name")
	}
	return h.call(ctx, &body.To, func(ctx context.Context, to herald.Target) error {
		return call(ctx, to, body.Groups...)
	})
}

// disconnect serves POST /disconnect.
func (h *Handler) disconnect(ctx context.Context, q *request) *answer {
	body := struct {
		To     target `json:"to"`
		Code   uint16 `json:"code"`
		Reason string `json:"reason"`
	}{Code: uint16(herald.StatusNormal)}
	if fail := decode(q.body, &body); fail != nil {
		return fail
	}
	return h.call(ctx, &body.To, func(ctx context.Context, to herald.Target) error {
		return h.config.Hub.Disconnect(ctx, to, herald.StatusCode(body.Code), body.Reason)
	})
}

// call makes a call of the Hub that returns only an error.
func (h *Handler) call(ctx context.Context, t *target, call func(context.Context, herald.Target) error) *answer {
	to, fail := t.target("to")
	if fail != nil {
		return fail
	}
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout)
	defer cancel()
	if err := call(ctx, to); err != nil {
		return failed(err, nil)
	}
	return ok(struct{}{})
}

// online serves GET /online?user=…&user=….
func (h *Handler) online(ctx context.Context, q *request) *answer {
	_, users, fail := q.names("user")
	if fail != nil {
		return fail
	}
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout)
	defer cancel()
	online, err := h.config.Hub.Online(ctx, users...)
	if err != nil {
		return failed(err, nil)
	}
	return ok(struct {
		Online map[string]bool `json:"online"`
	}{online})
}

// sessions serves GET /sessions?user=… and /sessions?group=….
func (h *Handler) sessions(ctx context.Context, q *request) *answer {
	param, names, fail := q.names("user", "group")
	if fail != nil {
		return fail
	}
	to := herald.User(names...)
	if param == "group" {
		to = herald.Group(names...)
	}
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout)
	defer cancel()
	sessions, err := h.config.Hub.Sessions(ctx, to)
	if err != nil {
		return failed(err, nil)
	}
	return ok(struct {
		Sessions []session `json:"sessions"`
	}{sessionsOf(sessions)})
}

// A session is herald.Session in JSON. Bytes that are not UTF-8 become U+FFFD.
type session struct {
	ID         string            `json:"id"`
	User       string            `json:"user,omitempty"`
	Device     string            `json:"device,omitempty"`
	Platform   string            `json:"platform,omitempty"`
	Node       string            `json:"node"`
	RemoteAddr string            `json:"remoteAddr,omitempty"`
	Since      time.Time         `json:"since,omitzero"`
	Meta       map[string]string `json:"meta,omitempty"`
}

func sessionsOf(list []herald.Session) []session {
	sessions := make([]session, len(list))
	for i, s := range list {
		sessions[i] = session(s)
	}
	return sessions
}
