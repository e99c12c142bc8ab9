package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/chromedp/chromedp"
	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// serveShop runs examples/notify behind a proxy, and returns the proxy's address, and the
// Hub of a worker. The proxy lets the test see what clients ask for, and change what they
// get for /orders: it calls ask and answer.
func serveShop(t *testing.T, ask func(*http.Request), answer func(method string, body map[string]any)) (address string, worker *herald.Hub) {
	t.Helper()
	store, addr := miniredis.RunT(t).Addr(), servertest.FreeAddr(t)
	program := filepath.Join(t.TempDir(), "notify")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../../examples/notify"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	servertest.Start(t, servertest.Command{
		Program: program, Args: []string{"-addr", addr, "-redis", store, "-only", "web"}, Addr: addr,
		Ready: func() error { return servertest.Dial(addr) }, Patience: patience,
	})
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: addr})
		r.Out.Host = r.In.Host
		ask(r.Out)
	}}
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Path != "/orders" || r.StatusCode >= 300 {
			return nil
		}
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return err
		}
		answer(r.Request.Method, body)
		b, err := json.Marshal(body)
		r.Header.Del("Content-Length")
		r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(b))
		return err
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	rdb := redis.NewClient(&redis.Options{Addr: store})
	t.Cleanup(func() { rdb.Close() })
	worker, err := herald.New(herald.Config{Redis: rdb, Retention: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		worker.Shutdown(ctx)
	})
	return server.URL, worker
}

// The page of examples/notify, in a browser. An order that is shipped while an answer is
// on its way to the page stays shipped there. After a gap the page asks once. When the
// login has ended, the page shows the form again.
func TestShop(t *testing.T) {
	lists := make(chan map[string]any, 100)  // the lists of orders that the page asks for
	orders := make(chan map[string]any, 100) // the answers to its orders
	release := make(chan bool)               // lets the next answer go
	stranger := make(chan bool)              // closed when the login is to be gone
	address, worker := serveShop(t, func(r *http.Request) {
		select {
		case <-stranger:
			r.Header.Del("Cookie")
		default:
		}
	}, func(method string, body map[string]any) {
		if method == "POST" {
			orders <- body
		} else {
			lists <- body
		}
		select {
		case <-release:
		case <-t.Context().Done():
		}
	})
	p := open(t, browser(t), address)
	shows := func(all string) {
		t.Helper()
		p.until(`[...orders.children].map((line) => line.textContent).join() === "` + all + `"`)
	}
	next := func(answers chan map[string]any) map[string]any {
		t.Helper()
		select {
		case body := <-answers:
			return body
		case <-time.After(patience):
			t.Fatal("the page does not ask")
			return nil
		}
	}
	send := func(order map[string]any) {
		t.Helper()
		if err := worker.Send(t.Context(), herald.User("anna"), herald.JSON(order)); err != nil {
			t.Fatal(err)
		}
	}
	p.do("log in", chromedp.SendKeys("input[name=name]", "anna"), chromedp.SendKeys("input[name=password]", "anna\r"))
	next(lists)["position"] = "0.dead.1" // as if the page had been away for too long: there is a gap
	release <- true
	p.until(`document.getElementById("state").textContent === "connected"`)

	list := next(lists)
	tea := map[string]any{"id": 1, "version": 1, "item": "tea", "state": "paid"}
	list["orders"] = []any{tea, map[string]any{"id": 2, "version": 1, "item": "milk", "state": "paid"}}
	send(map[string]any{"id": 1, "version": 2, "item": "tea", "state": "shipped"})
	shows("tea: shipped")
	release <- true
	shows("tea: shipped,milk: paid")

	p.do("order", chromedp.SendKeys("input[name=item]", "coffee\r"))
	order := next(orders)
	order["id"] = 3
	send(map[string]any{"id": 3, "version": 2, "item": "coffee", "state": "shipped"})
	p.until(`orders.textContent.includes("coffee: shipped")`)
	release <- true
	p.until(`document.querySelector("input[name=item]").value === ""`) // the answer has come
	if got := p.text(`orders.lastChild.textContent`); got != "coffee: shipped" {
		t.Errorf("an order that was shipped before the answer came: %q", got)
	}
	time.Sleep(2 * time.Second) // longer than the page waits before it asks
	if len(lists) > 0 {
		t.Errorf("after one gap the page has asked %d times", 1+len(lists))
	}

	close(stranger)
	if err := worker.Disconnect(t.Context(), herald.User("anna"), herald.StatusServiceRestart, ""); err != nil {
		t.Fatal(err)
	}
	p.do("see the login", chromedp.WaitVisible("#login"))
	if got := p.text(`document.body.innerText`); got == "" || p.text(`orders.children.length`) != "0" {
		t.Errorf("a stranger sees %q", got)
	}
}
