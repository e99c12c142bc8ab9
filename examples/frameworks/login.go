package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/heraldgo/herald"
)

// A service knows its users by tokens (JWT), which come by cookie or without.
type service struct {
	key  []byte
	life time.Duration // of a token
	hub  *herald.Hub
}

func newService(key []byte, life time.Duration) (*service, error) {
	s := &service{key: key, life: life}
	hub, err := herald.New(herald.Config{Authenticate: authenticate, OnMessage: s.message})
	s.hub = hub
	return s, err
}

// issue makes a token for a user.
func (s *service) issue(user string, life time.Duration) (string, error) {
	claims := jwt.RegisteredClaims{Subject: user, Issuer: "frameworks", ExpiresAt: jwt.NewNumericDate(time.Now().Add(life))}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(s.key)
}

// verify returns whose token it is, and until when.
func (s *service) verify(token string) (user string, expires time.Time, err error) {
	var claims jwt.RegisteredClaims
	_, err = jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return s.key, nil },
		jwt.WithValidMethods([]string{"HS256"}), // or the client chooses how it is checked
		jwt.WithIssuer("frameworks"), jwt.WithExpirationRequired())
	if err == nil && claims.Subject == "" {
		err = errors.New("the token is nobody's")
	}
	if err != nil {
		return "", time.Time{}, err
	}
	return claims.Subject, claims.ExpiresAt.Time, nil
}

// find returns the request's token. A browser's script cannot set headers of a WebSocket,
// so without a cookie it sends the token as a subprotocol, ["bearer", token], which has to
// be answered with "bearer"; or in the query, which proxies write to their logs.
func find(r *http.Request) (token, subprotocol string) {
	offered := strings.Split(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",")
	if len(offered) == 2 && strings.TrimSpace(offered[0]) == "bearer" {
		return strings.TrimSpace(offered[1]), "bearer"
	}
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token, ""
	}
	if token := r.URL.Query().Get("token"); token != "" {
		return token, ""
	}
	if cookie, err := r.Cookie("login"); err == nil {
		return cookie.Value, ""
	}
	return "", ""
}

type identityKey struct{}

// identify returns the request with the Identity of its user. Each router's middleware
// calls it, in front of the routes that need a login.
func (s *service) identify(r *http.Request) (*http.Request, error) {
	token, subprotocol := find(r)
	user, expires, err := s.verify(token)
	if err != nil {
		return nil, err
	}
	identity := herald.Identity{User: user, Expires: expires, Subprotocol: subprotocol}
	return r.WithContext(context.WithValue(r.Context(), identityKey{}, identity)), nil
}

// authenticate is the Hub's: it believes the middleware.
func authenticate(r *http.Request) (herald.Identity, error) {
	identity, ok := r.Context().Value(identityKey{}).(herald.Identity)
	if !ok {
		return herald.Identity{}, errors.New("the route has no login in front of it")
	}
	return identity, nil
}

// message takes a fresh token, with which the connection goes on, or a text for all
// devices of the user.
func (s *service) message(ctx context.Context, c *herald.Conn, m herald.Message) {
	var said struct{ Token, Text string }
	if err := json.Unmarshal(m.Bytes(), &said); err != nil {
		c.Close(herald.StatusUnsupportedData, "not JSON")
		return
	}
	if said.Token == "" {
		c.Hub().Send(ctx, herald.User(c.User()), herald.JSON(map[string]string{"text": said.Text}))
		return
	}
	user, expires, err := s.verify(said.Token)
	if err != nil || user != c.User() {
		c.Close(herald.StatusUnauthorized, "not a token of yours")
		return
	}
	c.SetExpiry(expires)
	c.Send(herald.JSON(map[string]int64{"expires": expires.Unix()}))
}

// login takes a name and a password, which is the name again, and answers with a token.
func (s *service) login(w http.ResponseWriter, r *http.Request) {
	name := r.PostFormValue("name")
	if name == "" || r.PostFormValue("password") != name {
		http.Error(w, "wrong name or password", http.StatusUnauthorized)
		return
	}
	s.answer(w, r, name)
}

// refresh answers with a fresh token. The page sends it over its WebSocket.
func (s *service) refresh(w http.ResponseWriter, r *http.Request) { s.answer(w, r, user(r)) }

// me says who asks.
func (s *service) me(w http.ResponseWriter, r *http.Request) { w.Write([]byte(user(r))) }

// user returns who a request comes from that has passed the middleware.
func user(r *http.Request) string {
	identity, _ := r.Context().Value(identityKey{}).(herald.Identity)
	return identity.User
}

// answer answers with a token for the user, also as a cookie, which scripts cannot read.
func (s *service) answer(w http.ResponseWriter, r *http.Request, user string) {
	token, err := s.issue(user, s.life)
	if err != nil {
		http.Error(w, "no token", http.StatusInternalServerError)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: "login", Value: token, Path: "/", MaxAge: int(s.life / time.Second),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil,
	})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{"token": token})
}
