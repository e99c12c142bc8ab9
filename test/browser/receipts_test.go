package browser

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A browser gives a receipt by itself, also while the page's script stands still, and
// hands the message to the script afterwards.
func TestReceipts(t *testing.T) {
	connected, held, release := make(chan bool, 1), make(chan bool, 1), make(chan bool)
	hub, err := herald.New(herald.Config{
		Authenticate: func(*http.Request) (herald.Identity, error) { return herald.Identity{User: "42"}, nil },
		OnConnect: func(context.Context, *herald.Conn) error {
			connected <- true
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Shutdown(t.Context()) })
	mux := http.NewServeMux()
	mux.Handle("/ws", hub)
	mux.HandleFunc("/hold", func(http.ResponseWriter, *http.Request) {
		held <- true
		<-release
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><script>
			const got = []
			const ws = new WebSocket("ws://" + location.host + "/ws")
			ws.onmessage = e => {
				got.push(e.data)
				if (e.data !== "block") return
				const request = new XMLHttpRequest()
				request.open("GET", "/hold", false) // which returns with the answer
				request.send()
			}
		</script>`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	page := open(t, browser(t), server.URL)
	wait := func(what string, c <-chan bool) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(patience):
			t.Fatalf("it has not %s", what)
		}
	}
	deliver := func(text string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if d, err := hub.Deliver(ctx, herald.User("42"), herald.Text(text)); err != nil || len(d.Received) != 1 || len(d.Missed) != 0 {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
	wait("connected", connected)
	deliver("hello")
	deliver("block")
	wait("stopped", held)
	deliver("while the script stands still")
	goOn()
	page.until(`got.join() === "hello,block,while the script stands still"`)
}
