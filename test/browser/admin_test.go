package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldadmin"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/netproxy"
)

// fromQuery lets clients say in the query who they are.
func fromQuery(r *http.Request) (herald.Identity, error) {
	q := r.URL.Query()
	return herald.Identity{User: q.Get("user"), Platform: q.Get("platform"), Device: q.Get("device"), Groups: q["group"]}, nil
}

// administer mounts the page of a Hub, and returns its address.
func administer(t *testing.T, hub *herald.Hub) string {
	t.Helper()
	admin, err := heraldadmin.New(heraldadmin.Config{
		Hub: hub, Logger: slog.New(slog.DiscardHandler),
		Authorize: func(*http.Request) (string, error) { return "the test", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/admin/", http.StripPrefix("/admin", admin))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL + "/admin/"
}

// join connects a client that reads nothing. query has pairs.
func join(t *testing.T, address string, query ...string) *websocket.Conn {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		values.Add(query[i], query[i+1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, address+"/?"+values.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// readsOn has the client read, and answer pings, until it is closed. It returns the
// close code.
func readsOn(t *testing.T, ws *websocket.Conn) (code <-chan websocket.StatusCode) {
	closed := make(chan websocket.StatusCode, 1)
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			if _, _, err := ws.Read(context.Background()); err != nil {
				closed <- websocket.CloseStatus(err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		ws.CloseNow()
		<-done
	})
	return closed
}

// find shows a user, with so many connections.
func (p tab) find(user string, conns int) {
	p.t.Helper()
	quoted, _ := json.Marshal(user)
	hash := fmt.Sprintf(`location.hash = "user=" + encodeURIComponent(%s)`, quoted)
	p.text(hash)
	p.again(fmt.Sprintf("%d connections of %q", conns, user), func() string {
		p.text(`window.dispatchEvent(new HashChangeEvent("hashchange"))`)
		p.until(fmt.Sprintf(`!document.getElementById("found").hidden && document.getElementById("found").dataset.user === %s`, quoted))
		return p.text(`document.querySelectorAll("#conns .card").length`) + " connections"
	}, fmt.Sprintf("%d connections", conns))
}

// follow follows a message until the page says of it what is wanted, for a machine may
// be too slow for an answer.
func (p tab) follow(platforms string, want ...string) {
	p.t.Helper()
	p.again("follow", func() string {
		p.text(fmt.Sprintf(`(() => { document.getElementById("platforms").value = %q; document.getElementById("follow-button").click(); })()`, platforms))
		return p.followed()
	}, want...)
}

// again does something until the page shows all that is wanted.
func (p tab) again(what string, act func() string, want ...string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		got := act()
		missing := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return strings.Contains(got, w) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: the page says\n%s\nand not %q", what, got, missing)
		}
	}
}

// TestAdmin finds a user, follows a message that arrives, and one for each reason why it
// does not.
func TestAdmin(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{
		Authenticate: fromQuery, SendTimeout: patience, CloseTimeout: time.Second,
		DropOldest: true, QueueMessages: 8, QueueBytes: 16 << 20, WriteTimeout: time.Hour,
	})
	here, there := cluster.Nodes[0], cluster.Nodes[1]
	p := open(t, browser(t), administer(t, here.Hub))
	p.until(`document.querySelectorAll("#nodes .card").length === 2 && document.getElementById("state").textContent.startsWith("2 of 2 nodes well")`)

	closed := readsOn(t, join(t, there.URL, "user", "anna", "device", "phone", "platform", "ios", "group", "lobby"))
	readsOn(t, join(t, here.URL, "user", "anna", "device", "laptop"))
	p.find("anna", 2)
	p.again("anna", func() string {
		p.click("#find button")
		return p.text(`document.getElementById("found").innerText`)
	}, "anna has 2 connections on 2 nodes", "phone on ios", "lobby", "Last heard", there.Hub.NodeID())
	p.follow("", "lists 2 connections", "The Bus has taken it", "Node "+there.Hub.NodeID()+" has it from the Bus", "The client has received it: it has answered the ping")
	p.again("all arrive", func() string {
		p.follow("", "it has answered the ping")
		return p.text(`document.querySelectorAll("#way .passed").length + " passed, " + document.querySelectorAll("#way .ended").length + " ended"`)
	}, "7 passed, 0 ended")
	p.follow("ios, android", "Left out: the message is for \"ios\", \"android\" only, and this connection has no platform", "it has answered the ping")
	p.follow("android", "this connection's platform is \"ios\"")
	p.find("Anna", 0)
	p.follow("", "No session: the Registry lists no connection of this user")

	// A client that reads nothing, until its queue is full.
	join(t, there.URL, "user", "slow", "device", "tv")
	p.find("slow", 1)
	p.follow("", "No answer: it was written to the connection, and the client has not answered")
	for range 64 {
		if err := here.Hub.Send(t.Context(), herald.User("slow"), herald.Binary(make([]byte, 512<<10))); err != nil {
			t.Fatal(err)
		}
	}
	p.until(`[...document.querySelectorAll("#slow .card")].some((e) => e.textContent.includes("tv") && e.textContent.includes("Stuck"))`)
	p.follow("", "Full queue: 8 messages of ", "the client has taken nothing for")

	// Disconnect, by the keyboard.
	p.find("anna", 2)
	p.again("Enter on a button", func() string { // a search that is still under way draws it anew, and takes the focus
		p.text(`document.querySelector('#conns .card[data-conn^="` + there.Hub.NodeID() + `"] button').focus()`)
		p.do("Enter", chromedp.KeyEvent("\r"))
		return p.text(`document.getElementById("sure").open`)
	}, "true")
	p.until(`document.getElementById("sure").open && document.activeElement.value === "no"`)
	p.do("disconnect", chromedp.KeyEvent("\t"), chromedp.KeyEvent("\r"))
	select {
	case code := <-closed:
		if code != websocket.StatusServiceRestart {
			t.Errorf("closed with %d", code)
		}
	case <-time.After(patience):
		t.Fatal("the client is not closed")
	}
	p.until(`document.querySelectorAll("#conns .card").length === 1`)

	// A node that the Bus does not reach.
	readsOn(t, join(t, there.URL, "user", "bert", "device", "car"))
	p.find("bert", 1)
	there.Bus.Cut()
	p.follow("", "Gap: node "+there.Hub.NodeID()+" has not said that it has it")
	p.until(`document.getElementById("state").textContent.startsWith("1 of 2 nodes well")`)
	there.Bus.Heal()
	here.Bus.Cut()
	here.AwaitHealth(herald.ErrBusDown)
	p.follow("", "This node is not well", "The Bus did not take it")
}

// A message ends in a connection that OnConnect has not let in, in one that is being
// closed, or in a queue that gives it up while it waits.
func TestAdminEndings(t *testing.T) {
	held, let := make(chan bool, 1), make(chan struct{})
	cluster := heraldtest.NewCluster(t, 1, herald.Config{
		Authenticate: fromQuery, SendTimeout: patience, DropOldest: true, QueueMessages: 64, QueueBytes: 64 << 20,
		WriteTimeout: time.Hour, PingInterval: time.Hour, Lease: time.Hour,
		OnConnect: func(ctx context.Context, c *herald.Conn) error {
			if c.Session().Device == "held" {
				held <- true
				<-let
			}
			return nil
		},
	})
	node := cluster.Nodes[0]
	server := httptest.NewUnstartedServer(node.Hub)
	slow := netproxy.Linger(server.Listener)
	server.Listener = slow
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(slow.Let)
	t.Cleanup(func() { close(let) })
	p := open(t, browser(t), administer(t, node.Hub))

	join(t, node.URL, "user", "anna", "device", "held")
	<-held
	p.find("anna", 1)
	p.follow("", "Node "+node.Hub.NodeID()+" has it", "Not yet: OnConnect has not returned for this connection")

	join(t, strings.Replace(server.URL, "http", "ws", 1), "user", "bert").CloseNow()
	<-slow.Closing
	p.find("bert", 1)
	p.follow("", "Node "+node.Hub.NodeID()+" has it", "Closing: the connection is being closed")

	join(t, node.URL, "user", "carl")
	send := func(n, bytes int) {
		t.Helper()
		for range n {
			if err := node.Hub.Send(t.Context(), herald.User("carl"), herald.Binary(make([]byte, bytes))); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(40, 1<<20) // more than the kernel has room for
	p.find("carl", 1)
	p.again("follow", func() string {
		p.text(`(() => { const b = document.getElementById("follow-button"); if (!b.disabled) { b.click() } })()`)
		conns, err := node.Hub.Inspect(t.Context(), herald.User("carl"))
		if err != nil || len(conns) != 1 {
			t.Fatalf("%+v, %v", conns, err)
		}
		if conns[0].Stats.Unconfirmed == 0 {
			return "no probe waits, and " + p.text(`document.getElementById("way").innerText`)
		}
		return "a probe waits"
	}, "a probe waits")
	send(128, 1)
	p.until(`!document.getElementById("follow-button").disabled`)
	p.again("the queue has given it up", func() string { return p.text(`document.getElementById("way").innerText`) },
		"Node "+node.Hub.NodeID()+" has it", "Dropped: the queue gave it up before it was written")
}

// A service with another Prefix on the same Redis is named.
func TestAdminOtherPrefix(t *testing.T) {
	server := miniredis.RunT(t)
	hub := func(prefix string) *herald.Hub {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { rdb.Close() })
		h, err := herald.New(herald.Config{Redis: rdb, Prefix: prefix, Authenticate: fromQuery, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Shutdown(context.Background()) })
		return h
	}
	shop := httptest.NewServer(hub("shop"))
	t.Cleanup(shop.Close)
	join(t, strings.Replace(shop.URL, "http", "ws", 1), "user", "an*na")
	p := open(t, browser(t), administer(t, hub("worker")))
	p.find("an*na", 0)
	p.follow("", "No session here: the user is connected to a service with Prefix shop.")
}

// hostile are names that try to be more than names.
var hostile = []string{
	`<script>window.pwned = 1</script>`, `<img src=x onerror="window.pwned = 1">`, `"'><b>&amp;`, "\u202egnp.exe", "a\u200bb", "line\nbreak", "__proto__",
	strings.Repeat("W", 300), "\u05d0\u05d1\u05d2 abc", "javascript:window.pwned=1",
}

// Names are text, whatever they contain, and leave what stands around them alone.
func TestAdminHostileNames(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{Authenticate: fromQuery, SendTimeout: patience})
	p := open(t, browser(t), administer(t, cluster.Nodes[0].Hub))
	for _, name := range hostile {
		readsOn(t, join(t, cluster.Nodes[0].URL, "user", name, "device", name, "platform", name, "group", name))
		p.find(name, 1)
		p.follow(strings.ReplaceAll(name, "line\nbreak", ""), "it has answered the ping")
		if strings.ContainsAny(name, "\u202e\u200b\n") {
			shown := p.text(`document.querySelector("#found-title .hidden-char").textContent`)
			if shown != "U+202E" && shown != "U+200B" && shown != "U+000A" {
				t.Errorf("%q: its odd character is shown as %q", name, shown)
			}
		} else if shown := p.text(`document.querySelector("#found-title bdi").textContent`); shown != name {
			t.Errorf("%q is shown as %q", name, shown)
		}
	}
	if got := p.text(`[typeof window.pwned, document.scripts.length, document.querySelectorAll("main img, main b, main script").length].join()`); got != "undefined,1,0" {
		t.Errorf("names have become more than text: %s", got)
	}
	if got := p.text(`(() => { try { document.body.innerHTML = "x" } catch (e) { return e.name } return "taken" })()`); got != "TypeError" {
		t.Errorf("the page may make elements of text: %s", got)
	}
}

// emulate sets a media feature.
func (p tab) emulate(name, value string) {
	p.t.Helper()
	p.do(name, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: name, Value: value}}})
		return err
	}))
}

