package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
)

// files serves the browser's client, its tests, and the vectors.
func files() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/client/", http.StripPrefix("/client/", http.FileServer(http.Dir("../../client"))))
	mux.Handle("/testdata/", http.StripPrefix("/testdata/", http.FileServer(http.Dir("../../testdata"))))
	return mux
}

const clientPage = `<!doctype html><title>client</title><script type="module">
	import { Herald } from "/client/js/herald.min.js";
	const seen = (window.seen = { got: [], events: [] });
	const ws = (window.ws = new Herald("ws://%s/ws?user=42", { minDelay: 50, maxDelay: 200, timeout: 60000 }));
	for (const type of ["open", "welcome", "gap", "disconnect", "error", "close"]) ws["on" + type] = (e) => seen.events.push(type + (e.resumed ?? e.reason ?? ""));
	ws.onmessage = (e) => {
		seen.got.push(e.data);
		if (e.data === "3") throw new Error("of the page: it changes nothing");
	};
</script>`

// The client of the browser, in one, on Hubs that keep messages: its connection is
// cut, its node goes, its network is a black hole, and all comes once and in order.
func TestClient(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	start := func(name string) *herald.Hub {
		t.Helper()
		hub, err := herald.New(herald.Config{
			Name: name, Bus: network.Bus(), Registry: registry.Handle(), Retention: time.Minute, OriginPatterns: []string{"*"},
			Authenticate: func(r *http.Request) (herald.Identity, error) {
				return herald.Identity{User: r.FormValue("user")}, nil
			},
			OnMessage: func(_ context.Context, c *herald.Conn, m herald.Message) { c.Send(m.Unkept()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop(t, hub) })
		return hub
	}
	var door atomic.Pointer[herald.Hub]
	first := start("first")
	door.Store(first)
	mux := files()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { door.Load().ServeHTTP(w, r) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	proxy := netproxy.Start(t, server.Listener.Addr().String())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, clientPage, proxy.Addr) })
	p := open(t, browser(t), server.URL)
	p.until(`window.seen?.events.join() === "open,welcomefalse"`)

	sent := 0
	send := func() {
		t.Helper()
		for range 20 {
			sent++
			if err := door.Load().Send(t.Context(), herald.User("42"), herald.Text(fmt.Sprint(sent))); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := func() {
		t.Helper()
		p.until(fmt.Sprintf("seen.got.length >= %d", sent))
		if got := p.text("seen.got.every((m, i) => m == i + 1) && seen.got.length"); got != fmt.Sprint(sent) {
			t.Fatalf("not 1 to %d: %s", sent, p.text("seen.got"))
		}
	}
	send()
	all()

	proxy.Cut()
	send()
	all()

	second := start("second")
	door.Store(second)
	stop(t, first)
	send()
	all()

	proxy.Blackhole(true)
	p.text(`dispatchEvent(new Event("online"))`) // as the browser does when the network changes
	send()
	p.until(`seen.events.includes("disconnectsilent")`)
	proxy.Blackhole(false)
	proxy.Cut() // a handshake that fell into it
	all()

	if told := p.text("seen.events"); strings.Contains(told, "gap") || strings.Count(told, "welcometrue") < 3 {
		t.Errorf("the page was told %s", told)
	}
	p.until(`ws.readyState === ws.OPEN`)
	p.text(`ws.send("@echo"), ws.send(new Blob(["bytes"]))`)
	p.until(fmt.Sprintf(`seen.got[%d] === "@echo" && seen.got[%d]?.size === 5`, sent, sent+1))

	if err := second.Disconnect(t.Context(), herald.User("42"), herald.StatusReplaced, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	p.until(`seen.events.at(-1) === "closeelsewhere" && ws.readyState === ws.CLOSED`)
}

const refusedPage = `<!doctype html><title>refused</title><script type="module">
	import { Herald } from "/client/js/herald.min.js";
	const thrown = (f) => { try { f(); } catch (e) { return e.name; } };
	const seen = (window.seen = { events: [], thrown: [thrown(() => new Herald()), thrown(() => new Herald("ftp://host/"))] });
	let token = "old";
	const ws = (window.ws = new Herald(() => "/ws?token=" + token, { queue: 10, minDelay: 50 }));
	ws.send("first");
	ws.onopen = () => {
		seen.events.push("open");
		seen.thrown.push(thrown(() => ws.close(1001)));
	};
	ws.ondisconnect = (e) => {
		seen.events.push(e.code);
		token = "new";
	};
	ws.onlive = () => {
		seen.events.push("live");
		ws.send(null);
	};
</script>`

// A browser's client that is refused behind the 101 loses nothing of what waited, and
// throws where the browser's WebSocket does.
func TestClientRefused(t *testing.T) {
	got := make(chan string, 10)
	hub, err := herald.New(herald.Config{
		RejectAfterUpgrade: true, Retention: time.Minute,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			if r.FormValue("token") != "new" {
				return herald.Identity{}, &herald.HTTPError{Status: http.StatusUnauthorized, Message: "expired"}
			}
			return herald.Identity{User: "42"}, nil
		},
		OnMessage: func(_ context.Context, _ *herald.Conn, m herald.Message) { got <- string(m.Bytes()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, hub) })
	mux := files()
	mux.Handle("/ws", hub)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, refusedPage) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p := open(t, browser(t), server.URL)
	for _, want := range []string{"first", "null"} {
		select {
		case m := <-got:
			if m != want {
				t.Errorf("the Hub got %q: want %q", m, want)
			}
		case <-time.After(patience):
			t.Fatalf("%q did not come; the page saw %s", want, p.text("seen.events"))
		}
	}
	if seen := p.text("seen.events"); seen != "open,4401,open,live" {
		t.Errorf("the page saw %s", seen)
	}
	if thrown := p.text("seen.thrown"); thrown != "SyntaxError,SyntaxError,InvalidAccessError,InvalidAccessError" {
		t.Errorf("it threw %s", thrown)
	}
}

func stop(t *testing.T, hub *herald.Hub) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := hub.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// The tests of the vectors import what Node has and a browser lacks.
const vectorsPage = `<!doctype html><title>vectors</title>
<script type="importmap">{"imports": {
	"node:test": "/shim.js", "node:assert/strict": "/shim.js", "node:fs": "/shim.js"
}}</script>
<script type="module">
	import { run } from "/shim.js";
	try { await import("/client/js/test/vectors.test.js"); } catch (e) { run.failed.push("import: " + e); }
	await run();
	fetch("/done", { method: "POST", body: JSON.stringify({ ran: run.tests.length, failed: run.failed }) });
</script>`

const shim = `
export async function run() {
	for (const [name, f] of run.tests) {
		try { await f(); } catch (e) { run.failed.push(name + ": " + e); }
		run.after.forEach((f) => f());
	}
}
run.tests = []; run.after = []; run.failed = [];
export const test = (name, f) => run.tests.push([name, f]);
export const afterEach = (f) => run.after.push(f);
export function readFileSync(url) {
	const r = new XMLHttpRequest();
	r.open("GET", url, false);
	r.send();
	return r.responseText;
}
function ok(x, why) { if (!x) throw new Error(why); }
const text = (x) => JSON.stringify(x, (_, v) => (v === undefined ? "nothing" : v));
const deepEqual = (a, b, why) => ok(text(a) === text(b), text(a) + " is not " + text(b) + ": " + why);
function throws(f, type, why) {
	let e;
	try { f(); } catch (thrown) { e = thrown; }
	ok(e instanceof type, "it did not throw: " + why);
}
export default { ok, deepEqual, equal: (a, b, why) => ok(Object.is(a, b), a + " is not " + b + ": " + why), throws };
`

// What is shipped does in a browser what PROTOCOL.md's vectors say.
func TestClientVectors(t *testing.T) {
	mux := files()
	done := make(chan []byte, 1)
	mux.HandleFunc("/shim.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		io.WriteString(w, shim)
	})
	mux.HandleFunc("/done", func(_ http.ResponseWriter, r *http.Request) {
		said, _ := io.ReadAll(r.Body)
		done <- said
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, vectorsPage) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	open(t, browser(t), server.URL)
	var result struct {
		Ran    int
		Failed []string
	}
	select {
	case said := <-done:
		if err := json.Unmarshal(said, &result); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the page did not come to an end")
	}
	if result.Ran < 20 || len(result.Failed) > 0 {
		t.Errorf("%d tests ran, and these failed: %q", result.Ran, result.Failed)
	}
}
