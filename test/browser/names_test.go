package browser

import (
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// Names that nobody can see do not come in, and what another process on the
// same Redis let in breaks nobody's list.
func TestOddNames(t *testing.T) {
	first := browser(t)
	door := start(t)
	p := open(t, first, door+"/?user=ann")
	p.node()
	for _, name := range []string{"\ufeff", "\u200b", "__proto__", "constructor", "\u202eann", "\u0301"} {
		ws, _, err := websocket.Dial(t.Context(), strings.Replace(door, "http", "ws", 1)+"/ws?user="+url.QueryEscape(name), nil)
		if err == nil {
			defer ws.CloseNow()
		}
	}
	guest(t, door, "bob", "constructor")
	p.until(`[...document.querySelectorAll(".person")].some((e) => e.dataset.key === "bob")`)
	p.until(`[...document.querySelectorAll(".person")].some((e) => e.dataset.key === "__proto__")`)

	p.text(`import("/chat.js").then((chat) => chat.receive({ type: "presence", nodes: [], others: ["constructor", "__proto__"], people: ["\ufeff", "\u200b", "", "\u0301", "__proto__", "last"].map((user) =>
		({ user, sessions: [{ node: "constructor" }] })) }))`)
	p.until(`[...document.querySelectorAll(".person")].some((e) => e.dataset.key === "last")`)
	p.until(`document.getElementById("nodes").textContent.includes("6 sockets")`)

	// The page says of a name what the server says of it.
	for _, name := range []string{"\u200b", "\ufeff", strings.Repeat("a", 65)} {
		p = open(t, first, door+"/?user="+url.QueryEscape(name))
		p.until(`document.getElementById("name-fault").textContent.includes("at least one of them visible")`)
		if p.text(`document.getElementById("app").hidden`) != "true" {
			t.Errorf("the page went in as %q", name)
		}
	}
}
