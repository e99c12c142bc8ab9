package clustertest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/heraldgo/herald"
)

// senders is how many goroutines send on each node.
const senders = 3

// A running load is what the nodes are sending.
type running struct {
	c     *cluster
	nodes []*node
	done  []<-chan answer
}

// send begins a load from every node; count is of messages from each sender,
// 0 until finish is told to stop it.
func (c *cluster) send(count int, pace time.Duration) *running {
	c.t.Helper()
	c.round++
	l := &running{c: c, nodes: slices.Clone(c.nodes)}
	l.begin(order{Sender: fmt.Sprint(c.round), Senders: senders, Users: c.users, Count: count, Pace: pace})
	return l
}

// begin gives the order to the nodes, each with names of its own.
func (l *running) begin(o order) {
	prefix := o.Sender
	for i, n := range l.nodes {
		o.Sender = fmt.Sprintf("%s.%d", prefix, i)
		l.done = append(l.done, n.begin("load", o))
	}
}

// finish waits for the end of the load, and notes what was sent.
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

// fence waits until every device has got all that was sent to it before,
// by any node. It relies on the Redis Bus keeping the order of all that a node
// publishes; the Bus promises that for each topic only.
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

// A tally is what verify counted.
type tally struct {
	sent      int // messages that were taken
	delivered int
	failed    int // calls of Send with an error
	lost      int // inside reported gaps
}

func (t tally) String() string {
	return fmt.Sprintf("%d messages sent, %d not, %d delivered, %d lost in gaps", t.sent, t.failed, t.delivered, t.lost)
}

// verify compares what the devices got with what was sent, since the start
// of the cluster: nobody got a message twice, out of order, or that was
// not meant for them or not sent; and what a device did not get lies inside
// a gap that its node has reported.
func (c *cluster) verify() tally {
	c.t.Helper()
	gaps := make(map[*node][]gap)
	for _, n := range c.nodes {
		gaps[n] = n.seen().Gaps
		if s := n.stats(); s.Gaps != uint64(len(gaps[n])) {
			c.t.Errorf("%s: Stats counts %d gaps, OnGap was told of %d", n.Node, s.Gaps, len(gaps[n]))
		}
	}
	var total tally
	byTarget := make(map[string][]sent)
	for sender, records := range c.records {
		for i := range records {
			r := &records[i]
			byTarget[r.Target] = append(byTarget[r.Target], sent{sender, r})
			switch r.Err {
			case "":
				total.sent++
			case down, unknown:
				total.failed++
			default:
				c.t.Errorf("message %s %d to %s: %s", sender, r.N, r.Target, r.Err)
			}
		}
	}
	for _, d := range c.devices {
		got := c.verifyReceived(d)
		total.delivered += len(got)
		for target, messages := range byTarget {
			if !d.meant(target) {
				continue
			}
			for _, m := range messages {
				if m.Err != "" || m.Start < d.since || got[key{m.sender, m.N}] {
					continue
				}
				if slices.ContainsFunc(gaps[d.node], func(g gap) bool { return g.covers(m.record, d) }) {
					total.lost++
					continue
				}
				c.t.Errorf("%s of %s on %s did not get message %s %d to %s, sent %v to %v; gaps of the node:%s",
					d.name, d.user, d.node.Node, m.sender, m.N, target, clockTime(m.Start), clockTime(m.End), describe(gaps[d.node]))
			}
		}
		if c.t.Failed() {
			c.t.FailNow() // one device's faults are enough to read
		}
	}
	return total
}

// sent is a message of a load.
type sent struct {
	sender string
	*record
}

type key struct {
	sender string
	n      int
}

// verifyReceived checks what a device did get.
func (c *cluster) verifyReceived(d *device) map[key]bool {
	c.t.Helper()
	d.mu.Lock()
	received, err := slices.Clone(d.received), d.err
	d.mu.Unlock()
	if err != nil {
		c.t.Errorf("%s of %s on %s was disconnected: %v", d.name, d.user, d.node.Node, err)
	}
	got := make(map[key]bool, len(received))
	type stream struct{ sender, target string }
	last := make(map[stream]int)
	for _, r := range received {
		records := c.records[r.sender]
		switch {
		case r.n >= len(records) || records[r.n].Target != r.target:
			c.t.Errorf("%s of %s got %v, which nobody sent", d.name, d.user, r)
		case records[r.n].Err != "" && records[r.n].Err != unknown:
			c.t.Errorf("%s of %s got %v, whose Send said %q", d.name, d.user, r, records[r.n].Err)
		case !d.meant(r.target):
			c.t.Errorf("%s of %s in %v got %v", d.name, d.user, d.groups, r)
		case got[key{r.sender, r.n}]:
			c.t.Errorf("%s of %s got %v twice", d.name, d.user, r)
		}
		got[key{r.sender, r.n}] = true
		s := stream{r.sender, r.target}
		if before, ok := last[s]; ok && before > r.n {
			c.t.Errorf("%s of %s got %v after number %d", d.name, d.user, r, before)
		}
		last[s] = r.n
	}
	return got
}

func describe(gaps []gap) string {
	var b strings.Builder
	for _, g := range gaps {
		fmt.Fprintf(&b, "\n\t%v to %v, all %v: %s", clockTime(g.Since), clockTime(g.Until), g.All, g.Cause)
	}
	return b.String()
}

func clockTime(nanos int64) string { return time.Unix(0, nanos).Format("15:04:05.000000") }

// verifyClean sends count messages from each sender, and every device must
// get every one that is meant for it: no node may report a gap.
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

// sessions returns what a node knows of all users, by the id of the session.
func (c *cluster) sessions(n *node) map[string]herald.Session {
	c.t.Helper()
	var users []string
	for _, d := range c.devices {
		users = append(users, d.user)
	}
	slices.Sort(users)
	var list []herald.Session
	n.mustAsk("sessions", slices.Compact(users), &list)
	all := make(map[string]herald.Session, len(list))
	for _, s := range list {
		all[s.ID] = s
	}
	if len(all) != len(list) {
		c.t.Errorf("%s lists a session twice: %v", n.Node, list)
	}
	return all
}
