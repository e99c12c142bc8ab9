package clustertest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// TestKilledNode kills a node. When its lease has run out, the others no longer
// list its sessions. Each of its users goes offline once, and nothing of it is
// left. Nodes of the same name never touch each other's sessions.
func TestKilledNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, quick)
	c.populate(30)
	victim := c.nodes[2]
	alone := c.connectAlone(victim, 20)
	c.awaitWhole(nil)
	l := c.send(0, pace)
	c.awaitSent(20)

	c.remove(victim)
	c.awaitUnlisted(victim, alone)
	c.awaitOffline(alone)
	c.awaitNothingOf(victim.Node)
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n == victim })
	c.awaitWhole(nil)
	c.awaitSent(20)
	finishWithout(l, victim)
	c.fence()
	c.verify()

	// Two more nodes of its name start, one of which dies.
	sessions := c.sessions(c.nodes[0])
	twin := c.start("node2")
	second := c.start("node2")
	c.connectAlone(twin, 5)
	dead := c.connectAlone(second, 5)
	c.awaitWhole(sessions)
	sessions = c.sessions(c.nodes[0])
	c.remove(second)
	c.awaitNothingOf(second.Node)
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n == second })
	c.awaitWhole(sessions)
	c.verifyClean(20)
	c.awaitOffline(append(alone, dead...))
}

// connectAlone connects users who have no other device, and returns their
// names.
func (c *cluster) connectAlone(n *node, count int) (users []string) {
	c.t.Helper()
	for i := range count {
		user := fmt.Sprintf("alone%d.%s", i, n.Node)
		c.connect(n, user, "device")
		users = append(users, user)
	}
	return users
}

// remove kills a node with SIGKILL, and forgets its devices.
func (c *cluster) remove(victim *node) {
	victim.kill()
	c.devices = slices.DeleteFunc(c.devices, func(d *device) bool { return d.node == victim })
}

// awaitUnlisted waits for the victim's lease to run out, and checks once that no
// other node lists it or its users.
func (c *cluster) awaitUnlisted(victim *node, users []string) {
	c.t.Helper()
	time.Sleep(c.settings.Lease)
	for _, n := range c.nodes {
		if n == victim {
			continue
		}
		for id, s := range c.sessions(n) {
			if s.Node == victim.Node {
				c.t.Errorf("%s still lists %s", n.Node, id)
			}
		}
		var online map[string]bool
		n.mustAsk("online", append([]string{userName(0)}, users...), &online)
		for user, is := range online {
			if is != (user == userName(0)) {
				c.t.Errorf("%s says of %s that it is online: %v", n.Node, user, is)
			}
		}
	}
}

// told returns how often each user was passed to a callback on any node.
func (c *cluster) told(list func(seen) []string) map[string]int {
	c.t.Helper()
	all := make(map[string]int)
	for _, n := range c.nodes {
		if n.cmd.ProcessState != nil { // it was killed
			continue
		}
		for _, user := range list(n.seen()) {
			all[user]++
		}
	}
	return all
}

func (c *cluster) onlines() map[string]int { return c.told(func(s seen) []string { return s.Onlines }) }
func (c *cluster) offlines() map[string]int {
	return c.told(func(s seen) []string { return s.Offlines })
}

// expectOnline checks that OnOnline was called once for each user, and again more
// times for those who have been away.
func (c *cluster) expectOnline(away []string, again int) {
	c.t.Helper()
	want := make(map[string]int)
	for _, d := range c.devices {
		want[d.User] = 1
	}
	for _, user := range away {
		want[user] += again
	}
	if got := c.onlines(); !maps.Equal(got, want) {
		c.t.Errorf("OnOnline was told of %v, expected %v", got, want)
	}
}

// awaitOffline waits until OnOffline has been called once for each of exactly these
// users, and for nobody else is due.
func (c *cluster) awaitOffline(users []string) {
	c.t.Helper()
	want := make(map[string]int)
	for _, user := range users {
		want[user] = 1
	}
	await(c.t, "offline users", func() error {
		due, err := c.rdb.Exists(within(c.t), "herald:{0}:gone").Result()
		if err != nil || due > 0 {
			return fmt.Errorf("some are due: %d, %v", due, err)
		}
		if got := c.offlines(); !maps.Equal(got, want) {
			return fmt.Errorf("told of %v, expected %v", got, want)
		}
		return nil
	})
}

// awaitNothingOf waits until no key and no value in Redis contains the node's id.
func (c *cluster) awaitNothingOf(id string) {
	c.t.Helper()
	await(c.t, "sweep of "+id, func() error {
		keys, err := c.keys()
		if err != nil {
			return err
		}
		for _, key := range keys {
			content, err := c.content(key)
			if err != nil {
				return err
			}
			if strings.Contains(key+content, id) {
				return fmt.Errorf("%q names it", key)
			}
		}
		return nil
	})
}

