package browser

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// The page of docs/start.md, on two nodes, in a browser: it logs in, misses nothing while
// its node is away, and shows the login again when that has ended.
func TestStart(t *testing.T) {
	chromium := browser(t)
	store := redistest.Start(t)
	program := filepath.Join(t.TempDir(), "room")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "../../examples/start"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	node := func() *servertest.Server {
		addr := servertest.FreeAddr(t)
		return servertest.Start(t, servertest.Command{
			Program: program, Env: []string{"ADDR=" + addr, "REDIS=" + store.Addr}, Addr: addr,
			Ready: func() error { return servertest.Dial(addr) }, Patience: patience,
		})
	}
	first, second := node(), node()
	one := open(t, chromium, "http://"+first.Addr)
	one.do("log in", chromedp.SendKeys("input[name=name]", "anna\r"), chromedp.WaitReady("#list"))
	two := open(t, chromium, "http://"+second.Addr) // with the same cookie
	say := func(p tab, text string) {
		t.Helper()
		p.do("say "+text, chromedp.SendKeys("input[name=text]", text+"\r"))
	}
	shows := func(p tab, all ...string) {
		t.Helper()
		p.until(`[...list.children].map((item) => item.textContent).join() === "` + strings.Join(all, ",") + `"`)
	}
	say(two, "a")
	shows(one, "a")
	shows(two, "a")

	one.text(`window.stayed = true`)
	first.Kill()
	say(two, "b")
	shows(two, "a", "b")
	first.Restart()
	shows(one, "a", "b")
	one.until(`window.stayed && performance.getEntriesByType("resource").filter((e) => e.name.endsWith("/messages")).length === 1`)

	rdb := store.Client()
	if n, err := rdb.Del(t.Context(), rdb.Keys(t.Context(), "login:*").Val()...).Result(); n != 1 || err != nil {
		t.Fatalf("%d logins, %v", n, err)
	}
	first.Kill()
	first.Restart()
	one.do("see the login", chromedp.WaitReady("input[name=name]"))
}
