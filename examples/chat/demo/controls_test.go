package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/heraldgo/herald/internal/test/redistest"
)

func (d *running) redis() string {
	d.t.Helper()
	response, err := http.Get(d.door + "/api/nodes")
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Redis string }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		d.t.Fatal(err)
	}
	return answer.Redis
}

// While Redis is stopped a client is told to try again, and then it can.
func TestStopRedis(t *testing.T) {
	d := start(t, Options{Nodes: 2})
	ann, bob := d.connect(d.nodes[0], "user=ann&presence=1"), d.connect(d.nodes[1], "user=bob")
	ann.until("hello", "", "You are on node n1")
	for _, how := range []string{"start", "start-empty"} {
		if status := d.order("redis", "start"); status != http.StatusConflict || d.redis() != stateRunning {
			t.Errorf("start what runs: %d, Redis is %s", status, d.redis())
		}
		if status := d.order("redis", "stop"); status != http.StatusNoContent || d.redis() != stateStopped {
			t.Fatalf("stop: %d, Redis is %s", status, d.redis())
		}
		ann.until("redis", "", "Redis was stopped. What you write waits until it runs again")
		if status := d.order("redis", "stop"); status != http.StatusConflict {
			t.Errorf("stop twice: %d", status)
		}
		for _, say := range []string{`{"type":"room","text":"hello","id":"7"}`, `{"type":"direct","to":"ann","text":"hello","id":"7"}`} {
			bob.say(say)
			f := bob.hear()
			for f["id"] == nil { // of what was said before, whose answer was cut off
				f = bob.hear()
			}
			if f["type"] != "error" || f["again"] != true || f["id"] != "7" {
				t.Errorf("%s without Redis: got %v", say, f)
			}
		}
		if status := d.order("redis", how); status != http.StatusNoContent || d.redis() != stateRunning {
			t.Fatalf("%s: %d, Redis is %s", how, status, d.redis())
		}
		// The nodes need a moment to find that it is back, and what is said meanwhile
		// may be lost with the rest of the data.
		text, heard := "after "+how, make(map[*client]bool)
		eventually(t, "both hear a message", func() bool {
			bob.say(fmt.Sprintf(`{"type":"room","text":%q}`, text))
			for _, c := range []*client{ann, bob} {
				for len(c.got) > 0 {
					heard[c] = c.hear()["text"] == text || heard[c]
				}
			}
			return heard[ann] && heard[bob]
		})
		bob.say(`{"type":"room","text":"enough"}`) // behind all the others that were said
		ann.until("room", "bob", "enough")
		bob.until("room", "bob", "enough")
	}
}

func TestOthersRedis(t *testing.T) {
	d := start(t, Options{Nodes: 1, Redis: "redis://" + redistest.Start(t).Addr})
	if status := d.order("redis", "stop"); status != http.StatusConflict || d.redis() != "" {
		t.Errorf("%d, %q: want a refusal", status, d.redis())
	}
}

// A tab whose network is cut hears nothing and says nothing, and neither end is told;
// nor is the tab when its node dies.
func TestCutATab(t *testing.T) {
	d := start(t, Options{Nodes: 2})
	if status := d.order("tabs/nobody", "cut"); status != http.StatusNotFound {
		t.Errorf("cut nobody: %d", status)
	}
	ann, other := d.connect(d.door, "user=ann&tab=1"), d.connect(d.nodes[1], "user=ann&tab=2")
	if status := d.order("tabs/1", "cut"); status != http.StatusNoContent {
		t.Fatalf("cut: %d", status)
	}
	ann.say(`{"type":"room","text":"into the void"}`)
	other.say(`{"type":"room","text":"who is there?"}`)
	other.want("room", "ann", "who is there?")
	if got, _ := d.online(d.door, "user=ann"); len(got.Sessions) != 2 {
		t.Errorf("the node was told: %+v", got)
	}
	d.order("nodes/n1", "stop")
	eventually(t, "the node's end is known", func() bool {
		got, status := d.online(d.nodes[1], "user=ann")
		return status == http.StatusOK && len(got.Sessions) == 1
	})
	select {
	case <-ann.done:
		t.Errorf("the tab was told: %v", ann.err)
	case f := <-ann.got:
		t.Errorf("the tab got %s", f)
	default:
	}
	if status := d.order("tabs/1", "restore"); status != http.StatusNoContent {
		t.Fatalf("restore: %d", status)
	}
	ann.gone()
	if status := d.order("tabs/1", "restore"); status != http.StatusNotFound {
		t.Errorf("restore twice: %d", status)
	}
	ann = d.connect(d.door, "user=ann&tab=1")
	other.say(`{"type":"room","text":"back?"}`)
	ann.want("room", "ann", "back?")
	other.want("room", "ann", "back?")
}

// New sockets of such a tab wait at the door, and come through when its network is back.
func TestCutKeepsSocketsWaiting(t *testing.T) {
	var tabs tabs
	inside, release := make(chan bool, 1), make(chan bool)
	server := httptest.NewUnstartedServer(tabs.through(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stay" {
			inside <- true
			<-release
		}
	})))
	server.Listener = lineListener{server.Listener}
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, clientKey{}, conn)
	}
	server.Start()
	defer server.Close()
	defer close(release)
	ask := func(path string) <-chan error {
		done := make(chan error, 1)
		go func() {
			response, err := http.Post(server.URL+path+"?tab=1", "", nil) // a GET would be repeated
			if err == nil {
				response.Body.Close()
			}
			done <- err
		}()
		return done
	}
	old := ask("/stay")
	<-inside
	if err := tabs.cut("1"); err != nil {
		t.Fatal(err)
	}
	fresh := ask("/")
	eventually(t, "the second socket is at the door", func() bool {
		tabs.mu.Lock()
		defer tabs.mu.Unlock()
		return len(tabs.byID["1"].lines) == 2
	})
	if err := tabs.restore("1"); err != nil {
		t.Fatal(err)
	}
	for what, done := range map[string]<-chan error{"the old socket": old, "the one that waited": fresh} {
		if err := <-done; err == nil {
			t.Errorf("%s was not ended", what)
		}
	}
	if err := <-ask("/"); err != nil {
		t.Errorf("with its network back: %v", err)
	}
}
