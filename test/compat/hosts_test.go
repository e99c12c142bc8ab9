package compat

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"

	"github.com/heraldgo/herald"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	gin.DefaultWriter = io.Discard
	chimiddleware.DefaultLogger = chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{
		Logger: log.New(io.Discard, "", 0), NoColor: true,
	})
	os.Exit(m.Run())
}

// hosts mount the Hub at /ws beside a page at /page, each with the
// middleware that is usual there. No timeout in them ends during a test: it
// is the end of the request that ends the request's context.
var hosts = []struct {
	name  string
	mount func(t *testing.T, hub http.Handler) http.Handler
}{
	{"net/http", func(_ *testing.T, hub http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("GET /ws", http.MaxBytesHandler(hub, 1<<20))
		mux.HandleFunc("GET /page", page)
		return http.NewCrossOriginProtection().Handler(mux)
	}},
	{"chi", func(_ *testing.T, hub http.Handler) http.Handler {
		r := chi.NewRouter()
		r.Use(chimiddleware.RequestID, chimiddleware.Logger, chimiddleware.Recoverer,
			chimiddleware.Compress(5), chimiddleware.NoCache, chimiddleware.Throttle(1000), chimiddleware.Timeout(time.Minute))
		r.Handle("/ws", hub)
		r.Get("/page", page)
		return r
	}},
	{"gin", func(_ *testing.T, hub http.Handler) http.Handler {
		r := gin.Default()
		r.GET("/ws", gin.WrapH(hub))
		r.GET("/page", gin.WrapF(page))
		return r
	}},
	{"echo", func(_ *testing.T, hub http.Handler) http.Handler {
		e := echo.New()
		e.Use(echomiddleware.RequestID(), echomiddleware.Recover(), echomiddleware.Gzip(), echomiddleware.Secure(),
			echomiddleware.CORS(), echomiddleware.BodyLimit("1M"), echomiddleware.ContextTimeout(time.Minute),
			echomiddleware.RequestLoggerWithConfig(echomiddleware.RequestLoggerConfig{
				LogStatus:     true,
				LogValuesFunc: func(echo.Context, echomiddleware.RequestLoggerValues) error { return nil },
			}))
		e.GET("/ws", echo.WrapHandler(hub))
		e.GET("/page", echo.WrapHandler(http.HandlerFunc(page)))
		return e
	}},
	{"reverse proxy", func(t *testing.T, hub http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/ws", hub)
		mux.HandleFunc("/page", page)
		behind := httptest.NewServer(mux)
		t.Cleanup(behind.Close)
		to, err := url.Parse(behind.URL)
		if err != nil {
			t.Fatal(err)
		}
		return httputil.NewSingleHostReverseProxy(to)
	}},
}

func page(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a page") }

func eachHost(t *testing.T, test func(t *testing.T, s *station, srv server)) {
	for _, host := range hosts {
		t.Run(host.name, func(t *testing.T) {
			s := newStation(t, nil)
			eachServer(t, host.mount(t, s), func(t *testing.T, srv server) { test(t, s, srv) })
		})
	}
}

// What a Conn does must not hang on the request it came from: the host has
// ended that, and has given its parts to other requests.
func TestHost(t *testing.T) {
	eachHost(t, func(t *testing.T, s *station, srv server) {
		const n = 10
		conns := make([]*client, n)
		for i := range conns {
			conns[i], _ = dialGorilla(t, srv, fmt.Sprintf("/ws?user=%d", i))
			get(t, srv, "/page")
		}
		for range conns {
			next(t, next(t, s.requests, "request").Done(), "end of a request")
		}
		for i, c := range conns {
			if err := s.Send(t.Context(), herald.User(fmt.Sprint(i)), herald.Text(fmt.Sprint("to ", i))); err != nil {
				t.Fatal(err)
			}
			if e := c.expect(t, received); e.data != fmt.Sprint("to ", i) {
				t.Errorf("user %d got %v", i, e)
			}
			if err := c.send(true, []byte("from a client")); err != nil {
				t.Fatal(err)
			}
			if m := next(t, s.messages, "message"); m.String() != "from a client" {
				t.Errorf("hub got %q", m)
			}
		}
		if err := s.Disconnect(t.Context(), herald.Everyone(), 4000, "enough"); err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			if e := c.expect(t, ended); e.code != 4000 || e.data != "enough" {
				t.Errorf("got %v", e)
			}
		}
	})
}

func TestHostRefuses(t *testing.T) {
	eachHost(t, func(t *testing.T, s *station, srv server) {
		if _, status := dialGorilla(t, srv, "/ws"); status != http.StatusUnauthorized {
			t.Errorf("without a user: status %d, want 401", status)
		}
		if status, _ := get(t, srv, "/ws?user=42"); status < 400 || status > 499 {
			t.Errorf("without an upgrade: status %d, want one of 4xx", status)
		}
		if status, body := get(t, srv, "/page"); status != 200 || body != "a page" {
			t.Errorf("the page beside it: status %d, %q", status, body)
		}
	})
}

// get gets a path as a browser would get a page.
func get(t *testing.T, srv server, path string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: srv.tls}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: patience}
	response, err := client.Get("http" + strings.TrimPrefix(srv.url, "ws") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// A bareWriter is what many a middleware makes of a ResponseWriter: it has
// no Hijack, and no Unwrap to find one.
type bareWriter struct{ http.ResponseWriter }

// A middleware that hides the connection makes upgrades impossible. The one
// who reads the log shall know which.
func TestHostHidesConnection(t *testing.T) {
	for _, tt := range []struct {
		culprit string
		wrap    func(http.Handler) http.Handler
	}{
		{"timeoutWriter", func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "too late") }},
		{"bareWriter", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(bareWriter{w}, r) })
		}},
		{"bareWriter", func(h http.Handler) http.Handler {
			e := echo.New()
			e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c echo.Context) error {
					c.Response().Writer = bareWriter{c.Response().Writer}
					return next(c)
				}
			})
			e.GET("/", echo.WrapHandler(h))
			return e
		}},
	} {
		t.Run(tt.culprit, func(t *testing.T) {
			s := newStation(t, nil)
			eachServer(t, tt.wrap(s), func(t *testing.T, srv server) {
				if _, status := dialGorilla(t, srv, "/?user=42"); status < 500 {
					t.Errorf("status %d, want one of 5xx", status)
				}
				if log := s.log.String(); !strings.Contains(log, tt.culprit) {
					t.Errorf("the log does not name %s:\n%s", tt.culprit, log)
				}
			})
			s.awaitEmpty(t, "42")
		})
	}
}

// awaitEmpty waits until no Session of the user is left: they go in batches,
// after the answer.
func (s *station) awaitEmpty(t *testing.T, user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		sessions, err := s.Sessions(ctx, herald.User(user))
		if err != nil {
			t.Fatalf("sessions of %s: %v", user, err)
		}
		if len(sessions) == 0 {
			return
		}
		runtime.Gosched()
	}
}

// Pages of other sites may not connect with a user's cookies.
func TestHostOrigin(t *testing.T) {
	eachHost(t, func(t *testing.T, s *station, srv server) {
		own := "http" + strings.TrimPrefix(srv.url, "ws")
		for origin, want := range map[string]int{own: 101, "https://elsewhere.example": 403} {
			r, err := http.NewRequest("GET", own+"/ws?user=42", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{
				"Origin": {origin}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
			}
			response, err := (&http.Transport{TLSClientConfig: srv.tls}).RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("origin %s: status %d, want %d", origin, response.StatusCode, want)
			}
		}
	})
}
