package docs_test

// The snippets of admin.md.

import (
	"context"
	"errors"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldadmin"
)

type person struct {
	Name  string
	Staff bool
}

// login believes a header.
func login(r *http.Request) (person, error) {
	name := r.Header.Get("Name")
	if name == "" {
		return person{}, errors.New("no name")
	}
	return person{name, name == "carl"}, nil
}

func staffOnly(r *http.Request) (string, error) {
	user, err := login(r) // as your other pages do it
	if err != nil {
		return "", &herald.HTTPError{Status: 401, Message: "log in first"}
	}
	if !user.Staff {
		return "", errors.New("not for customers")
	}
	return user.Name, nil
}

func TestAdmin(t *testing.T) {
	hub, err := herald.New(herald.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Shutdown(context.Background()) })

	admin, err := heraldadmin.New(heraldadmin.Config{Hub: hub, Authorize: staffOnly})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.Handle("/admin/", http.StripPrefix("/admin", admin))

	for name, want := range map[string]int{"": 401, "eve": 403, "carl": 200} {
		r := httptest.NewRequest("GET", "/admin/nodes", nil)
		r.Header.Set("Name", name)
		w := httptest.NewRecorder()
		if mux.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: %d %s", name, w.Code, w.Body)
		}
	}
}
