package heraldadmin_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldadmin"
	"github.com/heraldgo/herald/heraldtest"
)

// serve mounts the page of a Hub for whoever has a cookie.
func serve(t *testing.T, hub *herald.Hub, log io.Writer) *httptest.Server {
	t.Helper()
	admin, err := heraldadmin.New(heraldadmin.Config{
		Hub: hub, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Authorize: func(r *http.Request) (string, error) {
			switch c, _ := r.Cookie("login"); {
			case c == nil:
				return "", &herald.HTTPError{Status: http.StatusUnauthorized, Message: "log in first"}
			case strings.HasPrefix(c.Value, "status"):
				status, err := strconv.Atoi(strings.TrimPrefix(c.Value, "status"))
				return "", cmp.Or(err, error(&herald.HTTPError{Status: status, Message: "secret"}))
			case c.Value != "carl":
				return "", errors.New("secret")
			}
			return "carl", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.StripPrefix("/admin", admin))
	t.Cleanup(server.Close)
	return server
}

// ask makes a request as carl, with pairs of headers.
func ask(t *testing.T, server *httptest.Server, method, path, body string, headers ...string) (status int, answer string, header http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/admin"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Cookie", "login=carl")
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b)), resp.Header
}

// Only those see the page whom Authorize lets in, and no other site's page acts for them.
func TestDoor(t *testing.T) {
	for _, config := range []heraldadmin.Config{{}, {Hub: heraldtest.NewCluster(t, 1, herald.Config{}).Nodes[0].Hub}} {
		if _, err := heraldadmin.New(config); !errors.Is(err, herald.ErrInvalid) {
			t.Errorf("%+v: %v", config, err)
		}
	}
	var log bytes.Buffer
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	server := serve(t, cluster.Nodes[0].Hub, &log)
	for _, path := range []string{"/", "/admin.js", "/nodes", "/user?id=anna"} {
		status, answer, header := ask(t, server, "GET", path, "")
		if csp := header.Get("Content-Security-Policy"); status != 200 || answer == "" || strings.Contains(csp, "unsafe") || !strings.HasPrefix(csp, "default-src 'none'; ") || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", path, status, header)
		}
		if status, answer, _ = ask(t, server, "GET", path, "", "Cookie", "x=y"); status != 401 || answer != "log in first" {
			t.Errorf("%s of a stranger: %d %s", path, status, answer)
		}
		for _, login := range []string{"eve", "status0", "status99", "status200", "status204", "status302", "status600", "status1000"} {
			if status, answer, _ = ask(t, server, "GET", path, "", "Cookie", "login="+login); status != 403 || strings.Contains(answer, "secret") {
				t.Errorf("%s of %s: %d %s", path, login, status, answer)
			}
		}
	}
	client := cluster.Connect(0, herald.Identity{User: "anna"})
	for name, test := range map[string]struct {
		path, body string
		headers    []string
		status     int
		answer     string
	}{
		"another site":     {"/disconnect", `{"user":"anna"}`, []string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		"an old browser":   {"/disconnect", `{"user":"anna"}`, []string{"Origin", "https://evil.example"}, 403, ""},
		"a form":           {"/disconnect", `{"user":"anna"}`, []string{"Content-Type", "text/plain"}, 415, "application/json"},
		"nobody":           {"/disconnect", `{}`, nil, 400, "must have a connection or a user"},
		"both":             {"/disconnect", `{"user":"a","connection":"n.1"}`, nil, 400, "must have a connection or a user"},
		"an unknown field": {"/disconnect", `{"everyone":true}`, nil, 400, "unknown field"},
		"no connection id": {"/disconnect", `{"connection":"x"}`, nil, 400, "connection id"},
		"nobody to follow": {"/follow", `{"user":""}`, nil, 400, "must not be empty"},
		"too long":         {"/follow", `{"user":"` + strings.Repeat("x", 70_000) + `"}`, nil, 400, "too large"},
		"a get":            {"/disconnect?user=anna", "", []string{"GET", ""}, 405, ""},
	} {
		method := "POST"
		if name == "a get" {
			method = "GET"
		}
		if status, answer, _ := ask(t, server, method, test.path, test.body, test.headers...); status != test.status || !strings.Contains(answer, test.answer) {
			t.Errorf("%s: %d %s, want %d", name, status, answer, test.status)
		}
	}
	client.ExpectNothing()
	if status, answer, _ := ask(t, server, "POST", "/disconnect", `{"user":"anna"}`); status != 200 {
		t.Errorf("disconnect: %d %s", status, answer)
	}
	client.ExpectClose(herald.StatusServiceRestart)
	if !strings.Contains(log.String(), "who=carl user=anna") {
		t.Errorf("the log does not say who it was:\n%s", &log)
	}
}

