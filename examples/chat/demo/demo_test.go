package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

func TestChat(t *testing.T) {
	d := start(t, Options{Nodes: 3})
	ann1 := d.connect(d.nodes[0], "user=ann&device=laptop&platform=web")
	ann2 := d.connect(d.nodes[1], "user=ann&device=phone&platform=ios")
	bob := d.connect(d.nodes[2], "user=bob")
	all := []*client{ann1, ann2, bob}

	bob.say(`{"type":"room","text":"hello"}`)
	for _, c := range all {
		c.want("room", "bob", "hello")
	}
	// The one to bob comes to the sender's own devices, too.
	ann1.say(`{"type":"direct","to":"bob","text":"psst","id":"1"}`)
	if got := ann1.hearAll("direct", "receipt"); got["direct"]["text"] != "psst" || got["receipt"]["state"] != "received" || got["receipt"]["id"] != "1" {
		t.Errorf("a message to bob: got %v", got)
	}
	ann2.want("direct", "ann", "psst")
	bob.want("direct", "ann", "psst")
	// The one to herself comes once, and not to bob.
	ann1.say(`{"type":"direct","to":"ann","text":"note"}`)
	if got := ann1.hearAll("direct", "receipt"); got["direct"]["text"] != "note" || got["receipt"]["text"] != "received on 2 devices" {
		t.Errorf("a message to herself: got %v", got)
	}
	ann2.want("direct", "ann", "note")
	bob.say(`{"type":"direct","to":"nobody","text":"anybody?"}`)
	if got := bob.hearAll("direct", "receipt"); got["direct"]["text"] != "anybody?" || got["receipt"]["state"] != "away" || got["receipt"]["to"] != "nobody" {
		t.Errorf("a message to nobody: got %v", got)
	}

	want := []session{{Node: "n1", Device: "laptop", Platform: "web"}, {Node: "n2", Device: "phone", Platform: "ios"}}
	for _, base := range append(slices.Clone(d.nodes), d.door) {
		got, status := d.online(base, "user=ann")
		slices.SortFunc(got.Sessions, func(a, b session) int { return strings.Compare(a.Node, b.Node) })
		if status != 200 || !got.Online || !slices.Equal(got.Sessions, want) {
			t.Errorf("%s: %d %+v: want %+v", base, status, got, want)
		}
		if got, status := d.online(base, "user=nobody"); status != 200 || got.Online || got.Sessions == nil || len(got.Sessions) > 0 {
			t.Errorf("%s: nobody is online: %d %+v", base, status, got)
		}
		if got, status := d.online(base, ""); status != 400 || got.Error != `user: "": must be 1 to 64 characters of UTF-8, at least one of them visible` {
			t.Errorf("%s: no user: %d %+v", base, status, got)
		}
	}
}

func TestBadInput(t *testing.T) {
	d := start(t, Options{Nodes: 1})
	ann := d.connect(d.door, "user=ann")
	long := strings.Repeat("é", maxText+1)
	for _, c := range []struct{ say, want string }{
		{`hello`, `message: "hello": must be a JSON object`},
		{`[]`, `message: "[]": must be a JSON object`},
		{`null`, `type: "": must be "room" or "direct"`},
		{`{"type":"shout","text":"x"}`, `type: "shout": must be "room" or "direct"`},
		{`{"type":"room","text":7}`, `text: number: must be a string`},
		{`{"type":"room","text":" "}`, `text: " ": must be 1 to 8000 characters, at least one of them visible`},
		{`{"type":"room","text":"` + long + `"}`, `text: "éééééééééééééééééééé" and so on, 8001 characters: must be 1 to 8000 characters, at least one of them visible`},
		{`{"type":"direct","text":"x"}`, `to: "": must be 1 to 64 characters of UTF-8, at least one of them visible`},
	} {
		ann.say(c.say)
		ann.want("error", "", c.want)
	}
	if err := ann.ws.Write(t.Context(), websocket.MessageBinary, []byte("x")); err != nil {
		t.Fatal(err)
	}
	ann.want("error", "", "message: binary: must be a text frame")
	ann.say(`{"type":"room","text":"still here"}`)
	ann.want("room", "ann", "still here")

	for _, query := range []string{"", "user=", "user=%20", "user=%ff", "user=" + strings.Repeat("a", 65), "user=a&device=" + strings.Repeat("a", 65)} {
		_, response, err := websocket.Dial(t.Context(), d.door+"/ws?"+query, nil)
		if err == nil || response == nil || response.StatusCode != 400 {
			t.Errorf("connect with %q: %v, %v: want status 400", query, err, response)
		}
	}
	if status := d.order("nodes/n9", "stop"); status != 404 {
		t.Errorf("stop n9: %d", status)
	}
	if status := d.order("nodes/n1", "start"); status != 409 {
		t.Errorf("start n1: %d", status)
	}
}