// contrasts returns the texts that are less than 4.5 to 1 against their background
// (WCAG 2.2, 1.4.3).
const contrasts = `(() => {
	const rgb = (s) => s.match(/[\d.]+/g).map(Number);
	const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
	const back = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c } return [255, 255, 255] };
	return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).filter((e) => {
		const a = light(rgb(getComputedStyle(e).color)), b = light(back(e));
		return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
	}).map((e) => e.outerHTML.slice(0, 100)).join("\n");
})()`

// The page is of use on a phone, in the dark and without a mouse.
func TestAdminOnAPhone(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 2, herald.Config{Authenticate: fromQuery, SendTimeout: patience})
	for i, device := range []string{"phone", strings.Repeat("W", 80)} {
		readsOn(t, join(t, cluster.Nodes[i].URL, "user", "anna", "device", device))
	}
	p := open(t, browser(t), administer(t, cluster.Nodes[0].Hub))
	p.phone()
	p.until(`document.querySelectorAll("#nodes .card").length === 2`)
	if p.text(`document.activeElement === document.body`) != "true" {
		t.Error("the page takes the focus")
	}
	// Find and follow, by the keyboard alone.
	p.do("find", chromedp.KeyEvent("\t"), chromedp.KeyEvent("anna\r"))
	p.until(`document.querySelectorAll("#conns .card").length === 2 && document.activeElement.id === "found-title"`)
	var order []string
	for range 5 {
		p.do("tab", chromedp.KeyEvent("\t"))
		order = append(order, p.text(`document.activeElement.id || document.activeElement.textContent`))
		if p.text(`getComputedStyle(document.activeElement).outlineStyle`) != "solid" {
			t.Errorf("the focus on %s cannot be seen", order[len(order)-1])
		}
	}
	if got := strings.Join(order, " "); got != "Disconnect Disconnect platforms follow-button disconnect-all" {
		t.Errorf("the order of the focus is %s", got)
	}
	p.do("follow", chromedp.Focus("#follow-button"), chromedp.KeyEvent("\r"))
	p.until(`document.querySelectorAll("#way .steps").length === 3`)
	if got := p.text(`document.documentElement.scrollWidth`); got != "360" {
		t.Errorf("the page is %s px wide", got)
	}
	if got := p.text(`[...document.querySelectorAll("button, input")].filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44).map((e) => e.outerHTML).join()`); got != "" {
		t.Errorf("less than 44 px high: %s", got)
	}
	if got := p.text(`[...document.querySelectorAll("input")].filter((e) => e.labels.length === 0).length`); got != "0" {
		t.Errorf("%s inputs have no label", got)
	}
	for _, scheme := range []string{"light", "dark"} {
		p.emulate("prefers-color-scheme", scheme)
		p.until(fmt.Sprintf(`matchMedia("(prefers-color-scheme: %s)").matches`, scheme))
		if got := p.text(contrasts); got != "" {
			t.Errorf("too little contrast (%s):\n%s", scheme, got)
		}
	}
}

