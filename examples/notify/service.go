package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/client/js"
)

//go:embed index.html
var page []byte

// A service is the web service. What herald adds to it is the Hub, its mount, and
// Disconnect in logout.
type service struct {
	http.Handler
	store *store
	hub   *herald.Hub
}

// loginTime is how long a login lasts.
const loginTime = 12 * time.Hour

func newService(store *store, rdb *redis.Client) (*service, error) {
	s := &service{store: store}
	hub, err := herald.New(herald.Config{
		Redis: rdb, Authenticate: s.identify, Retention: 5 * time.Minute,
		RejectAfterUpgrade: true, // so that a page learns that its login has ended
	})
	if err != nil {
		return nil, err
	}
	s.hub = hub
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub)
	mux.Handle("GET /herald.min.js", js.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /logout", s.logout)
	mux.HandleFunc("GET /orders", s.orders)
	mux.HandleFunc("POST /orders", s.buy)
	// The cookie goes with every request, so pages of other origins must not make
	// any. The Hub checks the origins of its own requests.
	s.Handler = http.NewCrossOriginProtection().Handler(mux)
	return s, nil
}

// identify is Config.Authenticate: it knows the customer by the cookie, as the rest of
// the service does. The connection ends with the login.
func (s *service) identify(r *http.Request) (herald.Identity, error) {
	name, expires, err := s.customer(r)
	if err != nil && !errors.Is(err, errNoLogin) { // the login may be good, so this must not be 401
		log.Print(err)
		err = &herald.HTTPError{Status: http.StatusServiceUnavailable, Message: "try again later"}
	}
	return herald.Identity{User: name, Expires: expires, Groups: []string{loginGroup(r)}, Platform: "web"}, err
}

// loginGroup is the group of all connections of one login. Its name goes through Redis,
// so the token itself is not in it.
func loginGroup(r *http.Request) string {
	cookie, err := r.Cookie("login")
	if err != nil {
		return "login:none"
	}
	return "login:" + string(digest(cookie.Value))
}

func (s *service) customer(r *http.Request) (name string, expires time.Time, err error) {
	cookie, err := r.Cookie("login")
	if err != nil {
		return "", time.Time{}, errNoLogin
	}
	return s.store.customer(r.Context(), cookie.Value)
}

func (s *service) login(w http.ResponseWriter, r *http.Request) {
	expires := time.Now().Add(loginTime)
	token, err := s.store.login(r.Context(), r.PostFormValue("name"), r.PostFormValue("password"), expires)
	if err != nil {
		fail(w, err)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: "login", Value: token, Path: "/", Expires: expires,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil,
	})
	w.WriteHeader(http.StatusNoContent)
}

// logout ends the login, and its connections on every node.
func (s *service) logout(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie("login")
	if err != nil {
		fail(w, errNoLogin)
		return
	}
	if err := s.store.logout(r.Context(), cookie.Value); err != nil {
		fail(w, err)
		return
	}
	ctx := context.WithoutCancel(r.Context()) // the page that asks for it may go at once
	if err := s.hub.Disconnect(ctx, herald.Group(loginGroup(r)), herald.StatusExpired, "logged out"); err != nil {
		fail(w, err)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: "login", Path: "/", MaxAge: -1})
	w.WriteHeader(http.StatusNoContent)
}

// orders answers with the customer's orders, and the position in the log at which the
// page goes on: the position is read first, so that nothing that comes in between is
// missed.
func (s *service) orders(w http.ResponseWriter, r *http.Request) {
	name, _, err := s.customer(r)
	if err != nil {
		fail(w, err)
		return
	}
	position, err := s.hub.Position(r.Context())
	if err != nil {
		log.Printf("orders without a position: %v", err) // the page asks again when it is connected
	}
	orders, err := s.store.orders(r.Context(), name)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, map[string]any{"customer": name, "position": position, "orders": orders})
}

// buy makes an order. All devices of the customer see it at once.
func (s *service) buy(w http.ResponseWriter, r *http.Request) {
	name, _, err := s.customer(r)
	if err != nil {
		fail(w, err)
		return
	}
	item := strings.TrimSpace(r.PostFormValue("item"))
	if item == "" || len(item) > 100 {
		http.Error(w, "item: must have 1 to 100 bytes", http.StatusBadRequest)
		return
	}
	o, err := s.store.buy(r.Context(), name, item)
	if err != nil {
		fail(w, err)
		return
	}
	if err := s.hub.Send(r.Context(), herald.User(name), herald.JSON(o)); err != nil {
		log.Printf("order %d: %s was not told: %v", o.ID, name, err) // the page that ordered has the answer
	}
	w.WriteHeader(http.StatusCreated)
	reply(w, o)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoLogin):
		http.Error(w, "log in first", http.StatusUnauthorized)
	case errors.Is(err, context.Canceled): // nobody is there to read it
	default:
		log.Print(err)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
	}
}