func TestFrontDoorTakesTurns(t *testing.T) {
	d := start(t, Options{Nodes: 3})
	for i := range 6 {
		d.connect(d.door, fmt.Sprintf("user=ann&device=%d", i))
		d.online(d.door, "user=ann")
	}
	// A session is registered after the client's handshake has ended.
	eventually(t, "two connections on each node", func() bool {
		got, _ := d.online(d.door, "user=ann")
		count := make(map[string]int)
		for _, s := range got.Sessions {
			count[s.Node]++
		}
		return count["n1"] == 2 && count["n2"] == 2 && count["n3"] == 2
	})
}

// A page of another site must not use the sockets, nor stop nodes.
func TestOtherSites(t *testing.T) {
	d := start(t, Options{Nodes: 1})
	evil := http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}
	_, response, err := websocket.Dial(t.Context(), d.door+"/ws?user=ann", &websocket.DialOptions{HTTPHeader: evil})
	if err == nil || response == nil || response.StatusCode != 403 {
		t.Errorf("socket: %v, %v: want status 403", err, response)
	}
	for _, path := range []string{"nodes/n1/stop", "redis/stop", "redis/start-empty", "tabs/x/cut"} {
		request, _ := http.NewRequestWithContext(t.Context(), "POST", d.door+"/api/"+path, nil)
		request.Header = evil
		response, err = http.DefaultClient.Do(request)
		if err != nil || response.StatusCode != 403 {
			t.Errorf("%s: %v, %v: want status 403", path, err, response)
		}
	}
	own := http.Header{"Origin": {d.door}}
	ws, _, err := websocket.Dial(t.Context(), d.door+"/ws?user=ann", &websocket.DialOptions{HTTPHeader: own})
	if err != nil {
		t.Fatal(err)
	}
	ws.CloseNow()
}

func TestPage(t *testing.T) {
	d := start(t, Options{Nodes: 1})
	for _, base := range []string{d.door, d.nodes[0]} {
		for path, kind := range map[string]string{"/": "text/html", "/chat.css": "text/css", "/herald.js": "text/javascript", "/chat.js": "text/javascript", "/dom.js": "text/javascript", "/log.js": "text/javascript", "/outbox.js": "text/javascript", "/side.js": "text/javascript", "/tab.js": "text/javascript"} {
			response, err := http.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != 200 || !strings.HasPrefix(response.Header.Get("Content-Type"), kind) {
				t.Errorf("%s%s: %d %s", base, path, response.StatusCode, response.Header.Get("Content-Type"))
			}
		}
	}
}

// The page of heraldadmin is there, for this machine.
func TestAdmin(t *testing.T) {
	d := start(t, Options{Nodes: 2})
	d.connect(d.nodes[1], "user=ann&device=laptop")
	for _, base := range []string{d.door, d.nodes[0]} {
		for path, want := range map[string]string{"": "<title>herald admin</title>", "user?id=ann": `"device":"laptop"`} {
			r, err := http.Get(base + "/admin/" + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || r.StatusCode != 200 || !strings.Contains(string(body), want) {
				t.Errorf("%s/admin/%s: %d %s", base, path, r.StatusCode, body)
			}
		}
	}
	for addr, want := range map[string]bool{"127.0.0.1:5": true, "[::1]:5": true, "[::ffff:127.0.0.1]:5": true, "192.0.2.1:5": false, "[2001:db8::1]:5": false, "": false} {
		if _, err := authorize(&http.Request{RemoteAddr: addr}); (err == nil) != want {
			t.Errorf("from %q: %v", addr, err)
		}
	}
}

func TestStopANode(t *testing.T) {
	for _, where := range []string{"embedded", "redis-server"} {
		t.Run(where, func(t *testing.T) {
			o := Options{Nodes: 3}
			if where == "redis-server" {
				o.Redis = "redis://" + redistest.Start(t).Addr
			}
			d := start(t, o)
			ann := d.connect(d.nodes[0], "user=ann&device=laptop")
			ann2 := d.connect(d.nodes[1], "user=ann&device=phone")
			bob := d.connect(d.nodes[0], "user=bob")
			page := d.connect(d.nodes[2], "user=zoe&presence=1")
			page.until("hello", "", "You are on node n3")
			// Who was never registered never goes offline.
			eventually(t, "bob is online", func() bool {
				got, _ := d.online(d.door, "user=bob")
				return got.Online
			})

			if status := d.order("nodes/n1", "stop"); status != 204 {
				t.Fatalf("stop: %d", status)
			}
			ann.gone()
			bob.gone()
			// The door passes over the stopped node.
			again := d.connect(d.door, "user=ann&device=laptop")
			d.connect(d.door, "user=dan")
			d.connect(d.door, "user=dan")
			page.say(`{"type":"direct","to":"ann","text":"still there?"}`)
			again.want("direct", "zoe", "still there?")
			ann2.want("direct", "zoe", "still there?")

			// Presence heals within the lease, and the page is told.
			told := page.until("notice", "bob", "went offline")
			slices.Sort(told)
			if len(slices.Compact(slices.Clone(told))) != len(told) {
				t.Errorf("%q: want each notice once", told)
			}
			got, _ := d.online(d.door, "user=bob")
			if got.Online {
				t.Errorf("bob: %+v: want offline", got)
			}
			got, _ = d.online(d.door, "user=ann")
			if len(got.Sessions) != 2 || slices.ContainsFunc(got.Sessions, func(s session) bool { return strings.HasPrefix(s.Node, "n1") }) {
				t.Errorf("ann: %+v: want two sessions, none on n1", got)
			}

			if status := d.order("nodes/n1", "start"); status != 204 {
				t.Fatalf("start: %d", status)
			}
			back := d.connect(d.nodes[0], "user=bob")
			page.say(`{"type":"room","text":"welcome back"}`)
			back.want("room", "zoe", "welcome back")
		})
	}
}

func TestAllNodesStopped(t *testing.T) {
	d := start(t, Options{Nodes: 2})
	ann := d.connect(d.door, "user=ann")
	d.order("nodes/n1", "stop")
	d.order("nodes/n2", "stop")
	ann.gone()
	if got, status := d.online(d.door, "user=ann"); status != 503 || got.Error != "no node is running" {
		t.Errorf("%d %+v: want 503", status, got)
	}
	response, err := http.Get(d.door + "/api/nodes")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Nodes []nodeInfo }
	json.NewDecoder(response.Body).Decode(&answer)
	if len(answer.Nodes) != 2 || answer.Nodes[0] != (nodeInfo{"n1", d.nodes[0], stateStopped}) {
		t.Errorf("nodes: %+v", answer.Nodes)
	}
	if status := d.order("nodes/n2", "start"); status != 204 {
		t.Fatalf("start: %d", status)
	}
	d.connect(d.door, "user=ann")
}

