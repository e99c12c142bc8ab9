package heraldapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/heraldgo/herald"
)

// A request is one that may be carried out: its caller is known.
type request struct {
	*http.Request
	caller string
	body   []byte // of a POST: UTF-8
}

// route serves a route, and refuses other methods on its path.
func (h *Handler) route(of route) {
	h.mux.HandleFunc(of.method+" "+of.path, func(w http.ResponseWriter, r *http.Request) {
		h.serve(w, r, of.serve).write(w)
	})
	h.mux.HandleFunc(of.path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", of.method)
		failure(http.StatusMethodNotAllowed, "method", "method "+r.Method+": must be "+of.method).write(w)
	})
}

// serve takes a slot, and finds out who the caller is before it reads the body.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serve func(context.Context, *request) *answer) *answer {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return failure(http.StatusServiceUnavailable, "busy", fmt.Sprintf("%d requests are under way, as many as MaxRequests allows", cap(h.slots)))
	}
	caller, err := h.authorize(r)
	if err != nil {
		return refused(err)
	}
	q := &request{Request: r, caller: caller}
	if r.Method == http.MethodPost {
		if fail := q.read(w, h.config.MaxBody, h.config.Timeout); fail != nil {
			return fail
		}
		if keys := r.Header["Idempotency-Key"]; len(keys) > 0 {
			return h.once(q, keys[0], serve)
		}
	}
	return serve(r.Context(), q)
}

// refused answers what authorize returned.
func refused(err error) *answer {
	var e *herald.HTTPError
	if !errors.As(err, &e) || e.Status < 400 || e.Status > 599 {
		return failure(http.StatusForbidden, "forbidden", "the caller may not use this API")
	}
	code := "forbidden"
	if e.Status == http.StatusUnauthorized {
		code = "unauthorized"
	}
	return failure(e.Status, code, e.Message)
}

// read reads the body. A page of another origin cannot send the content type that is
// asked for without asking first (Fetch, "CORS-safelisted request-header"). A body that
// comes slowly, or never, would hold the slot of the request, so it has a deadline.
func (q *request) read(w http.ResponseWriter, limit int64, within time.Duration) *answer {
	if kind, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type")); kind != "application/json" {
		return failure(http.StatusUnsupportedMediaType, "content_type", fmt.Sprintf("Content-Type %q: must be application/json", kind))
	}
	conn := http.NewResponseController(w)
	conn.SetReadDeadline(time.Now().Add(within)) // if the server can
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return invalid("", fmt.Sprintf("body: must come within Timeout (%v)", within))
	case errors.As(err, &tooLarge):
		return failure(http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("body: must be at most MaxBody (%d bytes)", limit))
	case err != nil:
		return invalid("", "body: cannot be read to its end")
	case !utf8.Valid(body):
		return invalid("", "body: must be UTF-8")
	}
	conn.SetReadDeadline(time.Time{}) // the server reads on, to notice when the caller has gone
	q.body = body
	return nil
}

// decode decodes JSON into v, and refuses fields that v does not have.
func decode(body []byte, v any) *answer {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		return invalid("", "body: must be one JSON value, and nothing behind it")
	}
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		// In a deliver the field's name begins with that of the embedded struct.
		return invalid(strings.TrimPrefix(kind.Field, "message."), fmt.Sprintf("%s: must be %s", kind.Value, jsonType(kind.Type)))
	}
	return invalid("", "body: "+strings.TrimPrefix(err.Error(), "json: "))
}

// jsonType names what JSON calls values of the type.
func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "an array"
	case reflect.Struct:
		return "an object"
	case reflect.Uint16:
		return "a whole number from 0 to 65535"
	}
	return "a number"
}

