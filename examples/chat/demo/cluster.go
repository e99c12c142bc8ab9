package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/heraldgo/herald"
)

var (
	errUnknownNode = errors.New("there is no such node in this process")
	errWrongState  = errors.New("it can not do that now")
	errClosing     = errors.New("the demo is shutting down")
	errOthersRedis = errors.New("the Redis is not of this process")
)

// The states of a node, and of the Redis in this process.
const (
	stateStopped  = "stopped"
	stateStarting = "starting"
	stateRunning  = "running"
	stateStopping = "stopping" // Redis only
)

// A nodeInfo tells the page about a node of this process.
type nodeInfo struct {
	Name  string `json:"name"`
	URL   string `json:"url"`
	State string `json:"state"`
}

// A slot is a place for a node: a name and an address that stay when the
// node is stopped and started again.
type slot struct {
	nodeInfo
	addr string // host:port
	node *node  // nil unless running
}

// A cluster is the nodes of this process. Those of other processes on the
// same Redis are known to the nodes, not to it.
type cluster struct {
	options Options
	store   *store
	hosts   hosts // the front door's; it passes them on to the nodes

	mu      sync.Mutex
	slots   []*slot
	ids     map[string]bool // all nodes that ever ran here
	closing bool

	dying sync.WaitGroup // nodes that were stopped
}

func newCluster(o Options, s *store) *cluster {
	c := &cluster{options: o, store: s, hosts: hostsOf(o.Addr), ids: make(map[string]bool)}
	for i := range o.Nodes {
		c.slots = append(c.slots, &slot{
			nodeInfo: nodeInfo{Name: fmt.Sprintf("n%d", i+1), State: stateStopped},
			addr:     "127.0.0.1:0",
		})
	}
	return c
}

// startAll starts every node.
func (c *cluster) startAll(ctx context.Context) error {
	for _, n := range c.list() {
		if err := c.start(ctx, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// start starts a node that is stopped.
func (c *cluster) start(ctx context.Context, name string) error {
	s, _, err := c.move(name, stateStopped, stateStarting)
	if err != nil {
		return err
	}
	n, err := startNode(ctx, c, name, s.addr)
	if err == nil && !c.started(s, n) {
		n.shutdown(ctx)
		err = errClosing
	}
	defer c.changed()
	if err != nil {
		c.move(name, stateStarting, stateStopped)
		return fmt.Errorf("node %s: %w", name, err)
	}
	return nil
}

// started puts a node into its slot. It returns false if the cluster is shutting
// down.
func (c *cluster) started(s *slot, n *node) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	s.State, s.node = stateRunning, n
	c.ids[n.hub.Load().NodeID()] = true
	s.addr, s.URL = n.listener.Addr().String(), baseURL(n.listener.Addr())
	return true
}

// stop stops a running node as a crash would: nobody is told.
func (c *cluster) stop(name string) error {
	_, n, err := c.move(name, stateRunning, stateStopped)
	if err != nil {
		return err
	}
	n.cut()
	c.changed()
	c.dying.Go(n.bury)
	return nil
}

// move changes a node's state, so that if two callers want the same only one does it.
// It takes the node, if there is one, out of its slot.
func (c *cluster) move(name, from, to string) (*slot, *node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.slots {
		if s.Name != name {
			continue
		}
		if s.State != from {
			return nil, nil, fmt.Errorf("node %s is %s: %w", name, s.State, errWrongState)
		}
		n := s.node
		s.State, s.node = to, nil
		return s, n, nil
	}
	return nil, nil, fmt.Errorf("node %q: %w", name, errUnknownNode)
}

// list returns what the page shows of the nodes, in the order of their names.
func (c *cluster) list() []nodeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []nodeInfo
	for _, s := range c.slots {
		all = append(all, s.nodeInfo)
	}
	return all
}

// tell sends m to the connections of all nodes that want to know, without Redis.
func (c *cluster) tell(m herald.Message) {
	for _, n := range c.present() {
		n.tell(m)
	}
}

// changed has all nodes tell of the nodes of this process.
func (c *cluster) changed() {
	for _, n := range c.present() {
		n.watch.change()
	}
}

// present returns the nodes that run.
func (c *cluster) present() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []*node
	for _, s := range c.slots {
		if s.node != nil {
			nodes = append(nodes, s.node)
		}
	}
	return nodes
}

// running returns the addresses of the nodes that run.
func (c *cluster) running() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var addrs []string
	for _, s := range c.slots {
		if s.State == stateRunning {
			addrs = append(addrs, s.addr)
		}
	}
	return addrs
}

// shutdown ends all nodes gracefully, and waits for those that were stopped.
func (c *cluster) shutdown(ctx context.Context) {
	c.mu.Lock()
	c.closing = true
	var nodes []*node
	for _, s := range c.slots {
		if s.node != nil {
			nodes = append(nodes, s.node)
			s.node, s.State = nil, stateStopped
		}
	}
	c.mu.Unlock()
	var ending sync.WaitGroup
	for _, n := range nodes {
		ending.Go(func() { n.shutdown(ctx) })
	}
	ending.Wait()
	c.dying.Wait()
}

// owns reports whether the node with this id is, or was, of this process.
func (c *cluster) owns(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[id]
}