// Two demos on one Redis are one cluster, and both have an n1.
func TestTwoProcesses(t *testing.T) {
	redis := "redis://" + redistest.Start(t).Addr
	a := start(t, Options{Nodes: 1, Redis: redis})
	b := start(t, Options{Nodes: 1, Redis: redis})
	ann := a.connect(a.door, "user=ann")
	bob := b.connect(b.door, "user=bob")
	bob.say(`{"type":"direct","to":"ann","text":"hello"}`)
	ann.want("direct", "bob", "hello")
	got, _ := b.online(b.door, "user=ann")
	if len(got.Sessions) != 1 || !strings.HasPrefix(got.Sessions[0].Node, "n1-") {
		t.Errorf("%+v: want ann on a node with its full id, as there are two n1", got)
	}
}

func TestShutdown(t *testing.T) {
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	d := start(t, Options{Nodes: 2})
	ann := d.connect(d.door, "user=ann")
	bob := d.connect(d.nodes[1], "user=bob")
	d.order("nodes/n1", "stop")
	ann.gone()
	dan := d.connect(d.door, "user=dan&tab=1")
	d.order("tabs/1", "cut")
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	if code := websocket.CloseStatus(bob.gone()); code != websocket.StatusServiceRestart {
		t.Errorf("close code %d: want 1012", code)
	}
	dan.gone()
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free := servertest.FreeAddr(t)
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Nodes: 0}, "-nodes 0: must be 1 to 64"},
		{Options{Nodes: 65}, "-nodes 65: must be 1 to 64"},
		{Options{Nodes: 1, Addr: taken.Addr().String()}, "-addr " + taken.Addr().String() + ": listen tcp"},
		{Options{Nodes: 1, Addr: "nonsense"}, "-addr nonsense: "},
		{Options{Nodes: 1, Addr: "127.0.0.1:0", Redis: "http://x"}, `-redis "http://x": redis: invalid URL scheme: http: must be redis://`},
		{Options{Nodes: 1, Addr: "127.0.0.1:0", Redis: "redis://:secret@["}, `-redis "redis://xxxxx@[": missing ']' in host`},
		{Options{Nodes: 1, Addr: "127.0.0.1:0", Redis: "redis://" + free}, `redis "redis://` + free + `" does not answer: dial tcp`},
	} {
		c.o.Out, c.o.Log = io.Discard, io.Discard
		err := Run(t.Context(), c.o)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v: want one line, %s…", c.o, err, c.want)
		}
	}
}

func TestBaseURL(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080",
		"0.0.0.0:80":     "http://127.0.0.1:80",
		"[::]:80":        "http://127.0.0.1:80",
		"[::1]:80":       "http://[::1]:80",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		got := baseURL(tcp)
		if _, err := url.Parse(got); got != want || err != nil {
			t.Errorf("%s: %s, %v: want %s", addr, got, err, want)
		}
	}
}
