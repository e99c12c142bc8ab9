package clustertest

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// newSentinelCluster starts a Sentinel set and n nodes that follow its master.
func newSentinelCluster(t *testing.T, n int, s settings) *cluster {
	t.Helper()
	c := &cluster{t: t, settings: s, set: redistest.StartSentinels(t), records: make(map[string][]record)}
	c.rdb = c.set.Client()
	for i := range n {
		c.startWithSentinels(fmt.Sprint("node", i))
	}
	return c
}

// startWithSentinels starts one more node, with a proxy to each server of the set.
func (c *cluster) startWithSentinels(name string) {
	c.t.Helper()
	s := c.settings
	s.Name = name
	s.Master, s.Sentinels = redistest.MasterName, c.set.Addrs()
	s.Via = make(map[string]string)
	proxies := make(map[string]*netproxy.Proxy)
	addrs := c.set.Addrs()
	for _, server := range c.set.Servers {
		addrs = append(addrs, server.Addr)
	}
	for _, addr := range addrs {
		proxies[addr] = netproxy.Start(c.t, addr)
		s.Via[addr] = proxies[addr].Addr
	}
	n := startNode(c.t, s)
	n.proxies = proxies
	c.nodes = append(c.nodes, n)
}

// TestSentinelFailover replaces the master under load, and prints how long that
// took. Afterwards everyone is reachable, no device was disconnected, and all
// losses lie in gaps.
func TestSentinelFailover(t *testing.T) {
	for _, f := range []struct {
		name string
		fail func(c *cluster, old *redistest.Server)
	}{
		{"master killed", func(c *cluster, old *redistest.Server) {
			old.Kill()
			c.set.AwaitFailover(old)
		}},
		{"master hangs, and comes back", func(c *cluster, old *redistest.Server) {
			old.Pause()
			c.set.AwaitFailover(old)
			old.Continue()
		}},
		{"asked for", func(c *cluster, _ *redistest.Server) { c.set.Failover() }},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			c := newSentinelCluster(t, 3, quick)
			c.populate(100)
			c.awaitWhole(nil)
			sessions, gaps := c.sessions(c.nodes[0]), c.gaps()
			l := c.send(0, pace)
			c.awaitSent(20)

			start := time.Now()
			f.fail(c, c.set.Master())
			failover := time.Since(start)
			c.awaitMaster()
			c.awaitHealthy()
			t.Logf("the Sentinels had another master after %v, all nodes were well on it after %v", failover, time.Since(start))

			c.connect(c.nodes[0], userName(0), "late", groupsOf(0, c.users)...)
			c.awaitWhole(sessions)
			t.Logf("the Registry was whole there after %v", time.Since(start))
			c.set.AwaitOneMaster()
			c.awaitHealthy()
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
	}
}

// awaitMaster waits until all nodes are subscribed on the master.
func (c *cluster) awaitMaster() {
	c.t.Helper()
	await(c.t, "all nodes on the master", func() error {
		rdb := redis.NewClient(&redis.Options{Addr: c.set.Master().Addr})
		defer rdb.Close()
		n, err := rdb.PubSubNumSub(within(c.t), "herald:{0}:h").Result()
		if err == nil && n["herald:{0}:h"] != int64(len(c.nodes)) {
			err = fmt.Errorf("%d of %d", n["herald:{0}:h"], len(c.nodes))
		}
		return err
	})
}

// TestSentinelPartition leaves one node alone with the old master: it reaches
// neither the Sentinels nor any other server. Nobody hears what it publishes, until
// it notices. After some seconds it hears the Sentinels on the old master, which
// then becomes a replica.
func TestSentinelPartition(t *testing.T) {
	t.Parallel()
	c := newSentinelCluster(t, 3, quick)
	c.populate(30)
	c.awaitWhole(nil)
	sessions, gaps := c.sessions(c.nodes[0]), c.gaps()
	l := c.send(0, pace)
	c.awaitSent(20)

	old, alone := c.set.Master(), c.nodes[2]
	for addr, proxy := range alone.proxies {
		proxy.Blackhole(addr != old.Addr)
	}
	start := time.Now()
	master := c.set.Failover()
	// All others have left. If this node still publishes, nobody listens there.
	others := c.nodes[:2]
	for _, n := range others {
		await(t, "new master of "+n.Node, func() error {
			if n.proxies[master.Addr].Find("SUBSCRIBE") == nil {
				return errors.New("not subscribed")
			}
			return n.health()
		})
	}
	c.awaitSent(20, others...)
	t.Logf("the others were on the new master after %v; health of the one left behind: %v", time.Since(start), alone.health())

	// The test makes it a replica itself, because the Sentinels would also kill its
	// links.
	host, port, _ := net.SplitHostPort(master.Addr)
	start = time.Now()
	demoted := old.Client()
	if err := demoted.Do(within(t), "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "end of the links to the old master", func() error {
		n, err := demoted.PubSubNumSub(within(t), "herald:{0}:h").Result()
		if err == nil && n["herald:{0}:h"] > 0 {
			err = fmt.Errorf("%d nodes listen there", n["herald:{0}:h"])
		}
		return err
	})
	awaitUnhealthy(t, alone)
	t.Logf("the one left behind noticed %v after the old master had become a replica: %v", time.Since(start), alone.health())
	time.Sleep(c.settings.Lease * 3 / 2) // the others sweep it

	for _, proxy := range alone.proxies {
		proxy.Blackhole(false)
	}
	start = time.Now()
	c.awaitHealthy()
	t.Logf("it was well %v after the partition", time.Since(start))
	c.awaitSent(20)
	l.finish(true)
	c.fence()
	t.Log(c.verify())
	c.logGaps(gaps)
	for i, n := range c.nodes {
		if n.stats().Gaps == gaps[i] {
			t.Errorf("%s reports no gap", n.Node)
		}
	}
	c.awaitWhole(sessions)
	c.verifyClean(50)
}
