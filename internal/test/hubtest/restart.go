package hubtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
)

// pace is the pause between the messages of a sender while the broker restarts. All
// senders together make at most 900 messages and 6,000 deliveries a second.
const pace = 10 * time.Millisecond

// These are the numbers of messages that each hub sends before the restart, and
// when all is well again. The tests of this package shorten them.
var (
	sentBefore = 500
	sentAfter  = 1_200
)

func testRestart(t *testing.T, broker Broker) {
	if broker.Restart == nil {
		t.Fatal("Broker.Restart must be set")
	}
	c := newCluster(t, broker, hubs, herald.Config{SendTimeout: 5 * time.Second}, nil)
	c.populate()
	l := c.send(0, pace)
	round := c.rounds
	c.awaitSent(sentBefore)
	began := time.Now()
	broker.Restart()
	took := time.Since(began)
	c.awaitHealthy()
	healthy := time.Since(began)
	c.awaitSent(sentAfter)
	l.finish()
	c.fence()
	c.awaitHealthy() // all gaps are over
	total := c.settle()
	gaps := c.gaps()
	t.Logf("broker restarted in %v, all hubs healthy after %v: %v; gaps of the hubs: %v", took, healthy, total, gaps)
	t.Logf("longest time without service between two hubs: %v", c.outage(round))
	for _, n := range c.nodes {
		t.Logf("gaps of %s:%s", n.NodeID(), load.Describe(n.gapsSoFar()))
	}
	c.awaitListed()

	c.send(sentBefore/senders, 0).wait()
	c.fence()
	after := c.settle()
	if after.Failed > total.Failed || after.Lost > total.Lost {
		t.Errorf("after the restart, without a fault: %v; before that: %v", after, total)
	}
	c.expectNoGaps(gaps)
}

// awaitSent waits until every hub has sent more messages. A slow machine may take
// long for all of them, but not for each.
func (c *cluster) awaitSent(more int) {
	c.Helper()
	before := make([]uint64, len(c.nodes))
	for i, n := range c.nodes {
		before[i] = n.Stats().Sent
	}
	for i, n := range c.nodes {
		for next := 0; next < more; {
			next = min(next+100, more)
			c.await("messages of "+n.NodeID(), func() error {
				if sent := n.Stats().Sent - before[i]; sent < uint64(next) {
					return fmt.Errorf("%d sent; health: %v", sent, n.Health())
				}
				return nil
			})
		}
	}
}

// outage returns the longest time between two messages of a load that arrived from
// one hub at another.
func (c *cluster) outage(round int) (longest time.Duration) {
	type way struct{ from, to string }
	starts := make(map[way][]int64)
	for _, d := range c.devices {
		for _, r := range d.Receipts() {
			for from := range c.nodes {
				if name := senderName(round, from); strings.HasPrefix(r.Sender, name+".") {
					w := way{name, d.Node}
					starts[w] = append(starts[w], c.records[r.Sender][r.N].Start)
				}
			}
		}
	}
	for _, times := range starts {
		slices.Sort(times)
		for i := range times[1:] {
			longest = max(longest, time.Duration(times[i+1]-times[i]))
		}
	}
	return longest
}

// awaitListed waits until every hub lists exactly the connected devices.
func (c *cluster) awaitListed() {
	c.Helper()
	names := make(map[string]bool)
	var all []string
	for _, d := range c.devices {
		names[d.User+" "+d.Name+" "+d.Node] = true
		all = append(all, d.User)
	}
	slices.Sort(all)
	target := herald.User(slices.Compact(all)...)
	for _, n := range c.nodes {
		c.await("sessions as "+n.NodeID()+" sees them", func() error {
			sessions, err := n.Sessions(c.Context(), target)
			if err != nil {
				return err
			}
			for _, s := range sessions {
				if name := s.User + " " + s.Device + " " + s.Node; !names[name] {
					return fmt.Errorf("%s is listed", name)
				}
			}
			if len(sessions) != len(names) {
				return fmt.Errorf("%d sessions of %d devices", len(sessions), len(names))
			}
			return nil
		})
	}
}
