package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// lists has the Registry list a session of the user on a node, with a lease that is
// renewed no more.
func lists(t *testing.T, registry herald.Registry, node herald.Node, lease time.Duration, user string) {
	t.Helper()
	generation := node.Generation
	if generation == 0 {
		var err error
		if generation, err = registry.KeepAlive(t.Context(), node, lease); err != nil {
			t.Fatal(err)
		}
	}
	entry := herald.Entry{Session: herald.Session{ID: node.ID + ".999", User: user}, UserTopic: "u" + user}
	if _, err := registry.Add(t.Context(), herald.Lease{Node: node.ID, Generation: generation}, entry); err != nil {
		t.Fatal(err)
	}
}

// followed returns what the page says of the message that is followed.
func (p tab) followed() string {
	p.t.Helper()
	p.until(`!document.getElementById("follow-button").disabled && document.querySelector("#way .steps") !== null`)
	return p.text(`document.getElementById("way").innerText`)
}

// silent connects a client that reads and does not answer pings. pinged gets one of each.
func silent(t *testing.T, node *heraldtest.Node, user string) (ws *websocket.Conn, pinged <-chan bool) {
	t.Helper()
	pings := make(chan bool, 100)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, node.URL+"/?"+url.Values{"user": {user}}.Encode(), &websocket.DialOptions{
		OnPingReceived: func(context.Context, []byte) bool {
			pings <- true
			return false
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	readsOn(t, ws)
	return ws, pings
}

// A message does not arrive at a client that takes nothing, goes away, is listed and not
// there, or is on an older node, nor if the Registry does not answer.
func TestAdminReasons(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 1, herald.Config{
		Authenticate: fromQuery, SendTimeout: patience, QueueMessages: 64, QueueBytes: 64 << 20,
		WriteTimeout: time.Hour, PingInterval: time.Hour, Lease: time.Hour, // nothing is mended meanwhile
	})
	node := cluster.Nodes[0]
	p := open(t, browser(t), administer(t, node.Hub))

	join(t, node.URL, "user", "slow")
	for range 40 { // more than the kernel has room for
		if err := node.Hub.Send(t.Context(), herald.User("slow"), herald.Binary(make([]byte, 1<<20))); err != nil {
			t.Fatal(err)
		}
	}
	p.find("slow", 1)
	p.follow("", "Node "+node.Hub.NodeID()+" has it", "Slow client: it does not take what is written to it", "the client has taken nothing for")

	p.find("leaver", 0)
	p.again("a client leaves with the message", func() string {
		ws, pinged := silent(t, node, "leaver")
		p.click("#follow-button")
		<-pinged
		ws.CloseNow()
		return p.followed()
	}, "Node "+node.Hub.NodeID()+" has it", "Gone: the connection ended before the client had answered")

	nodes, err := node.Hub.Nodes(t.Context())
	if err != nil || len(nodes) != 1 {
		t.Fatalf("%v, %v", nodes, err)
	}
	lists(t, node.Registry, nodes[0], time.Hour, "stray")
	p.find("stray", 1)
	p.follow("", "Gone: the node does not have this connection any more")

	readsOn(t, join(t, node.URL, "user", "both"))
	lists(t, node.Registry, herald.Node{ID: "old-1", Version: 1}, time.Hour, "both")
	p.find("both", 2)
	p.follow("", "Not known: the node is of an older version of herald", "Not sent: another connection of the user is on a node of an older version")

	node.Registry.Cut()
	p.follow("", "The Registry does not say which connections there are")
}

// A message does not reach a node whose Bus has lost it, nor one that is dead.
func TestAdminLost(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 3, herald.Config{Authenticate: fromQuery, SendTimeout: patience, Lease: 3 * time.Second, ProbeInterval: 200 * time.Millisecond})
	here, there, third := cluster.Nodes[0], cluster.Nodes[1], cluster.Nodes[2]
	p := open(t, browser(t), administer(t, here.Hub))
	readsOn(t, join(t, there.URL, "user", "anna"))
	_, sent := silent(t, here, "anna")
	loses := func() string {
		there.Bus.Lose(true)
		p.click("#follow-button")
		<-sent
		there.Bus.Lose(false)
		return p.followed()
	}
	p.find("anna", 2)
	p.again("the Bus loses it", loses, "Not heard: node "+there.Hub.NodeID()+" answers questions, and has not said that the message came")
	third.Bus.Cut()
	p.again("the gap", func() string { return fmt.Sprint(there.Hub.Stats().OpenGaps > 0) }, "true")
	p.again("the Bus loses it in a gap", loses, "Gap: node "+there.Hub.NodeID()+" has not said that it has it, and reports a gap of its Bus for")

	p.find("bert", 0)
	n := 0
	p.again("its node is dead", func() string {
		n++
		lists(t, here.Registry, herald.Node{ID: fmt.Sprint("dead-", n), Version: 99}, time.Second, "bert")
		p.click("#follow-button")
		return p.followed()
	}, "Gap: node dead-", "is not known to live any more")
}

// Each reason that the page can give, and each that docs/why.md explains, is one that a
// test here reads on the page.
func TestEveryReasonIsRead(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := read("admin_test.go") + read("reasons_test.go")
	var reasons []string
	for _, found := range regexp.MustCompile(`"([A-Z][A-Za-z ]+): `).FindAllStringSubmatch(read("../../heraldadmin/follow.go"), -1) {
		reasons = append(reasons, found[1])
	}
	_, table, _ := strings.Cut(read("../../docs/why.md"), "|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.Lines(table) {
		for label := range strings.SplitSeq(strings.Split(row, "|")[1], ", ") {
			reasons = append(reasons, strings.Split(label, "…")...)
		}
	}
	if len(reasons) < 30 {
		t.Fatalf("these are not all reasons: %q", reasons)
	}
	for _, reason := range reasons {
		if reason = strings.TrimSpace(reason); reason != "" && !strings.Contains(tests, reason) {
			t.Errorf("no test reads %q on the page", reason)
		}
	}
}
