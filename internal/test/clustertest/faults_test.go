package clustertest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// pace is the pause between the messages of a sender during a fault. All senders
// together make some 300 messages and 3,000 deliveries a second.
const pace = 30 * time.Millisecond

// TestFaults breaks each thing between the nodes in turn, while the load of
// TestDelivery goes on.
func TestFaults(t *testing.T) {
	s := quick
	s.Lease = 5 * time.Second
	c := newCluster(t, 3, s)
	c.populate(300)
	for _, f := range []struct {
		name  string
		times int
		fault func(c *cluster)
		hit   []int // the nodes that must report a gap
	}{
		{"subscriber killed", 5, (*cluster).killSubscribers, []int{0, 1, 2}},
		{"publisher killed", 5, (*cluster).killPublishers, nil},
		{"replies to publishers lost", 2, (*cluster).loseReplies, nil},
		{"silent unsubscribe", 3, (*cluster).unsubscribeSilently, []int{0}},
		{"replica", 2, (*cluster).becomeReplica, []int{0, 1, 2}},
		{"redis restarted empty", 2, (*cluster).restartRedis, []int{0, 1, 2}},
		{"redis stopped for 10 s", 1, (*cluster).stopRedis, []int{0, 1, 2}},
		{"black hole of 12 s", 1, (*cluster).blackhole, []int{2}},
	} {
		t.Run(f.name, func(t *testing.T) {
			c := c.with(t)
			c.awaitHealthy()
			sessions, gaps := c.sessions(c.nodes[0]), c.gaps()
			l := c.send(0, pace)
			for range f.times {
				c.awaitSent(20)
				c.suffer(f.fault, f.hit)
			}
			c.awaitSent(20)
			l.finish(true)
			c.awaitHealthy()
			c.fence()
			t.Log(c.verify())
			c.logGaps(gaps)
			c.verifyPromptness()
			c.awaitWhole(sessions)
			c.verifyClean(50)
		})
		if t.Failed() {
			return
		}
	}
	c.shutdown()
}

// suffer runs the fault, and waits until each node that it hits has reported a gap
// and all are healthy.
func (c *cluster) suffer(fault func(*cluster), hit []int) {
	c.t.Helper()
	gaps := c.gaps()
	fault(c)
	for _, i := range hit {
		await(c.t, "gap of "+c.nodes[i].Node, func() error {
			if c.nodes[i].stats().Gaps == gaps[i] {
				return errors.New("none reported")
			}
			return nil
		})
	}
	c.awaitHealthy()
}

// awaitSent waits until each of the nodes has sent more messages. Without nodes it
// waits for all.
func (c *cluster) awaitSent(more uint64, nodes ...*node) {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.nodes
	}
	for _, n := range nodes {
		sent := n.stats().Sent
		await(c.t, "messages of "+n.Node, func() error {
			if n.stats().Sent < sent+more {
				return errors.New("not sent")
			}
			return nil
		})
	}
}

// logGaps logs the gaps of each node, without the first ones that before counts.
func (c *cluster) logGaps(before []uint64) {
	c.t.Helper()
	for i, n := range c.nodes {
		c.t.Logf("gaps of %s:%s", n.Node, load.Describe(n.seen().Gaps[before[i]:]))
	}
}

// with returns the cluster for a subtest, which shares all nodes with its parent.
func (c *cluster) with(t *testing.T) *cluster {
	parent, sub := c, *c
	fails := func(t *testing.T) {
		for _, n := range c.nodes {
			n.t = t
		}
	}
	sub.t = t
	fails(t)
	t.Cleanup(func() {
		parent.round = sub.round
		fails(parent.t)
	})
	return &sub
}

// verifyPromptness fails the test for each Send that took much longer than its
// SendTimeout of 5 s.
func (c *cluster) verifyPromptness() {
	c.t.Helper()
	for sender, records := range c.records {
		for _, r := range records {
			if took := time.Duration(r.End - r.Start); took > hung/2 {
				c.t.Errorf("message %s %d took %v", sender, r.N, took)
			}
		}
	}
}

// killSubscribers kills the subscribed connection of every node.
func (c *cluster) killSubscribers() {
	killed, err := c.rdb.ClientKillByFilter(within(c.t), "TYPE", "pubsub").Result()
	if err != nil || killed != int64(len(c.nodes)) {
		c.t.Fatalf("CLIENT KILL: %d, %v", killed, err)
	}
}

