package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/heraldgo/herald"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// A browser has cookies, and talks to the service with one of the routers.
type browser struct {
	t    *testing.T
	s    *service
	url  string
	http *http.Client
}

// eachFramework runs test with a service for each router.
func eachFramework(t *testing.T, test func(t *testing.T, b *browser)) {
	for name, routes := range frameworks {
		t.Run(name, func(t *testing.T) {
			s, err := newService([]byte("a key that only this test has"), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(protect(routes(s)))
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				s.hub.Shutdown(ctx)
				server.Close()
			})
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			test(t, &browser{t, s, server.URL, &http.Client{Jar: jar}})
		})
	}
}

// do makes a request, and returns the status and the body.
func (b *browser) do(method, path string, form url.Values, header http.Header) (int, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for name := range header {
		r.Header[name] = header[name]
	}
	response, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// token returns the token of an answer.
func (b *browser) token(status int, body string) string {
	b.t.Helper()
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		b.t.Fatalf("%d %s: %v", status, body, err)
	}
	return answer.Token
}

func (b *browser) issue(user string, life time.Duration) string {
	b.t.Helper()
	token, err := b.s.issue(user, life)
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

// dial connects, and returns the status if that fails.
func (b *browser) dial(query string, o websocket.DialOptions) (*websocket.Conn, int) {
	b.t.Helper()
	ws, response, err := websocket.Dial(b.t.Context(), b.url+"/ws"+query, &o)
	if err != nil {
		if response == nil {
			b.t.Fatal(err)
		}
		return nil, response.StatusCode
	}
	b.t.Cleanup(func() { ws.CloseNow() })
	return ws, http.StatusSwitchingProtocols
}

func (b *browser) send(ws *websocket.Conn, v any) {
	b.t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = ws.Write(b.t.Context(), websocket.MessageText, text)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// read returns the next message, or the code with which the connection ends.
func (b *browser) read(ws *websocket.Conn) (string, websocket.StatusCode) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	_, text, err := ws.Read(ctx)
	if err != nil {
		return "", websocket.CloseStatus(err)
	}
	return string(text), 0
}

// Who logs in is known to the routes and to the Hub, by cookie, header, subprotocol and
// query.
func TestLogin(t *testing.T) {
	eachFramework(t, func(t *testing.T, b *browser) {
		if status, _ := b.do("GET", "/me", nil, nil); status != http.StatusUnauthorized {
			t.Errorf("without a login: %d", status)
		}
		if status, _ := b.do("POST", "/login", url.Values{"name": {"anna"}, "password": {"bert"}}, nil); status != http.StatusUnauthorized {
			t.Errorf("with a wrong password: %d", status)
		}
		if _, status := b.dial("", websocket.DialOptions{HTTPClient: b.http}); status != http.StatusUnauthorized {
			t.Errorf("a connection without a login: %d", status)
		}
		token := b.token(b.do("POST", "/login", url.Values{"name": {"anna"}, "password": {"anna"}}, nil))
		if status, body := b.do("GET", "/me", nil, nil); status != http.StatusOK || body != "anna" {
			t.Errorf("by cookie: %d %s", status, body)
		}
		var devices []*websocket.Conn
		for name, way := range map[string]struct {
			query  string
			option websocket.DialOptions
		}{
			"cookie":      {"", websocket.DialOptions{HTTPClient: b.http}},
			"header":      {"", websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}}},
			"query":       {"?token=" + token, websocket.DialOptions{}},
			"subprotocol": {"", websocket.DialOptions{Subprotocols: []string{"bearer", token}}},
		} {
			ws, status := b.dial(way.query, way.option)
			if ws == nil {
				t.Fatalf("by %s: %d", name, status)
			}
			if name == "subprotocol" && ws.Subprotocol() != "bearer" {
				t.Errorf("a browser would drop the connection: the answer's subprotocol is %q", ws.Subprotocol())
			}
			devices = append(devices, ws)
		}
		b.send(devices[0], map[string]string{"text": "hello"})
		for _, ws := range devices {
			if text, code := b.read(ws); text != `{"text":"hello"}` {
				t.Errorf("a device of anna got %q, %d", text, code)
			}
		}
	})
}

