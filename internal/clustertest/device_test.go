package clustertest

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A device is a client. It never connects again: whoever closes it while
// the test goes on, fails the test.
type device struct {
	user   string
	name   string
	groups []string
	node   *node
	id     string // of its Conn
	since  int64  // Unix nanoseconds: what is sent from then on it must get

	conn   *websocket.Conn
	fences chan string
	ended  chan struct{} // closed when the reader has ended

	mu       sync.Mutex // guards the rest
	received []receipt
	joined   []int
	err      error
}

// A receipt is a message of a load that the device got.
type receipt struct {
	sender string
	n      int
	target string
}

// connect connects a device of the user to the node.
func (c *cluster) connect(n *node, user, name string, groups ...string) *device {
	c.t.Helper()
	d := &device{user: user, name: name, groups: groups, node: n, fences: make(chan string, 64), ended: make(chan struct{})}
	query := url.Values{"user": {user}, "device": {name}, "group": groups}
	conn, _, err := websocket.Dial(within(c.t), n.URL+"?"+query.Encode(), nil)
	if err != nil {
		c.t.Fatalf("connect %s of %s to %s: %v", name, user, n.Node, err)
	}
	d.conn = conn
	_, first, err := conn.Read(within(c.t))
	if err != nil {
		c.t.Fatalf("first message of %s of %s: %v", name, user, err)
	}
	d.id = strings.TrimPrefix(string(first), "id ")
	d.since = time.Now().UnixNano()
	go d.read()
	c.t.Cleanup(d.close)
	c.devices = append(c.devices, d)
	return d
}

func (d *device) close() {
	d.conn.CloseNow()
	<-d.ended
}

// populate connects three devices of each of so many users, each to another
// node.
func (c *cluster) populate(users int) {
	c.t.Helper()
	c.users = users
	for i := range users {
		for j := range 3 {
			c.connect(c.nodes[(i+j)%len(c.nodes)], userName(i), fmt.Sprint("device", j), groupsOf(i, users)...)
		}
	}
}

func (d *device) read() {
	defer close(d.ended)
	for {
		_, b, err := d.conn.Read(context.Background())
		if err == nil {
			err = d.take(string(b))
		}
		if err != nil {
			d.mu.Lock()
			d.err = err
			d.mu.Unlock()
			return
		}
	}
}

// take takes a message: "m <sender> <n> <target>" of a load, "fence <token>",
// or "join <number>".
func (d *device) take(text string) error {
	words := strings.Split(text, " ")
	switch {
	case words[0] == "m" && len(words) == 4:
		n, err := strconv.Atoi(words[2])
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.received = append(d.received, receipt{words[1], n, words[3]})
		d.mu.Unlock()
		return nil
	case words[0] == "fence" && len(words) == 2:
		d.fences <- words[1]
		return nil
	case words[0] == "join" && len(words) == 2:
		n, err := strconv.Atoi(words[1])
		d.mu.Lock()
		d.joined = append(d.joined, n)
		d.mu.Unlock()
		return err
	}
	return fmt.Errorf("message %q is none of ours", text)
}

// awaitFences waits until the device has seen all of the tokens.
func (d *device) awaitFences(t *testing.T, tokens []string) {
	t.Helper()
	missing := slices.Clone(tokens)
	timer := time.NewTimer(hung)
	defer timer.Stop()
	for len(missing) > 0 {
		select {
		case token := <-d.fences:
			i := slices.Index(missing, token)
			if i < 0 {
				t.Fatalf("%s of %s got fence %s, which is old, or for the second time", d.name, d.user, token)
			}
			missing = slices.Delete(missing, i, i+1)
		case <-d.ended:
			t.Fatalf("%s of %s on %s was disconnected: %v", d.name, d.user, d.node.Node, d.err)
		case <-timer.C:
			t.Fatalf("%s of %s on %s: fences %v never came", d.name, d.user, d.node.Node, missing)
		}
	}
}

// meant says whether the device is meant by a target.
func (d *device) meant(target string) bool {
	kind, names, _ := strings.Cut(target, ":")
	for name := range strings.SplitSeq(names, ",") {
		if kind == "*" || kind == "u" && name == d.user || kind == "g" && slices.Contains(d.groups, name) {
			return true
		}
	}
	return false
}

// covers says whether a message that was sent in the record's time may be
// lost in the gap, for the device.
func (g *gap) covers(r *record, d *device) bool {
	if r.End < g.Since || r.Start > g.Until {
		return false
	}
	if g.All || r.Target == "*" && g.EveryoneReached {
		return true
	}
	kind, names, _ := strings.Cut(r.Target, ":")
	for name := range strings.SplitSeq(names, ",") {
		if kind == "u" && name == d.user && slices.Contains(g.Users, name) || kind == "g" && slices.Contains(d.groups, name) && slices.Contains(g.Groups, name) {
			return true
		}
	}
	return false
}
