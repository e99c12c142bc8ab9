// Package heraldapi lets programs in any language send by HTTP and JSON.
//
// A [Handler] is mounted on a route of a service that has a Hub:
//
//	api, err := heraldapi.New(heraldapi.Config{Hub: hub, Redis: rdb, Keys: []string{os.Getenv("API_KEY")}})
//	http.Handle("/api/", http.StripPrefix("/api", api))
//
// A cron job, or a shop in PHP, then reaches every device of a user:
//
//	curl http://localhost:8080/api/send -H "Authorization: Bearer $API_KEY" \
//	  -H 'Content-Type: application/json' -H 'Idempotency-Key: order-7-shipped' \
//	  -d '{"to": {"users": ["42"]}, "text": "Your order is on its way."}'
//
// openapi.json, beside this file, describes all requests and answers.
//
// # Errors
//
// Status 200 says that everything that the request asks for was done. Any other
// answer of the Handler has a JSON body with an error: a code for programs, a
// message for people, and the field of the request if one is at fault. Code
// "unknown" (status 504) says that the message may have been sent.
//
// # Sending once
//
// A program that gets no answer does not know whether its request was carried out.
// With the header Idempotency-Key it can safely repeat the request. The first request
// with a key claims it in Redis before it does anything. For five minutes after the
// outcome is known, every node answers a request with that key with the same outcome,
// and does nothing else. If nothing was done, the key is free again at once, unless
// Redis does not answer just then. Two callers may use the same key without a conflict.
// An empty key is refused.
package heraldapi

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/heraldgo/herald"
	"github.com/redis/go-redis/v9"
)

// Document is the OpenAPI 3.0 description of the API, in JSON.
//
//go:embed openapi.json
var Document []byte

// A Config says what a Handler serves, and to whom. Hub is needed, and either Keys
// or Authorize.
type Config struct {
	Hub *herald.Hub

	// Keys are secrets of at least 16 bytes. A request needs one of them, as
	// "Authorization: Bearer <key>" (RFC 6750 section 2.1). Two at a time let you
	// replace one without a pause.
	Keys []string

	// Authorize takes the place of Keys. It returns a name for the caller, or an error
	// if the request is refused. A *herald.HTTPError chooses the status and what the
	// caller is told; any other error means 403. If Authorize relies on cookies, put the
	// Handler behind http.CrossOriginProtection. Several goroutines call it at a time.
	Authorize func(*http.Request) (caller string, err error)

	// Redis keeps the idempotency keys. It may be the Hub's; all nodes need the same.
	// Without it a request that has an Idempotency-Key is refused.
	Redis redis.UniversalClient

	Prefix string // of the keys in Redis; default "herald:api:"

	MaxBody     int64         // bytes of a request's body; default 1 MiB
	MaxRequests int           // at the same time, on this node; more are answered with 503; default 256
	Timeout     time.Duration // for a request, to which a deliver adds its own, and for reading its body; default 10 s, at most a minute
}

// A Handler serves the API. It has no state but what it shares with Redis, so that
// requests can go to any node.
type Handler struct {
	config    Config
	authorize func(*http.Request) (caller string, err error)
	claims    *claims // nil without Redis
	slots     chan struct{}
	mux       *http.ServeMux
}

// New returns a Handler. The error wraps herald.ErrInvalid, and names the field of
// the Config and the rule that it breaks.
func New(config Config) (*Handler, error) {
	config.Prefix = cmp.Or(config.Prefix, "herald:api:")
	config.MaxBody = cmp.Or(config.MaxBody, 1<<20)
	config.MaxRequests = cmp.Or(config.MaxRequests, 256)
	config.Timeout = cmp.Or(config.Timeout, 10*time.Second)
	if err := config.check(); err != nil {
		return nil, err
	}
	h := &Handler{
		config: config, authorize: config.Authorize,
		slots: make(chan struct{}, config.MaxRequests), mux: http.NewServeMux(),
	}
	if h.authorize == nil {
		h.authorize = bearer(config.Keys)
	}
	if config.Redis != nil {
		h.claims = &claims{config.Redis, config.Prefix}
	}
	for _, r := range h.routes() {
		h.route(r)
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		failure(http.StatusNotFound, "not_found", "no such path: "+r.URL.Path).write(w)
	})
	return h, nil
}

// A route is a method and path of the API. openapi.json lists the same.
type route struct {
	method, path string
	serve        func(context.Context, *request) *answer
}

func (h *Handler) routes() []route {
	return []route{
		{"POST", "/send", h.send},
		{"POST", "/deliver", h.deliver},
		{"POST", "/join", h.join},
		{"POST", "/leave", h.leave},
		{"POST", "/disconnect", h.disconnect},
		{"GET", "/online", h.online},
		{"GET", "/sessions", h.sessions},
	}
}

func (c *Config) check() error {
	rule := ""
	switch {
	case c.Hub == nil:
		rule = "Hub: nil: must be set"
	case (len(c.Keys) == 0) == (c.Authorize == nil):
		rule = "Keys, Authorize: exactly one of them must be set"
	case c.MaxBody < 0:
		rule = fmt.Sprintf("MaxBody: %d: must be positive", c.MaxBody)
	case c.MaxRequests < 0:
		rule = fmt.Sprintf("MaxRequests: %d: must be positive", c.MaxRequests)
	case c.Timeout < 0 || c.Timeout > time.Minute: // claims outlive their requests
		rule = fmt.Sprintf("Timeout: %v: must be positive and at most 1m0s", c.Timeout)
	}
	for i, key := range c.Keys {
		if len(key) < 16 {
			rule = fmt.Sprintf("Keys[%d]: %d bytes: must be at least 16", i, len(key))
		}
	}
	if rule != "" {
		return fmt.Errorf("%w: heraldapi.Config.%s", herald.ErrInvalid, rule)
	}
	return nil
}

// bearer returns an authorize that asks for one of the keys. The keys are compared
// by their hashes, so that the time it takes tells nothing of them.
func bearer(keys []string) func(*http.Request) (string, error) {
	callers := make(map[[sha256.Size]byte]string, len(keys))
	for _, key := range keys {
		hash := sha256.Sum256([]byte(key))
		callers[hash] = hex.EncodeToString(hash[:8])
	}
	return func(r *http.Request) (string, error) {
		scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		caller, known := callers[sha256.Sum256([]byte(strings.TrimSpace(key)))]
		if !strings.EqualFold(scheme, "Bearer") || !known {
			return "", &herald.HTTPError{Status: http.StatusUnauthorized, Message: "Authorization: must be Bearer and a key"}
		}
		return caller, nil
	}
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }
