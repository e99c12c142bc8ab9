package clustertest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// senders is how many goroutines send on each node.
const senders = 3

// A running load is one that nodes are sending.
type running struct {
	c     *cluster
	nodes []*node
	done  []<-chan answer
}

// send begins a load from every node. count is the number of messages from each
// sender; with 0 they send until finish stops them.
func (c *cluster) send(count int, pace time.Duration) *running {
	c.t.Helper()
	c.round++
	l := &running{c: c, nodes: slices.Clone(c.nodes)}
	l.begin(load.Order{Sender: fmt.Sprint(c.round), Senders: senders, Users: c.users, Count: count, Pace: pace})
	return l
}

// begin orders the nodes to send, each under names of its own.
func (l *running) begin(o load.Order) {
	prefix := o.Sender
	for i, n := range l.nodes {
		o.Sender = fmt.Sprintf("%s.%d", prefix, i)
		l.done = append(l.done, n.begin("load", o))
	}
}

// finish waits for the end of the load, and keeps its records.
func (l *running) finish(stop bool) {
	l.c.t.Helper()
	for i, n := range l.nodes {
		if stop {
			n.mustAsk("stop", nil, nil)
		}
		var records map[string][]record
		if err := n.finish("load", l.done[i], &records); err != nil {
			l.c.t.Fatalf("%s: load: %v", n.Node, err)
		}
		maps.Copy(l.c.records, records)
	}
}

// fence waits until every device has got everything that any node sent to it
// before. It relies on the Redis Bus keeping all of a node's packets in order,
// though a Bus promises that only within each topic.
func (c *cluster) fence() {
	c.t.Helper()
	c.round++
	var tokens []string
	for i, n := range c.nodes {
		token := fmt.Sprintf("%d.%d", c.round, i)
		n.mustAsk("send", message{"*", "fence " + token}, nil)
		tokens = append(tokens, token)
	}
	for _, d := range c.devices {
		d.awaitFences(c.t, tokens)
	}
}

// verify fails the test if a device was disconnected, or if a message is not
// accounted for that was sent since the start of the cluster.
func (c *cluster) verify() load.Tally {
	c.t.Helper()
	account := load.Account{Records: c.records, Gaps: make(map[string][]gap)}
	for _, n := range c.nodes {
		account.Gaps[n.Node] = n.seen().Gaps
		if s := n.stats(); s.Gaps != uint64(len(account.Gaps[n.Node])) {
			c.t.Errorf("%s: Stats counts %d gaps, OnGap was told of %d", n.Node, s.Gaps, len(account.Gaps[n.Node]))
		}
	}
	for _, d := range c.devices {
		account.Devices = append(account.Devices, &d.Device)
		d.mu.Lock()
		if d.err != nil {
			c.t.Errorf("%v was disconnected: %v", &d.Device, d.err)
		}
		d.mu.Unlock()
	}
	total, faults := account.Settle()
	for i, err := range faults {
		if i == 10 {
			c.t.Errorf("and %d more", len(faults)-i)
			break
		}
		c.t.Error(err)
	}
	if c.t.Failed() {
		c.t.FailNow() // the checks that follow would say the same
	}
	return total
}

// verifyClean sends count messages from each sender. Every device must get every
// message that is meant for it, and no node may report a gap.
func (c *cluster) verifyClean(count int) {
	c.t.Helper()
	before := c.gaps()
	c.send(count, 0).finish(false)
	c.fence()
	c.verify()
	if after := c.gaps(); !slices.Equal(before, after) {
		c.t.Errorf("gaps of the nodes without a fault: %v, before %v", after, before)
	}
	for sender, records := range c.records {
		if !strings.HasPrefix(sender, fmt.Sprint(c.round-1, ".")) {
			continue
		}
		for _, r := range records {
			if r.Err != "" {
				c.t.Errorf("message %s %d: %s, without a fault", sender, r.N, r.Err)
			}
		}
	}
}

// gaps returns how many gaps each node has reported.
func (c *cluster) gaps() []uint64 {
	c.t.Helper()
	var all []uint64
	for _, n := range c.nodes {
		all = append(all, n.stats().Gaps)
	}
	return all
}

// sessions returns the sessions of all users as the node lists them, by id.
func (c *cluster) sessions(n *node) map[string]herald.Session {
	c.t.Helper()
	all, err := c.askSessions(n)
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

func (c *cluster) askSessions(n *node) (map[string]herald.Session, error) {
	c.t.Helper()
	var users []string
	for _, d := range c.devices {
		users = append(users, d.User)
	}
	slices.Sort(users)
	var list []herald.Session
	if err := n.ask("sessions", slices.Compact(users), &list); err != nil {
		return nil, fmt.Errorf("%s: sessions: %w", n.Node, err)
	}
	all := make(map[string]herald.Session, len(list))
	for _, s := range list {
		all[s.ID] = s
	}
	if len(all) != len(list) {
		c.t.Errorf("%s lists a session twice: %v", n.Node, list)
	}
	return all, nil
}
