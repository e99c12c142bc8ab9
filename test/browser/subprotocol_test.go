package browser

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/heraldgo/herald"
)

// A script can send its token as a subprotocol, alone or behind another one. A
// browser keeps the connection only if the answer is one of them, which
// Authenticate chooses; and so it sees why a bad token was refused.
func TestTokenAsSubprotocol(t *testing.T) {
	hub, err := herald.New(herald.Config{
		RejectAfterUpgrade: true,
		Authenticate: func(r *http.Request) (herald.Identity, error) {
			first, token, both := strings.Cut(r.Header.Get("Sec-WebSocket-Protocol"), ", ")
			if !both {
				token = first
			}
			if token != "good.token" {
				return herald.Identity{}, errors.New("a bad token")
			}
			return herald.Identity{User: "42", Subprotocol: first}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Shutdown(t.Context()) })
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><script>
			const seen = {}
			function connect(name, offered) {
				const ws = new WebSocket("ws://" + location.host + "/ws", offered)
				ws.onopen = () => seen[name] = "open " + ws.protocol
				ws.onclose = e => seen[name] = "closed " + e.code
			}
		</script>`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	page := open(t, browser(t), server.URL)
	for name, test := range map[string]struct{ offered, want string }{
		"lone":     {`["good.token"]`, "open good.token"},
		"bearer":   {`["bearer", "good.token"]`, "open bearer"},
		"bad lone": {`["bad.token"]`, "closed 4401"},
		"bad":      {`["bearer", "bad.token"]`, "closed 4401"},
	} {
		page.text(fmt.Sprintf("connect(%q, %s)", name, test.offered))
		page.until(fmt.Sprintf("seen[%q] === %q", name, test.want))
	}
}