// A page of another origin can use the user's cookie neither for a connection nor for a
// request.
func TestOtherOrigin(t *testing.T) {
	eachFramework(t, func(t *testing.T, b *browser) {
		b.do("POST", "/login", url.Values{"name": {"anna"}, "password": {"anna"}}, nil)
		evil := http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}
		if _, status := b.dial("", websocket.DialOptions{HTTPClient: b.http, HTTPHeader: evil}); status != http.StatusForbidden {
			t.Errorf("a connection: %d", status)
		}
		if status, _ := b.do("POST", "/refresh", nil, evil); status != http.StatusForbidden {
			t.Errorf("a request: %d", status)
		}
	})
}

// Nobody gets in by a token that has expired, that another key has signed, that is signed
// in another way, or that does not expire.
func TestTokens(t *testing.T) {
	eachFramework(t, func(t *testing.T, b *browser) {
		sign := func(method jwt.SigningMethod, key any, claims jwt.RegisteredClaims) string {
			token, err := jwt.NewWithClaims(method, claims).SignedString(key)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		good := jwt.RegisteredClaims{Subject: "anna", Issuer: "frameworks", ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))}
		forever, nobody, foreign := good, good, good
		forever.ExpiresAt, nobody.Subject, foreign.Issuer = nil, "", "another service"
		for name, token := range map[string]string{
			"expired":         b.issue("anna", -time.Minute),
			"another key":     sign(jwt.SigningMethodHS256, []byte("another key"), good),
			"another method":  sign(jwt.SigningMethodHS384, b.s.key, good),
			"not signed":      sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good),
			"never expires":   sign(jwt.SigningMethodHS256, b.s.key, forever),
			"nobody's":        sign(jwt.SigningMethodHS256, b.s.key, nobody),
			"another service": sign(jwt.SigningMethodHS256, b.s.key, foreign),
			"empty":           "",
		} {
			if _, status := b.dial("?token="+token, websocket.DialOptions{}); status != http.StatusUnauthorized {
				t.Errorf("%s: %d", name, status)
			}
		}
		if ws, status := b.dial("?token="+sign(jwt.SigningMethodHS256, b.s.key, good), websocket.DialOptions{}); ws == nil {
			t.Errorf("a good token: %d", status)
		}
	})
}

// A connection lives as long as its token. A fresh one lets it go on, in place.
func TestExpiry(t *testing.T) {
	eachFramework(t, func(t *testing.T, b *browser) {
		b.do("POST", "/login", url.Values{"name": {"anna"}, "password": {"anna"}}, nil)
		ws, _ := b.dial("?token="+b.issue("anna", patience), websocket.DialOptions{})
		fresh := b.token(b.do("POST", "/refresh", nil, nil))
		b.send(ws, map[string]string{"token": fresh})
		var answer struct{ Expires int64 }
		text, code := b.read(ws)
		if err := json.Unmarshal([]byte(text), &answer); err != nil || time.Until(time.Unix(answer.Expires, 0)) < time.Minute {
			t.Fatalf("the answer to a fresh token is %q, %d", text, code)
		}
		b.send(ws, map[string]string{"token": b.issue("anna", time.Second)})
		b.read(ws)
		if text, code := b.read(ws); code != websocket.StatusCode(herald.StatusExpired) {
			t.Errorf("when the token has expired: %q, %d", text, code)
		}
		ws, _ = b.dial("?token="+fresh, websocket.DialOptions{})
		b.send(ws, map[string]string{"token": b.issue("bert", time.Hour)})
		if text, code := b.read(ws); code != websocket.StatusCode(herald.StatusUnauthorized) {
			t.Errorf("with somebody else's token: %q, %d", text, code)
		}
	})
}
