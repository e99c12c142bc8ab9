package docs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldclient"
)

// withToken is the Config of a client whose service wants a token.
func withToken(fetchToken func(context.Context) (string, error)) heraldclient.Config {
	config := heraldclient.Config{Endpoint: func(ctx context.Context) (string, http.Header, error) {
		token, err := fetchToken(ctx)
		return "wss://example.com/ws", http.Header{"Authorization": {"Bearer " + token}}, err
	}}
	return config
}

// logIn logs in, and connects with the cookie that the browser got.
func logIn(browser *http.Client) (*heraldclient.Client, error) {
	response, err := browser.PostForm("https://example.com/login", url.Values{"name": {"anna"}})
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK { // after the redirects
		return nil, fmt.Errorf("login: %s", response.Status)
	}
	return heraldclient.New(heraldclient.Config{URL: "wss://example.com/ws", HTTPClient: browser})
}

// A client in Go is known by its token, which it fetches for each try, or by the cookie of
// its login. Without either it is told that it is not authorized.
func TestClientLogin(t *testing.T) {
	hub, err := herald.New(herald.Config{
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && token == "fresh" {
				return herald.Identity{User: "bert"}, nil
			}
			cookie, err := r.Cookie("login")
			if err != nil {
				return herald.Identity{}, err
			}
			return herald.Identity{User: cookie.Value}, nil
		},
		OnConnect: func(_ context.Context, c *herald.Conn) error { return c.Send(herald.Text("hello " + c.User())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub)
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "login", Value: r.PostFormValue("name"), Path: "/", Secure: true, HttpOnly: true})
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		hub.Shutdown(context.Background())
		server.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	hears := func(client *heraldclient.Client, err error) error {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for {
			event, err := client.Receive(ctx)
			if err != nil {
				return err
			}
			if m, ok := event.(heraldclient.Message); ok {
				return errors.New(string(m.Data))
			}
		}
	}

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := hears(logIn(&http.Client{Transport: server.Client().Transport, Jar: jar})); err.Error() != "hello anna" {
		t.Errorf("with a cookie: %v", err)
	}
	if err := hears(logIn(&http.Client{Transport: server.Client().Transport})); !errors.Is(err, heraldclient.ErrUnauthorized) {
		t.Errorf("without a jar: %v", err)
	}
	tokens := []string{"stale", "fresh"}
	config := withToken(func(context.Context) (token string, err error) {
		token, tokens = tokens[0], tokens[1:]
		return token, nil
	})
	config.HTTPClient, config.MinDelay, config.MaxDelay = server.Client(), 1, 1
	if err := hears(heraldclient.New(config)); err.Error() != "hello bert" {
		t.Errorf("with a token: %v", err)
	}
}