// content returns everything that a key holds.
func (c *cluster) content(key string) (string, error) {
	ctx := within(c.t)
	kind, err := c.rdb.Type(ctx, key).Result()
	if err != nil {
		return "", err
	}
	switch kind {
	case "hash":
		all, err := c.rdb.HGetAll(ctx, key).Result()
		return fmt.Sprint(all), err
	case "set":
		all, err := c.rdb.SMembers(ctx, key).Result()
		return fmt.Sprint(all), err
	case "zset":
		all, err := c.rdb.ZRange(ctx, key, 0, -1).Result()
		return fmt.Sprint(all), err
	case "string":
		return c.rdb.Get(ctx, key).Result()
	case "none":
		return "", nil
	}
	return "", fmt.Errorf("%q is a %s", key, kind)
}

// finishWithout ends a load during which one node was killed. Nobody knows what
// that node sent.
func finishWithout(l *running, victim *node) {
	l.c.t.Helper()
	i := slices.Index(l.nodes, victim)
	l.nodes = slices.Delete(l.nodes, i, i+1)
	l.done = slices.Delete(l.done, i, i+1)
	l.finish(true)
	for _, d := range l.c.devices {
		d.Forget(fmt.Sprintf("%d.%d.", l.c.round, i))
	}
}

// TestPausedNode pauses a node for longer than its lease. The others sweep it. When
// it goes on, all its sessions are listed again.
func TestPausedNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, quick)
	c.populate(30)
	paused := c.nodes[2]
	alone := c.connectAlone(paused, 10)
	c.awaitWhole(nil)
	sessions := c.sessions(c.nodes[0])
	l := c.send(0, pace)
	c.awaitSent(20)

	paused.pause()
	over := time.After(c.settings.Lease * 3 / 2)
	c.awaitUnlisted(paused, alone)
	c.awaitNothingOf(paused.Node)
	<-over
	paused.resume()

	c.awaitHealthy()
	c.awaitListed(paused, sessions)
	c.awaitSent(20)
	l.finish(true)
	c.awaitHealthy()
	c.fence()
	t.Log(c.verify())
	c.awaitWhole(sessions)
	c.verifyClean(50)
	c.awaitOffline(alone)
	c.expectOnline(alone, 1)
}

// awaitListed waits until every node lists the node's sessions again.
func (c *cluster) awaitListed(back *node, before map[string]herald.Session) {
	c.t.Helper()
	for _, n := range c.nodes {
		await(c.t, "sessions as "+n.Node+" sees them", func() error { return c.compareSessions(n, before) })
	}
	if stats := back.stats(); stats.Conns == 0 {
		c.t.Errorf("%s has no connections", back.Node)
	}
}

// TestRedisUnreachable takes Redis away from all nodes for longer than their lease.
// No node may take another for dead.
func TestRedisUnreachable(t *testing.T) {
	for _, f := range []struct {
		name string
		away func(c *cluster)
		back func(c *cluster)
	}{
		{"black hole", (*cluster).holes, (*cluster).heal},
		{"cut", func(c *cluster) { c.holes(); c.cut() }, (*cluster).heal},
		{"redis stopped", func(c *cluster) { c.redis.Pause() }, func(c *cluster) { c.redis.Continue() }},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, quick)
			c.populate(10)
			for _, n := range c.nodes {
				c.connectAlone(n, 10)
			}
			c.awaitWhole(nil)
			// From here on, every lease has been held for long enough that its node
			// may sweep.
			time.Sleep(c.settings.Lease)
			sessions, leases := c.sessions(c.nodes[0]), c.leases()

			f.away(c)
			over := time.After(c.settings.Lease * 3 / 2)
			awaitUnhealthy(t, c.nodes...)
			<-over
			f.back(c)
			c.awaitHealthy()
			c.awaitWhole(sessions)
			time.Sleep(c.settings.Lease) // for sweeps and callbacks that must not come
			c.awaitWhole(sessions)
			c.verifyClean(20)
			if after := c.leases(); !maps.Equal(after, leases) {
				t.Errorf("leases were lost: %v, before %v", after, leases)
			}
			if offline := c.offlines(); len(offline) > 0 {
				t.Errorf("OnOffline was told of %v", offline)
			}
			c.expectOnline(nil, 0)
			for _, n := range c.nodes {
				if strings.Contains(n.log.String(), "swept") {
					t.Errorf("%s has swept another", n.Node)
				}
			}
		})
	}
}

func (c *cluster) holes() {
	for _, n := range c.nodes {
		n.proxy.Blackhole(true)
	}
}

func (c *cluster) cut() {
	for _, n := range c.nodes {
		n.proxy.Cut()
	}
}

func (c *cluster) heal() {
	for _, n := range c.nodes {
		n.proxy.Blackhole(false)
	}
}

// leases returns the generation of each node's lease.
func (c *cluster) leases() map[string]string {
	c.t.Helper()
	records, err := c.rdb.HGetAll(within(c.t), "herald:{0}:nodes").Result()
	if err != nil {
		c.t.Fatal(err)
	}
	for id, record := range records {
		records[id], _, _ = strings.Cut(record, " ")
	}
	return records
}
