package browser

import (
	"os"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestScreenshot takes the README's picture, to where HERALD_SCREENSHOT says.
func TestScreenshot(t *testing.T) {
	path := os.Getenv("HERALD_SCREENSHOT")
	if path == "" {
		t.Skip("HERALD_SCREENSHOT names no file")
	}
	p := scene(t)
	p.do("size", chromedp.EmulateViewport(1120, 780))
	p.picture(path)
}

// scene plays a little chat, and returns the tab that saw it all.
func scene(t *testing.T) tab {
	first := browser(t)
	door := start(t)
	one := open(t, first, door+"/?user=ann")
	home := one.node()
	two := open(t, first, door+"/?user=ann")
	two.node()
	bob, zoe := guest(t, door, "bob", "iPhone"), guest(t, door, "zoë", "iPad")

	one.say("Hello from my first tab. Is anybody out there?")
	one.hears("Hello from my first tab. Is anybody out there?")
	tell(t, bob, `{"type":"room","text":"Here, on another node as it seems."}`)
	one.hears("Here, on another node as it seems.")
	two.say("And this is my second tab. Both of them see all of this.")
	one.hears("And this is my second tab. Both of them see all of this.")
	tell(t, zoe, `{"type":"direct","to":"ann","text":"Shall we stop a node? Watch your sockets."}`)
	one.hears("Shall we stop a node? Watch your sockets.")

	one.press(cut)
	two.press("Stop node " + home)
	tell(t, bob, `{"type":"room","text":"Now ann is in a tunnel, and her node is dead."}`)
	two.hears("Now ann is in a tunnel, and her node is dead.")
	one.press(restore)
	one.back(1)
	one.node()
	guest(t, door, "zoë", "iPad") // hers was the same
	one.say("I am back on another one, and have missed nothing.")
	one.hears("I am back on another one, and have missed nothing.")
	one.until(`document.querySelectorAll(".person").length === 3 && document.querySelector("#nodes [data-state=stopped]") !== null`)
	one.leaves(home)
	return one
}

// phone makes the window as small as a phone's.
func (p tab) phone() {
	p.t.Helper()
	p.do("size", chromedp.EmulateViewport(360, 740))
}

func (p tab) picture(path string) {
	p.t.Helper()
	p.do("scroll", chromedp.Blur("#text"))
	p.text(`document.getElementById("view").scrollTo(0, 1e6)`)
	picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, picture, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