// A target is herald.Target in JSON.
type target struct {
	Users       []string  `json:"users,omitempty"`
	Groups      []string  `json:"groups,omitempty"`
	Connections []string  `json:"connections,omitempty"`
	Everyone    bool      `json:"everyone,omitempty"`
	Except      []string  `json:"except,omitempty"`
	ExceptUsers []string  `json:"exceptUsers,omitempty"`
	Platforms   *[]string `json:"platforms,omitempty"`
}

// target returns the herald.Target. Field is where it stands in the request.
func (t *target) target(field string) (to herald.Target, fail *answer) {
	kinds := 0
	for _, kind := range []struct {
		given bool
		to    func() herald.Target
	}{
		{t.Users != nil, func() herald.Target { return herald.User(t.Users...) }},
		{t.Groups != nil, func() herald.Target { return herald.Group(t.Groups...) }},
		{t.Connections != nil, func() herald.Target { return herald.Connection(t.Connections...) }},
		{t.Everyone, herald.Everyone},
	} {
		if kind.given {
			kinds++
			to = kind.to()
		}
	}
	if kinds != 1 {
		return to, invalid(field, "must have exactly one of users, groups, connections and everyone")
	}
	for name, ids := range map[string][]string{"users": t.Users, "groups": t.Groups, "exceptUsers": t.ExceptUsers} {
		for i, id := range ids {
			if id == "" {
				return to, invalid(fmt.Sprintf("%s.%s[%d]", field, name, i), "must not be empty")
			}
		}
	}
	to = to.Except(t.Except...).ExceptUser(t.ExceptUsers...)
	if t.Platforms != nil {
		to = to.On(*t.Platforms...)
	}
	return to, nil
}

// A message is herald.Message in JSON, with its target.
type message struct {
	To       target          `json:"to"`
	Text     *string         `json:"text,omitempty"`
	JSON     json.RawMessage `json:"json,omitempty"`
	Binary   *string         `json:"binary,omitempty"` // base64
	Volatile bool            `json:"volatile,omitempty"`
	Unkept   bool            `json:"unkept,omitempty"`
	Conflate string          `json:"conflate,omitempty"`
}

// message returns the herald.Target and herald.Message. Field is where the message
// stands in the request: "" or "[0]".
func (m *message) message(field string) (to herald.Target, out herald.Message, fail *answer) {
	if to, fail = m.To.target(join(field, "to")); fail != nil {
		return to, out, fail
	}
	forms := 0
	if m.Text != nil {
		forms++
		out = herald.Text(*m.Text)
	}
	if m.JSON != nil {
		forms++
		out = herald.Text(string(m.JSON))
	}
	if m.Binary != nil {
		forms++
		b, err := base64.StdEncoding.DecodeString(*m.Binary)
		if err != nil {
			return to, out, invalid(join(field, "binary"), "must be base64 with padding (RFC 4648 section 4)")
		}
		out = herald.Binary(b)
	}
	if forms != 1 {
		return to, out, invalid(field, "must have exactly one of text, json and binary")
	}
	if m.Volatile {
		out = out.Volatile()
	}
	if m.Unkept {
		out = out.Unkept()
	}
	return to, out.Conflate(m.Conflate), nil
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// names reads a query, which must give exactly one of the parameters, once or more.
func (q *request) names(params ...string) (param string, names []string, fail *answer) {
	query, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return "", nil, invalid("", "query: "+err.Error())
	}
	for name := range query {
		if !slices.Contains(params, name) {
			return "", nil, invalid(name, "unknown parameter: must be "+strings.Join(params, " or "))
		}
		param, names = name, query[name]
	}
	switch {
	case len(query) != 1:
		return "", nil, invalid("", "query: must have exactly one of "+strings.Join(params, ", "))
	case len(names) > maxBatch:
		return "", nil, invalid(param, fmt.Sprintf("%d of them: must be at most %d", len(names), maxBatch))
	}
	for _, name := range names {
		if name == "" || !utf8.ValidString(name) {
			return "", nil, invalid(param, fmt.Sprintf("%q: must be UTF-8 and not empty", name))
		}
	}
	return param, names, nil
}