// killPublishers kills the connection on which each node publishes.
func (c *cluster) killPublishers() {
	list, err := c.rdb.Do(within(c.t), "CLIENT", "LIST", "TYPE", "normal").Text()
	if err != nil {
		c.t.Fatal(err)
	}
	killed := 0
	for line := range strings.Lines(list) {
		fields := make(map[string]string)
		for _, f := range strings.Fields(line) {
			name, value, _ := strings.Cut(f, "=")
			fields[name] = value
		}
		if cmd := fields["cmd"]; cmd != "publish" && cmd != "hello" {
			continue
		}
		if err := c.rdb.ClientKillByFilter(within(c.t), "ID", fields["id"]).Err(); err != nil {
			c.t.Fatal(err)
		}
		killed++
	}
	if killed < len(c.nodes) { // a new connection of the Registry also says hello
		c.t.Fatalf("killed %d publishers:\n%s", killed, list)
	}
}

// loseReplies lets Redis take what every node publishes, but swallows the answers,
// until each node has given up a message.
func (c *cluster) loseReplies() {
	c.t.Helper()
	for _, n := range c.nodes {
		errs := n.stats().SendErrors
		await(c.t, "a message given up by "+n.Node, func() error {
			if n.stats().SendErrors > errs {
				return nil
			}
			// Muted again and again: if the Bus' own probe was waiting when the
			// answers ended, the probe gives up instead, and the link is new.
			n.proxy.Find("PUBLISH").Mute(true)
			return errors.New("no error")
		})
	}
}

// unsubscribeSilently unsubscribes node 0 from the channel of a user, and hides
// Redis' confirmation, while node 1 sends to the user as fast as it can.
func (c *cluster) unsubscribeSilently() {
	const channel = "herald:{0}:uuser0"
	pair := c.nodes[0].proxy.Find("SUBSCRIBE")
	word := fmt.Sprintf("$%d\r\n%s\r\n", len(channel), channel)
	c.round++
	sent := c.nodes[1].stats().Sent
	l := &running{c: c, nodes: c.nodes[1:2]}
	l.begin(load.Order{Sender: fmt.Sprint(c.round), Senders: 1, Users: 1, Count: 1000})
	await(c.t, "messages to the user", func() error {
		if c.nodes[1].stats().Sent < sent+100 {
			return errors.New("not sent")
		}
		return nil
	})
	pair.Swallow("$11\r\nunsubscribe\r\n" + word)
	if err := pair.Inject([]byte("*2\r\n$11\r\nUNSUBSCRIBE\r\n" + word)); err != nil {
		c.t.Fatal(err)
	}
	l.finish(false)
}

// becomeReplica makes the nodes' Redis a replica of another, until each node has
// given up its subscriptions.
func (c *cluster) becomeReplica() {
	other := redistest.Start(c.t)
	host, port, _ := strings.Cut(other.Addr, ":")
	if err := c.rdb.Do(within(c.t), "REPLICAOF", host, port).Err(); err != nil {
		c.t.Fatal(err)
	}
	awaitUnhealthy(c.t, c.nodes...)
	await(c.t, "end of the subscriptions", func() error {
		n, err := c.rdb.PubSubNumSub(within(c.t), "herald:{0}:h").Result()
		if err == nil && n["herald:{0}:h"] > 0 {
			err = fmt.Errorf("of %v nodes", n)
		}
		return err
	})
	if err := c.rdb.Do(within(c.t), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		c.t.Fatal(err)
	}
}

// restartRedis kills Redis, and starts it again when all nodes have noticed.
func (c *cluster) restartRedis() {
	c.redis.Kill()
	awaitUnhealthy(c.t, c.nodes...)
	c.redis.Restart()
}

func (c *cluster) stopRedis() {
	c.redis.Pause()
	defer c.redis.Continue()
	over := time.After(10 * time.Second)
	awaitUnhealthy(c.t, c.nodes...)
	<-over
}

// blackhole drops everything between node 2 and Redis.
func (c *cluster) blackhole() {
	c.nodes[2].proxy.Blackhole(true)
	defer c.nodes[2].proxy.Blackhole(false)
	over := time.After(12 * time.Second)
	awaitUnhealthy(c.t, c.nodes[2])
	<-over
}
