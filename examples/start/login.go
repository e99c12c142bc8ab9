package main

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/heraldgo/herald"
	"github.com/redis/go-redis/v9"
)

// logins are those who are logged in: a key for each, by the value of the cookie.
type logins struct{ rdb *redis.Client }

// login takes a name, and gives a cookie. Check a password here.
func (l *logins) login(w http.ResponseWriter, r *http.Request) {
	name := r.PostFormValue("name")
	if name == "" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	token := rand.Text()
	if err := l.rdb.Set(r.Context(), "login:"+token, name, 12*time.Hour).Err(); err != nil {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: "login", Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

var (
	errNoLogin = errors.New("not logged in")
	errUnknown = &herald.HTTPError{Status: http.StatusServiceUnavailable, Message: "try again"}
)

// whoIs is Config.Authenticate.
func (l *logins) whoIs(r *http.Request) (herald.Identity, error) {
	cookie, err := r.Cookie("login")
	if err != nil {
		return herald.Identity{}, errNoLogin
	}
	name, err := l.rdb.Get(r.Context(), "login:"+cookie.Value).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return herald.Identity{}, errNoLogin
	case err != nil: // the login may be good, so this must not be 401
		return herald.Identity{}, errUnknown
	}
	return herald.Identity{User: name, Groups: []string{"room"}}, nil
}

// required shows a form to whoever is not logged in, and nothing else.
func (l *logins) required(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", l.login)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch _, err := l.whoIs(r); err {
		case nil:
			next.ServeHTTP(w, r)
		case errNoLogin:
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `<form method="post" action="/login">Your name: <input name="name" autofocus></form>`)
		default:
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	return mux
}