// A connection that the Registry lists, and whose node says nothing, is shown with that
// doubt, and the other way round.
func TestDoubts(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{})
	cluster.Connect(1, herald.Identity{User: "anna", Device: "phone"})
	server := serve(t, cluster.Nodes[0].Hub, io.Discard)
	user := func() (answer struct {
		Conns []struct {
			Device, Doubt string
			State         *struct{}
		}
		Doubts []string
	}) {
		t.Helper()
		status, text, _ := ask(t, server, "GET", "/user?id=anna", "")
		if err := json.Unmarshal([]byte(text), &answer); err != nil || status != 200 {
			t.Fatalf("%d %s: %v", status, text, err)
		}
		return answer
	}
	cluster.Nodes[1].Bus.Cut()
	got := user()
	if len(got.Conns) != 1 || got.Conns[0].Device != "phone" || !strings.Contains(got.Conns[0].Doubt, "has not told of it") || got.Conns[0].State != nil || len(got.Doubts) != 1 {
		t.Errorf("with the node cut off: %+v", got)
	}
	server = serve(t, cluster.Nodes[1].Hub, io.Discard) // which has the connection
	cluster.Nodes[1].Registry.Cut()
	got = user()
	if len(got.Conns) != 1 || got.Conns[0].State == nil || len(got.Doubts) == 0 {
		t.Errorf("without the Registry: %+v", got)
	}
}

// Bodies that do not come hold nobody up.
func TestSlowBodies(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	client := cluster.Connect(0, herald.Identity{User: "anna"})
	server := serve(t, cluster.Nodes[0].Hub, io.Discard)
	const body = `{"user":"anna"}`
	var slow []net.Conn
	var answers []*bufio.Reader
	for range 9 { // one more than are answered at a time
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /admin/disconnect HTTP/1.1\r\nHost: x\r\nCookie: login=carl\r\nContent-Type: application/json\r\n"+
			"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body))
		// The server says so when it reads the body.
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		r := bufio.NewReader(conn)
		line, _ := r.ReadString('\n')
		if empty, err := r.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
			t.Fatalf("%q, %q, %v", line, empty, err)
		}
		slow, answers = append(slow, conn), append(answers, r)
		if status, answer, _ := ask(t, server, "GET", "/nodes", ""); status != http.StatusOK {
			t.Fatalf("with %d slow bodies: %d %s", len(slow), status, answer)
		}
	}
	client.ExpectNothing()
	io.WriteString(slow[8], body)
	client.ExpectClose(herald.StatusServiceRestart)
	if response, err := http.ReadResponse(answers[8], nil); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("the body that came late: %v, %v", response, err)
	}
	// In the end the server gives those up that do not come.
	response, err := http.ReadResponse(answers[0], nil)
	if err != nil || response.StatusCode != http.StatusBadRequest {
		t.Errorf("the body that does not come: %v, %v", response, err)
	}
}

// brokenLog panics.
type brokenLog struct{}

func (brokenLog) Write([]byte) (int, error) { panic("the log is broken") }

// Questions that panic, in the user's Logger for instance, leave room for others.
func TestPanics(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{})
	server := serve(t, cluster.Nodes[0].Hub, brokenLog{})
	for range 9 { // one more than are answered at a time
		r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/admin/disconnect", strings.NewReader(`{"user":"anna"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Cookie", "login=carl")
		r.Header.Set("Content-Type", "application/json")
		if response, err := http.DefaultClient.Do(r); err == nil {
			response.Body.Close()
			t.Fatalf("the question did not panic: %s", response.Status)
		}
	}
	if status, answer, _ := ask(t, server, "GET", "/nodes", ""); status != http.StatusOK {
		t.Errorf("afterwards: %d %s", status, answer)
	}
}
