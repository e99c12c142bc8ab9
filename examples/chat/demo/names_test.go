package demo

import (
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// A name that nobody can see is none, and the server alone says so: pages and
// programs trim otherwise than each other.
func TestOddNames(t *testing.T) {
	d := start(t, Options{Nodes: 1})
	invisible := "must be 1 to 64 characters of UTF-8, at least one of them visible"
	for _, name := range []string{
		"\ufeff", "\u200b", "\u200d\u2060", "\u00ad", "\u0085", "\u2028", "\u3164", "\u115f\u1160",
		"\u202e\u200f", "\u0301\u0302\u0303", "\x00", "\x1b\a", "\ue000", "\U000e0041", "\ufeff \u200b\t",
		strings.Repeat("a", 65), strings.Repeat("a\u0301", 33), strings.Repeat("a", 100_000),
	} {
		_, response, err := websocket.Dial(t.Context(), d.door+"/ws?user="+url.QueryEscape(name), nil)
		if err == nil || response == nil || response.StatusCode != 400 {
			t.Errorf("connect as %.20q: %v: want status 400", name, err)
		}
		if got, status := d.online(d.door, "user="+url.QueryEscape(name)); status != 400 || !strings.HasSuffix(got.Error, invisible) {
			t.Errorf("is %.20q online: %d, %q: want 400, …%s", name, status, got.Error, invisible)
		}
	}

	page := d.connect(d.door, "user=zoe&presence=1")
	odd := []string{
		"__proto__", "constructor", "toString", "null", "<b>", `"'`, "\ufeffann", "ann\u200b", "\u202eann\u202c",
		"Z\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309", "👩\u200d🔬", "ß", "🙂", "𝒜", "…", "a b", strings.Repeat("🙂", 64),
	}
	for _, name := range odd {
		c := d.connect(d.door, "user="+url.QueryEscape(name))
		c.say(`{"type":"room","text":"I am in"}`)
		page.until("room", name, "I am in")
	}
	// Who comes last makes the list anew.
	d.connect(d.door, "user=last")
	for listed := map[string]bool{}; !listed["last"]; {
		f := page.hear()
		people, _ := f["people"].([]any)
		for _, p := range people {
			listed[p.(map[string]any)["user"].(string)] = true
		}
		for _, name := range odd {
			if listed["last"] && !listed[name] {
				t.Errorf("%q is not on the list: %v", name, people)
			}
		}
	}
}
