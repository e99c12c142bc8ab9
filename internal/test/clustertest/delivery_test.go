package clustertest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// quick has short times, for tests that wait for them, but not so short that nodes
// on a busy machine lose each other.
var quick = settings{
	Lease:         4 * time.Second,
	OfflineDelay:  500 * time.Millisecond,
	ProbeInterval: time.Second / 10,
	ProbeTimeout:  2 * time.Second,
}

// TestDelivery has 300 users with three devices each, on three nodes. All nodes
// together send 20,000 messages: 18,000 to users, 1,900 to groups and 100 to
// everyone. A device gets some 230 of them, so that a queue of the default 4,096
// messages is long enough at any pace.
func TestDelivery(t *testing.T) {
	c := newCluster(t, 3, settings{ProbeTimeout: hung})
	c.populate(300)
	c.send(20_000/(3*senders)+1, 0).finish(false)
	c.fence()
	total := c.verify()
	t.Log(total)
	if total.Sent < 20_000 || total.Failed > 0 || total.Lost > 0 || slices.Max(c.gaps()) > 0 {
		t.Errorf("without a fault: %v, gaps of the nodes: %v", total, c.gaps())
	}
	for _, n := range c.nodes {
		if s := n.stats(); s.Dropped+s.Malformed+s.TooSlow+s.Panics+s.Resets > 0 || s.Conns != 300 {
			t.Errorf("%s without a fault: %+v", n.Node, s)
		}
	}
	c.shutdown()
}

// TestJoinThenSend has a user join a group and then sends to the group at once, a
// thousand times. The user's devices on all nodes get every message.
func TestJoinThenSend(t *testing.T) {
	const count, askers = 1000, 4
	c := newCluster(t, 3, settings{})
	var users []string
	for i := range 10 {
		users = append(users, userName(i))
	}
	c.populate(len(users))
	var done []<-chan answer
	for i := range askers {
		done = append(done, c.nodes[0].begin("join", joinOrder{users, i * count / askers, count / askers}))
	}
	for _, d := range done {
		if err := c.nodes[0].finish("join", d, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.fence()
	for _, d := range c.devices {
		var want []int
		for i := range count {
			if users[i%len(users)] == d.User {
				want = append(want, i)
			}
		}
		d.mu.Lock()
		got := slices.Sorted(slices.Values(d.joined))
		d.mu.Unlock()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v got the messages of %d groups, joined %d: %v", &d.Device, len(got), len(want), got)
		}
	}
}
