package browser

import (
	"fmt"
	"strings"
	"testing"
)

// press clicks on the button of a label.
func (p tab) press(label string) {
	p.t.Helper()
	p.click(fmt.Sprintf(`button[aria-label=%q]`, label))
}

// sayAll says a name and the numbers 1 to n, each as soon as the page takes it.
func (p tab) sayAll(name string, n int) {
	p.t.Helper()
	p.text(fmt.Sprintf(`(() => {
		for (let i = 1; i <= %d; i++) {
			document.getElementById("text").value = %q + i;
			document.getElementById("compose").requestSubmit();
		}
	})()`, n, name))
}

// heard returns the messages on the page that begin so.
func (p tab) heard(name string) string {
	return p.text(fmt.Sprintf(`[...document.querySelectorAll("#log .body")].map((e) => e.textContent).filter((s) => s.startsWith(%q)).join()`, name))
}

// hearsAll waits for what sayAll said, and for nothing twice or in another order.
func (p tab) hearsAll(name string, n int) {
	p.t.Helper()
	p.hears(fmt.Sprint(name, n))
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(name, i+1))
	}
	if got := p.heard(name); got != strings.Join(want, ",") {
		p.t.Errorf("heard %s: want %s1 to %s%d, each once and in order", got, name, name, n)
	}
}