// TestAdminScreenshot takes the picture of docs/admin.md, to where
// HERALD_ADMIN_SCREENSHOT says.
func TestAdminScreenshot(t *testing.T) {
	path := os.Getenv("HERALD_ADMIN_SCREENSHOT")
	if path == "" {
		t.Skip("HERALD_ADMIN_SCREENSHOT names no file")
	}
	cluster := heraldtest.NewCluster(t, 2, herald.Config{
		Authenticate: fromQuery, SendTimeout: patience, Name: "web", DropOldest: true, QueueMessages: 8, QueueBytes: 16 << 20, WriteTimeout: time.Hour,
	})
	readsOn(t, join(t, cluster.Nodes[0].URL, "user", "anna", "device", "phone", "platform", "ios"))
	readsOn(t, join(t, cluster.Nodes[1].URL, "user", "anna", "device", "laptop"))
	join(t, cluster.Nodes[1].URL, "user", "anna", "device", "tablet", "platform", "ios")
	for range 64 {
		if err := cluster.Nodes[0].Hub.Send(t.Context(), herald.User("anna").On("ios"), herald.Binary(make([]byte, 512<<10))); err != nil {
			t.Fatal(err)
		}
	}
	p := open(t, browser(t), administer(t, cluster.Nodes[0].Hub))
	p.do("size", chromedp.EmulateViewport(1000, 1130))
	p.find("anna", 3)
	p.follow("ios", "it has answered the ping", "Left out", "Full queue")
	p.until(`document.getElementById("found").innerText.includes("Stuck")`)
	p.do("scroll", chromedp.Blur("#user"))
	picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, picture, 0o644); err != nil {
		t.Fatal(err)
	}
}
