package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/servertest"
)

// A Cluster is a Redis Cluster that the test owns, on free loopback ports.
type Cluster struct {
	Nodes []*Node // the first masters come first

	t testing.TB
}

// A Node is a server of a Cluster. If it is killed and restarted, it comes back
// under its name and without its keys.
type Node struct {
	*Server

	ID string

	host, port, busPort string
	admin               *redis.Client
}

const (
	slots = 16384

	// nodeTimeout is the time in milliseconds after which a silent node counts as
	// failed.
	nodeTimeout = "2500"

	// clusterPatience is how long a change of the Cluster may take.
	clusterPatience = time.Minute
)

// NeverFailed has arguments for the servers of a Cluster in which no node may count
// as failed, however slow the machine is.
var NeverFailed = []string{"--cluster-node-timeout", "60000"}

// StartCluster starts a Cluster of masters with even ranges of slots, and of
// replicas, which are dealt out to the masters in turn. args go to every server.
// The Cluster is stopped when the test ends.
func StartCluster(t testing.TB, masters, replicas int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range masters + replicas {
		c.Nodes = append(c.Nodes, startNode(t, args))
	}
	for i, n := range c.Nodes {
		c.do(n, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i > 0 {
			c.do(n, "CLUSTER", "MEET", c.Nodes[0].host, c.Nodes[0].port, c.Nodes[0].busPort)
		}
		if i < masters {
			c.do(n, "CLUSTER", "ADDSLOTSRANGE", i*slots/masters, (i+1)*slots/masters-1)
		}
	}
	c.await("nodes to meet", func(n *Node) bool { return c.info(n, "known_nodes:%d", len(c.Nodes)) })
	for i, n := range c.Nodes[masters:] {
		c.do(n, "CLUSTER", "REPLICATE", c.Nodes[i%masters].ID)
	}
	c.AwaitOK()
	c.await("replicas", func(n *Node) bool {
		known := 0
		for _, words := range n.nodes() {
			if len(words) > 3 && words[3] != "-" {
				known++
			}
		}
		return known == replicas
	})
	return c
}

// startNode starts a server that knows no other server.
func startNode(t testing.TB, args []string) *Node {
	t.Helper()
	_, busPort, _ := net.SplitHostPort(servertest.FreeAddr(t))
	args = append([]string{
		"--cluster-enabled", "yes", "--cluster-port", busPort, "--cluster-node-timeout", nodeTimeout,
		"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
	}, args...)
	n := &Node{Server: Start(t, args...), busPort: busPort}
	n.host, n.port, _ = net.SplitHostPort(n.Addr)
	n.admin = redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { n.admin.Close() })
	var err error
	if n.ID, err = n.admin.ClusterMyID(context.Background()).Result(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Admin returns a client of this node alone, which follows no redirections. It is
// closed when the test ends.
func (n *Node) Admin() *redis.Client { return n.admin }

// Client returns a client of the Cluster, closed when the test ends.
func (c *Cluster) Client() *redis.ClusterClient {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	c.t.Cleanup(func() { client.Close() })
	return client
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		addrs[i] = n.Addr
	}
	return addrs
}

// Slot returns the slot of a key.
func (c *Cluster) Slot(key string) int {
	c.t.Helper()
	slot, err := c.alive().admin.ClusterKeySlot(context.Background(), key).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	return int(slot)
}

// alive returns a running node.
func (c *Cluster) alive() *Node {
	c.t.Helper()
	for _, n := range c.Nodes {
		if n.isAlive() {
			return n
		}
	}
	c.t.Fatal("no node of the Cluster runs")
	return nil
}

func (n *Node) isAlive() bool { return ping(n.Addr) == nil }

// nodes returns the lines of CLUSTER NODES as n sees them, split into words: id,
// address, flags, id of the master and, from the ninth word on, ranges of slots
// (https://redis.io/docs/latest/commands/cluster-nodes).
func (n *Node) nodes() (lines [][]string) {
	text, _ := n.admin.ClusterNodes(context.Background()).Result()
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// masterOf returns the id of a slot's master as n sees it, or "".
func (n *Node) masterOf(slot int) string {
	for _, words := range n.nodes() {
		for _, r := range words[min(8, len(words)):] {
			first, last, isRange := strings.Cut(r, "-")
			if !isRange {
				last = first
			}
			from, err := strconv.Atoi(first) // a slot that moves has another form
			to, _ := strconv.Atoi(last)
			if err == nil && from <= slot && slot <= to {
				return words[0]
			}
		}
	}
	return ""
}

// MasterOf returns the master of a slot, as a running node sees it.
func (c *Cluster) MasterOf(slot int) *Node {
	c.t.Helper()
	return c.byID(c.alive().masterOf(slot))
}

// ReplicaOf returns a replica of a master, as the master sees it, or nil if it has
// none.
func (c *Cluster) ReplicaOf(master *Node) *Node {
	c.t.Helper()
	for _, words := range master.nodes() {
		if len(words) > 3 && words[3] == master.ID {
			return c.byID(words[0])
		}
	}
	return nil
}

func (c *Cluster) byID(id string) *Node {
	for _, n := range c.Nodes {
		if n.ID == id {
			return n
		}
	}
	c.t.Fatalf("the Cluster has an unknown node %s", id)
	return nil
}

// Migrate moves a slot with its keys to another master, live, as redis-cli
// does (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec).
func (c *Cluster) Migrate(slot int, to *Node) {
	c.t.Helper()
	if c.MasterOf(slot) == to {
		return
	}
	from := c.BeginMigration(slot, to)
	for c.moveKeys(slot, from, to, 100) > 0 {
	}
	c.do(to, "CLUSTER", "SETSLOT", slot, "NODE", to.ID)
	c.do(from, "CLUSTER", "SETSLOT", slot, "NODE", to.ID)
	// The next move must not begin before all nodes know of this one. Otherwise, on
	// a busy machine, two moves could claim slots with the same epoch.
	c.await("a move to be known", func(n *Node) bool { return n.masterOf(slot) == to.ID })
}

// BeginMigration begins to move a slot to another master, but moves no key. It
// returns the master that has the slot. That one redirects requests for keys that
// it does not have to the other.
func (c *Cluster) BeginMigration(slot int, to *Node) (from *Node) {
	c.t.Helper()
	from = c.MasterOf(slot)
	c.do(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.ID)
	c.do(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.ID)
	return from
}

// AbortMigration begins to move a slot, and gives up when up to n keys have moved.
// Those are lost.
func (c *Cluster) AbortMigration(slot int, to *Node, n int) {
	c.t.Helper()
	from := c.BeginMigration(slot, to)
	c.moveKeys(slot, from, to, n)
	c.do(to, "CLUSTER", "SETSLOT", slot, "STABLE")
	c.do(from, "CLUSTER", "SETSLOT", slot, "STABLE")
}

// moveKeys moves up to n keys of a slot, and returns how many it moved.
func (c *Cluster) moveKeys(slot int, from, to *Node, n int) int {
	c.t.Helper()
	keys, err := from.admin.ClusterGetKeysInSlot(context.Background(), slot, n).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	args := []any{"MIGRATE", to.host, to.port, "", 0, 5000, "REPLACE", "KEYS"}
	for _, k := range keys {
		args = append(args, k)
	}
	if len(keys) > 0 {
		c.do(from, args...)
	}
	return len(keys)
}

// IsMaster reports whether a node takes itself for a master.
func (c *Cluster) IsMaster(n *Node) bool {
	role, _ := n.admin.Info(context.Background(), "replication").Result()
	return strings.Contains(role, "role:master")
}

// AwaitOK waits until every running node sees the Cluster as ok, and every replica
// is linked to its master.
func (c *Cluster) AwaitOK() {
	c.t.Helper()
	c.await("cluster_state:ok", func(n *Node) bool {
		replication, _ := n.admin.Info(context.Background(), "replication").Result()
		return c.info(n, "state:ok") && !strings.Contains(replication, "master_link_status:down")
	})
}

// AwaitFailover waits until the slot has a master other than old.
func (c *Cluster) AwaitFailover(slot int, old *Node) {
	c.t.Helper()
	c.await("a failover", func(n *Node) bool {
		master := n.masterOf(slot)
		return master != "" && master != old.ID
	})
}

// info reports whether CLUSTER INFO of a node has the line cluster_….
func (c *Cluster) info(n *Node, format string, args ...any) bool {
	info, _ := n.admin.ClusterInfo(context.Background()).Result()
	return strings.Contains(info, "cluster_"+fmt.Sprintf(format, args...)+"\r\n")
}

// await waits until done returns true for every running node.
func (c *Cluster) await(what string, done func(n *Node) bool) {
	c.t.Helper()
	deadline := time.Now().Add(clusterPatience)
	for _, n := range c.Nodes {
		for n.isAlive() && !done(n) {
			if time.Now().After(deadline) {
				c.t.Fatalf("waited in vain for %s of the node at %s\n%s", what, n.Addr, n.Log())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// do runs a command on a node. It repeats commands that a changing Cluster refuses.
func (c *Cluster) do(n *Node, args ...any) {
	c.t.Helper()
	err := errors.New("not tried")
	for deadline := time.Now().Add(clusterPatience); err != nil; time.Sleep(20 * time.Millisecond) {
		if err = n.admin.Do(context.Background(), args...).Err(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%v on %s: %v", args, n.Addr, err)
		}
	}
}
