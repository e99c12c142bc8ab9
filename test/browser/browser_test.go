// Package browser drives the chat demo's page in a headless Chromium.
package browser

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"github.com/heraldgo/herald/examples/chat/demo"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// patience is how long a step may take, on a busy machine.
const patience = 60 * time.Second

// start starts the demo and returns the front door's address.
func start(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := demo.Run(ctx, demo.Options{Addr: "127.0.0.1:0", Nodes: 3, Out: out, Log: t.Output()})
		out.CloseWithError(io.EOF)
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("demo: %v", err)
		}
	})
	door := ""
	lines := bufio.NewScanner(in)
	for n := 0; n < 4 && lines.Scan(); n++ {
		if base, ok := strings.CutPrefix(lines.Text(), "front door "); ok {
			door = base
		}
	}
	if door == "" {
		t.Fatal("the demo did not start")
	}
	return door
}

// browser starts a Chromium and returns the context of its first tab.
func browser(t *testing.T) context.Context {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		servertest.Missing(t, "chromium", "chromium")
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(program),
		chromedp.Headless,
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		// A tab in the background must run as the one in front does.
		chromedp.Flag("disable-background-timer-throttling", true),
		chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true),
		chromedp.WindowSize(1200, 760),
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(func() { chromedp.Cancel(ctx) }) // and wait for it
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return ctx
}

// A tab is one page in the browser.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func open(t *testing.T, parent context.Context, address string) tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent)
	t.Cleanup(cancel)
	// The tab lives as long as the context of the first Do: no deadline yet.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("new tab: %v", err)
	}
	p := tab{t, ctx}
	p.do("open "+address, chromedp.Navigate(address))
	return p
}

func (p tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatalf("%s: %v\nthe page shows:\n%s", what, err, p.text("document.body.innerText"))
	}
}

// click clicks on an element once it is there and enabled. The page itself does it,
// in one step: it renders anew whenever a node comes or goes, and the mouse would
// miss what has moved, or been replaced, since the browser looked where it is.
func (p tab) click(selector string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		if (e === null || e.disabled) return false;
		e.click();
		return true;
	})()`, selector))
}

// until waits for a JavaScript expression to be true, and says what the page
// shows when it never is.
func (p tab) until(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(0)))
	if err != nil {
		p.t.Fatalf("never true: %s: %v\nthe page shows:\n%s", expression, err, p.text("document.body.innerText"))
	}
}

// text returns the value of a JavaScript expression, or why there is none.
func (p tab) text(expression string) string {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Evaluate[string]("String("+expression+")"))
	if err != nil {
		return err.Error()
	}
	return s
}

// hears waits for a message of the text.
func (p tab) hears(text string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`[...document.querySelectorAll("#log .body")].some((e) => e.textContent === %q)`, text))
}

func (p tab) say(text string) {
	p.t.Helper()
	p.do("say "+text, chromedp.SendKeys("#text", text+"\r"))
}

// node waits until the tab is connected and returns its node.
func (p tab) node() string {
	p.t.Helper()
	p.until(`document.getElementById("state").dataset.state === "connected"`)
	return p.text(`document.getElementById("state").dataset.node`)
}

// leaves waits until nobody is listed on a node any more.
func (p tab) leaves(node string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`(() => {
		const nodes = [...document.querySelectorAll(".devices b")];
		return nodes.length > 0 && nodes.every((e) => !e.textContent.startsWith(%q));
	})()`, node))
}

// A guest is somebody who is there without a browser.
func guest(t *testing.T, door, user, device string) *websocket.Conn {
	t.Helper()
	query := url.Values{"user": {user}, "device": {device}, "platform": {"ios"}}
	ws, _, err := websocket.Dial(t.Context(), strings.Replace(door, "http", "ws", 1)+"/ws?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// What the guest is sent is read and forgotten.
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			if _, _, err := ws.Read(context.Background()); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		ws.CloseNow()
		reading.Wait()
	})
	return ws
}

func TestTwoTabs(t *testing.T) {
	first := browser(t)
	door := start(t)

	// One comes in by the form, the other by the first one's button.
	one := open(t, first, door)
	one.do("enter", chromedp.WaitVisible("#name"), chromedp.SendKeys("#name", "ann\r"))
	nodeOne := one.node()
	two := open(t, first, door+"/"+one.text(`document.getElementById("twin").getAttribute("href")`))
	nodeTwo := two.node()
	if nodeOne == nodeTwo {
		t.Fatalf("both tabs are on node %s", nodeOne)
	}
	tabs := []tab{one, two}

	one.say("hello from the first tab")
	two.say("<b>hello</b> from the second")
	for _, p := range tabs {
		p.hears("hello from the first tab")
		p.hears("<b>hello</b> from the second")
	}

	// A direct message to bob comes to both tabs, and so does his answer.
	bob := guest(t, door, "bob", "iPhone")
	one.until(`[...document.querySelectorAll(".person")].some((e) => e.dataset.key === "bob")`)
	one.click(`.person[data-key="bob"]`)
	one.say("just for you")
	tell(t, bob, `{"type":"direct","to":"ann","text":"and for all your tabs"}`)
	for _, p := range tabs {
		p.hears("just for you")
		p.hears("and for all your tabs")
	}
	one.click("#target")

	// The node of the first tab stops, at the press of the second's button.
	two.click(fmt.Sprintf(`button[aria-label="Stop node %s"]`, nodeOne))
	one.until(`document.querySelector("#log .note.back") !== null`)
	if now := one.node(); now == nodeOne {
		t.Fatalf("the first tab is on node %s, which was stopped", now)
	}
	if now := two.node(); now != nodeTwo {
		t.Fatalf("the second tab moved from node %s to %s", nodeTwo, now)
	}
	tell(t, guest(t, door, "zoë", "iPad"), `{"type":"room","text":"what did I miss?"}`)
	one.say("nothing at all")
	for _, p := range tabs {
		p.hears("what did I miss?")
		p.hears("nothing at all")
	}
	// Presence heals: nobody is left on the stopped node.
	for _, p := range tabs {
		p.leaves(nodeOne)
		p.until(`document.querySelectorAll('.person[data-key="ann"] .devices > span').length === 2`)
	}
}

func tell(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// All nodes are stopped, and one is started: the page comes back by itself.
func TestNoNodeLeft(t *testing.T) {
	first := browser(t)
	p := open(t, first, start(t)+"/?user=ann")
	p.node()
	for _, n := range []string{"n1", "n2", "n3"} {
		p.click(fmt.Sprintf(`button[aria-label="Stop node %s"]`, n))
		p.until(fmt.Sprintf(`document.querySelector('button[aria-label="Start node %s"]') !== null`, n))
	}
	p.until(`document.getElementById("state-text").textContent === "No node is running"`)
	p.click(`button[aria-label="Start node n2"]`)
	if now := p.node(); now != "n2" {
		t.Fatalf("the tab is on node %s", now)
	}
	p.say("here again")
	p.hears("here again")
}