// back waits until the page has said so often that it is back, and returns what it said last.
func (p tab) back(times int) string {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelectorAll("#log .note.back").length === %d`, times))
	return p.text(`[...document.querySelectorAll("#log .note.back")].at(-1).textContent`)
}

const (
	cut     = "Cut this tab’s network"
	restore = "Restore this tab’s network"
)

// What is said while a tab is away comes when it is back, each message once and in
// order, and the page says so. If Redis has lost it, the page says that.
func TestAway(t *testing.T) {
	first := browser(t)
	door := start(t)
	one, two := open(t, first, door+"/?user=ann"), open(t, first, door+"/?user=bob")
	one.node()
	two.node()
	const nothingMissing = "20 messages came while you were away. Nothing is missing."
	cutOff := func() {
		t.Helper()
		one.press(cut)
		one.until(`document.getElementById("state-text").textContent === "Network cut"`)
	}

	// Its network alone. What it says itself waits, and is not counted.
	cutOff()
	one.say("from the tunnel")
	two.sayAll("cut ", 20)
	two.hearsAll("cut ", 20)
	if got := one.heard("cut "); got != "" {
		t.Errorf("through a network that is cut came %s", got)
	}
	one.until(`document.querySelector("#outbox .body").textContent === "from the tunnel"`)
	one.press(restore)
	one.hearsAll("cut ", 20)
	if said := one.back(1); !strings.HasSuffix(said, nothingMissing) {
		t.Errorf("after the cut: %q", said)
	}
	for _, p := range []tab{one, two} {
		p.hears("from the tunnel")
	}
	one.until(`document.querySelector("#outbox li") === null`)

	// Its node, too.
	home := one.node()
	cutOff()
	two.press("Stop node " + home)
	two.sayAll("node ", 20)
	two.hearsAll("node ", 20)
	one.press(restore)
	one.hearsAll("node ", 20)
	if said := one.back(2); !strings.HasSuffix(said, nothingMissing) {
		t.Errorf("after the node's end: %q", said)
	}

	// Redis, with its data. What is said meanwhile waits.
	cutOff()
	two.sayAll("before ", 10)
	two.hearsAll("before ", 10)
	two.press("Stop Redis")
	two.sayAll("meanwhile ", 10)
	two.until(`document.getElementById("waiting").textContent.startsWith("10 messages wait")`)
	two.press("Start Redis with its data")
	two.hearsAll("meanwhile ", 10)
	one.press(restore)
	one.hearsAll("before ", 10)
	one.hearsAll("meanwhile ", 10)
	if said := one.back(3); !strings.HasSuffix(said, nothingMissing) {
		t.Errorf("after Redis: %q", said)
	}

	// Redis, without its data.
	cutOff()
	two.sayAll("lost ", 20)
	two.hearsAll("lost ", 20)
	two.press("Stop Redis")
	two.press("Start Redis without its data")
	one.press(restore)
	if said := one.back(4); !strings.Contains(said, "may be missing") {
		t.Errorf("after Redis lost its data: %q", said)
	}
	one.until(`document.querySelector("#log .note.gap") !== null`)
	one.say("here again")
	for _, p := range []tab{one, two} {
		p.hears("here again")
	}
	if got := one.text(`document.querySelectorAll("#log .note.error").length`); got != "0" {
		t.Errorf("there are %s errors on the page", got)
	}
}

// What is said in the moment in which the node dies is neither lost nor doubled.
func TestSaidAsTheNodeDies(t *testing.T) {
	first := browser(t)
	door := start(t)
	one, two := open(t, first, door+"/?user=ann"), open(t, first, door+"/?user=bob")
	two.node()
	const times = 6
	for i := range times {
		home := one.node()
		one.text(fmt.Sprintf(`(() => {
			document.querySelector('button[aria-label="Stop node %s"]').click();
			document.getElementById("text").value = "last words %d";
			document.getElementById("compose").requestSubmit();
		})()`, home, i+1))
		for _, p := range []tab{one, two} {
			p.hears(fmt.Sprint("last words ", i+1))
		}
		if said := one.back(i + 1); strings.Contains(said, "came while you were away") {
			t.Errorf("of its own message: %q", said)
		}
		one.press("Start node " + home)
		one.until(`document.querySelectorAll("#nodes [data-state=running]").length === 3`)
	}
	for _, p := range []tab{one, two} {
		p.hearsAll("last words ", times)
	}
	// Two copies, as if the first one had gone out and its echo had not come back.
	zoe := guest(t, door, "zoë", "iPad")
	for _, text := range []string{"twice", "twice", "the end"} {
		tell(t, zoe, fmt.Sprintf(`{"type":"room","text":%q,"id":%q}`, text, text))
	}
	one.hears("the end")
	if got := one.heard("twice"); got != "twice" {
		t.Errorf("of two copies the page shows %q", got)
	}
}

// Whoever writes to somebody alone learns whether it has come.
func TestFates(t *testing.T) {
	first := browser(t)
	door := start(t)
	p := open(t, first, door+"/?user=ann")
	p.node()
	bob := guest(t, door, "bob", "iPhone")
	p.click(`.person[data-key="bob"]`)
	p.say("are you there?")
	p.until(`document.querySelector("#log .fate.received")?.textContent === "bob: received"`)
	bob.CloseNow()
	p.until(`document.querySelector('.person[data-key="bob"]') === null`)
	p.say("and now?")
	p.until(`document.querySelector("#log .fate.away")?.textContent.startsWith("bob is away now.")`)
}

// On a phone everything can be read and pressed. The first visitor is told what to do.
func TestPhone(t *testing.T) {
	first := browser(t)
	door := start(t)
	p := open(t, first, door+"/?user="+strings.Repeat("W", 64))
	p.phone()
	p.node()
	fits := func(what string) {
		t.Helper()
		if got := p.text(`[...document.querySelectorAll("button, a, input")].filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44).map((e) => e.outerHTML).join()`); got != "" {
			t.Errorf("%s: less than 44 px high: %s", what, got)
		}
		if got := p.text(`document.documentElement.scrollWidth`); got != "360" {
			t.Errorf("%s: the page is %s px wide", what, got)
		}
		if got := p.text(`(() => {
			const e = document.getElementById("state-text"), r = e.getBoundingClientRect();
			return e.scrollWidth <= e.clientWidth + 1 && r.left >= 0 && r.right <= 360;
		})()`); got != "true" {
			t.Errorf("%s: the state cannot be read", what)
		}
	}
	fits("the chat")
	p.until(`document.getElementById("log").textContent.includes("came online")`)
	if p.text(`document.getElementById("hint").checkVisibility()`) != "true" {
		t.Error("the first visitor is not told to open a second tab")
	}
	p.click("#drawer")
	p.until(`document.querySelectorAll("#nodes button, #world button").length === 5`)
	fits("the drawer")
	p.click("#drawer")
	p.say("hello")
	p.hears("hello")
	if p.text(`document.getElementById("hint").checkVisibility()`) != "false" {
		t.Error("the hint stays")
	}
}
