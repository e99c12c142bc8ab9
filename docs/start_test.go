package docs_test

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// logins are those who are logged in, by the value of their cookie.
type logins struct {
	mu    sync.Mutex
	users map[string]string
}

// login takes a name, and gives a cookie. Check a password here.
func (l *logins) login(w http.ResponseWriter, r *http.Request) {
	name := r.PostFormValue("name")
	if name == "" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	token := rand.Text() // of crypto/rand
	l.mu.Lock()
	l.users[token] = name
	l.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: "login", Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// whoIs is Config.Authenticate.
func (l *logins) whoIs(r *http.Request) (herald.Identity, error) {
	cookie, err := r.Cookie("login")
	if err != nil {
		return herald.Identity{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	name, ok := l.users[cookie.Value]
	if !ok {
		return herald.Identity{}, errors.New("the login has ended")
	}
	return herald.Identity{User: name, Groups: []string{"room"}}, nil
}

// required shows a form to whoever is not logged in, and nothing else.
func (l *logins) required(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", l.login)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := l.whoIs(r); err != nil {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `<form method="post" action="/login">Your name: <input name="name" autofocus></form>`)
			return
		}
		next.ServeHTTP(w, r)
	})
	return mux
}

func TestStart(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Retention: time.Minute})
	anna := cluster.ConnectHistory(0, herald.Identity{User: "anna", Groups: []string{"room"}})
	anna.Cut() // her network fails
	msg := herald.JSON(map[string]any{"id": 1, "text": "hello"})
	if err := cluster.Nodes[1].Hub.Send(t.Context(), herald.Group("room"), msg); err != nil {
		t.Fatal(err)
	}
	if !anna.ComeBack(1) { // to the other node
		t.Error("something is missing")
	}
	anna.Expect(`{"id":1,"text":"hello"}`)
}

// Who has the cookie of a login is known, and nobody else is.
func TestStartLogin(t *testing.T) {
	people := &logins{users: make(map[string]string)}
	service := people.required(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "the room")
	}))
	post := func(name string) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/login", strings.NewReader(url.Values{"name": {name}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		return w.Result()
	}
	ask := func(cookies ...*http.Cookie) (herald.Identity, error) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/ws", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		identity, err := people.whoIs(r)
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		if in := w.Code == http.StatusOK && w.Body.String() == "the room"; in != (err == nil) {
			t.Errorf("%v: %v, but the answer is %d, %s", cookies, err, w.Code, w.Body)
		}
		return identity, err
	}
	if response := post(""); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody logs in: %s", response.Status)
	}
	if identity, err := ask(post("anna").Cookies()...); err != nil || identity.User != "anna" {
		t.Errorf("%+v, %v", identity, err)
	}
	for _, cookies := range [][]*http.Cookie{nil, {{Name: "login", Value: "guessed"}}} {
		if identity, err := ask(cookies...); err == nil {
			t.Errorf("%v is %+v", cookies, identity)
		}
	}
}
