package clustertest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/test/load"
)

// A device is a client. It never reconnects: if it is closed during the test, the
// test fails.
type device struct {
	load.Device
	node *node
	id   string // of its Conn

	conn   *websocket.Conn
	fences chan string
	ended  chan struct{} // closed when the reader has ended

	mu     sync.Mutex // guards the rest
	joined []int
	err    error
}

// connect connects a device of the user to the node.
func (c *cluster) connect(n *node, user, name string, groups ...string) *device {
	c.t.Helper()
	d := &device{
		Device: load.Device{Name: name, User: user, Groups: groups, Node: n.Node},
		node:   n,
		fences: make(chan string, 64),
		ended:  make(chan struct{}),
	}
	query := url.Values{"user": {user}, "device": {name}, "group": groups}
	// Health may be some seconds old: a node on Sentinels may still have to move to
	// another master, and answers 503 until it is there.
	await(c.t, fmt.Sprintf("%s of %s on %s", name, user, n.Node), func() error {
		conn, answer, err := websocket.Dial(within(c.t), n.URL+"?"+query.Encode(), nil)
		if err != nil && (c.set == nil || answer == nil || answer.StatusCode != http.StatusServiceUnavailable) {
			c.t.Fatalf("connect %s of %s to %s: %v", name, user, n.Node, err)
		}
		d.conn = conn
		return err
	})
	for d.id == "" { // messages to the user may come before its id
		_, message, err := d.conn.Read(within(c.t))
		if id, ok := strings.CutPrefix(string(message), "id "); ok {
			d.id = id
		} else if err == nil {
			err = d.take(message)
		}
		if err != nil {
			c.t.Fatalf("first messages of %s of %s: %v", name, user, err)
		}
	}
	d.Since = time.Now().UnixNano()
	go d.read()
	c.t.Cleanup(d.close)
	c.devices = append(c.devices, d)
	return d
}

func (d *device) close() {
	d.conn.CloseNow()
	<-d.ended
}

// populate connects three devices for each of the users, each to another node.
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
			err = d.take(b)
		}
		if err != nil {
			d.mu.Lock()
			d.err = err
			d.mu.Unlock()
			return
		}
	}
}

// take takes a message: one of a load, "fence <token>" or "join <number>".
func (d *device) take(message []byte) error {
	if r, ok := load.ParseReceipt(message); ok {
		d.Take(r)
		return nil
	}
	words := strings.Split(string(message), " ")
	switch {
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
	return fmt.Errorf("message %q is none of ours", message)
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
				t.Fatalf("%v got fence %s, which is old, or for the second time", &d.Device, token)
			}
			missing = slices.Delete(missing, i, i+1)
		case <-d.ended:
			t.Fatalf("%v was disconnected: %v", &d.Device, d.err)
		case <-timer.C:
			t.Fatalf("%v: fences %v never came", &d.Device, missing)
		}
	}
}
