// Package heraldadmin is a page for the operators of a service: its nodes, their
// health and rates, the slowest connections, one user's connections on every node,
// and why a message does not reach a user.
//
// A [Handler] is mounted on a route of a service that has a Hub, behind the service's
// own login:
//
//	admin, err := heraldadmin.New(heraldadmin.Config{Hub: hub, Authorize: staffOnly})
//	http.Handle("/admin/", http.StripPrefix("/admin", admin))
//
// Any node can answer, because nodes ask each other. The page shows who is connected
// from which address, and can disconnect users, so let nobody else see it. It loads
// nothing from other sites, and shows names as text, whatever they contain.
//
// The page gets JSON from GET nodes and GET user?id=…, and sends JSON to POST follow
// and POST disconnect. It is their only client, so they change with it.
package heraldadmin

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"time"

	"github.com/heraldgo/herald"
)

// A Config says whose state a Handler shows, and to whom. Hub and Authorize are needed.
type Config struct {
	Hub *herald.Hub

	// Authorize returns a name for whoever makes a request, or an error if the request is
	// refused. A *herald.HTTPError chooses the status and what the caller is told; any other
	// error means 403. Behind a middleware that has checked the login, it returns the name
	// that the middleware knows. Several goroutines call it at a time.
	Authorize func(*http.Request) (who string, err error)

	// Logger is told at Info who has disconnected whom, and who has followed a message to
	// whom. Default slog.Default().
	Logger *slog.Logger
}

// A Handler serves the page. It refuses what a page of another site sends
// (http.CrossOriginProtection), and to be shown in a frame.
type Handler struct {
	hub       *herald.Hub
	authorize func(*http.Request) (who string, err error)
	log       *slog.Logger
	slots     chan struct{}
	handler   http.Handler
}

// maxRequests is how many questions are answered at a time.
const maxRequests = 8

//go:embed page
var page embed.FS

// New returns a Handler. The error wraps herald.ErrInvalid, and names the field of the
// Config that is missing.
func New(config Config) (*Handler, error) {
	switch {
	case config.Hub == nil:
		return nil, fmt.Errorf("%w: heraldadmin.Config.Hub: nil: must be set", herald.ErrInvalid)
	case config.Authorize == nil:
		return nil, fmt.Errorf("%w: heraldadmin.Config.Authorize: nil: must be set, because the page shows and disconnects every user", herald.ErrInvalid)
	}
	h := &Handler{hub: config.Hub, authorize: config.Authorize, log: config.Logger, slots: make(chan struct{}, maxRequests)}
	if h.log == nil {
		h.log = slog.Default()
	}
	mux := http.NewServeMux()
	for path, file := range map[string]string{"/{$}": "index.html", "/admin.css": "admin.css", "/admin.js": "admin.js", "/parts.js": "parts.js"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, page, "page/"+file)
		})
	}
	mux.HandleFunc("GET /nodes", h.answer(h.nodes))
	mux.HandleFunc("GET /user", h.answer(h.user))
	mux.HandleFunc("POST /follow", readFirst(h.answer(h.follow)))
	mux.HandleFunc("POST /disconnect", readFirst(h.answer(h.disconnect)))
	h.handler = http.NewCrossOriginProtection().Handler(mux)
	return h, nil
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	who, err := h.authorize(r)
	if err != nil {
		var refused *herald.HTTPError
		if !errors.As(err, &refused) || refused.Status < 400 || refused.Status > 599 {
			refused = &herald.HTTPError{Status: http.StatusForbidden, Message: "you may not see this page"}
		}
		http.Error(w, refused.Message, refused.Status)
		return
	}
	h.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, who)))
}

// whoKey is the key of a request's context that has the name that Authorize returned.
type whoKey struct{}

// A fault is why a request gets no answer.
type fault struct {
	status int
	text   string
}

func (f *fault) Error() string { return f.text }

// answer serves what question returns as JSON.
func (h *Handler) answer(question func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var result any
		var err error = &fault{http.StatusServiceUnavailable, "too many questions at a time"}
		select {
		case h.slots <- struct{}{}:
			result, err = func() (any, error) {
				defer func() { <-h.slots }()
				return question(r)
			}()
		default:
		}
		status := http.StatusOK
		if err != nil {
			if status = http.StatusBadGateway; errors.Is(err, herald.ErrInvalid) {
				status = http.StatusBadRequest
			}
			if f, ok := errors.AsType[*fault](err); ok {
				status = f.status
			}
			result = map[string]string{"error": oneLine(err)}
		}
		writeJSON(w, status, result)
	}
}

// How many bytes a body may have, and how long it may take to come.
const (
	maxBody      = 64 << 10
	bodyPatience = 5 * time.Second
)

// readFirst reads the body of a request before the question takes a slot, because a
// body may come slowly, or never.
func readFirst(question http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		conn.SetReadDeadline(time.Now().Add(bodyPatience)) // if the server can
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": "body: " + err.Error()})
			return
		}
		conn.SetReadDeadline(time.Time{}) // the server reads on, to notice when the caller has gone
		r.Body = io.NopCloser(bytes.NewReader(body))
		question(w, r)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// within bounds a question.
func within(r *http.Request, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), d)
}

// decode decodes the body of a POST into v.
func decode(r *http.Request, v any) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return &fault{http.StatusUnsupportedMediaType, "Content-Type must be application/json"}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &fault{http.StatusBadRequest, "body: " + err.Error()}
	}
	return nil
}
