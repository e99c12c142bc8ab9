package clustertest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/heraldgo/herald"
)

// awaitWhole waits until all nodes list exactly the sessions of the connected
// devices, Redis holds exactly their entries, and each node is subscribed to what
// its devices need. before has the sessions from before the fault, whose Since must
// not have changed. It may be nil.
func (c *cluster) awaitWhole(before map[string]herald.Session) {
	c.t.Helper()
	for _, n := range c.nodes {
		await(c.t, "sessions as "+n.Node+" sees them", func() error { return c.compareSessions(n, before) })
	}
	await(c.t, "entries in Redis", c.compareEntries)
	await(c.t, "subscriptions", c.compareSubscriptions)
}

func (c *cluster) compareSessions(n *node, before map[string]herald.Session) error {
	c.t.Helper()
	sessions, err := c.askSessions(n)
	if err != nil {
		return err
	}
	for _, d := range c.devices {
		s, ok := sessions[d.id]
		if !ok || s.User != d.User || s.Device != d.Name || s.Node != d.node.Node {
			return fmt.Errorf("%v: listed %v, %+v", &d.Device, ok, s)
		}
		if old, ok := before[d.id]; ok && !old.Since.Equal(s.Since) {
			return fmt.Errorf("since of %s is %v, was %v", d.id, s.Since, old.Since)
		}
	}
	if len(sessions) != len(c.devices) {
		return fmt.Errorf("%d sessions of %d devices", len(sessions), len(c.devices))
	}
	return nil
}

// topics returns the topics of all devices, and the devices of each.
func (c *cluster) topics() map[string][]*device {
	topics := make(map[string][]*device)
	for _, d := range c.devices {
		topics["u"+d.User] = append(topics["u"+d.User], d)
		for _, g := range d.Groups {
			topics["g"+g] = append(topics["g"+g], d)
		}
	}
	return topics
}

// compareEntries compares the Registry's keys in Redis with the devices.
func (c *cluster) compareEntries() error {
	c.t.Helper()
	ctx := within(c.t)
	topics := c.topics()
	places := make(map[string]int64) // by node
	for topic, devices := range topics {
		ids, err := c.rdb.HKeys(ctx, "herald:{0}:t:"+topic).Result()
		if err != nil {
			return err
		}
		var want []string
		for _, d := range devices {
			want = append(want, d.id)
			places[d.node.Node]++
		}
		slices.Sort(ids)
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			return fmt.Errorf("topic %q: Redis has %v, expected %v", topic, ids, want)
		}
	}
	keys, err := c.keys()
	if err != nil {
		return err
	}
	nodes, err := c.rdb.HKeys(ctx, "herald:{0}:nodes").Result()
	if err != nil {
		return err
	}
	if len(nodes) != len(c.nodes) {
		return fmt.Errorf("leases of %v, expected %d", nodes, len(c.nodes))
	}
	hashes := 0
	for _, k := range keys {
		switch kind, rest, _ := strings.Cut(strings.TrimPrefix(k, "herald:{0}:"), ":"); kind {
		case "t":
			hashes++
		case "i":
			_, holder, _ := strings.Cut(rest, ":")
			n, err := c.rdb.SCard(ctx, k).Result()
			if err != nil {
				return err
			}
			if n != 1+places[holder] { // the empty member says that the index was never lost
				return fmt.Errorf("index %q has %d members, expected one and %d places", k, n, places[holder])
			}
			delete(places, holder)
		case "nodes", "generation", "clock":
		default:
			return fmt.Errorf("key %q is left", k)
		}
	}
	if hashes != len(topics) || len(places) > 0 {
		return fmt.Errorf("%d hashes of %d topics; no index of %v", hashes, len(topics), slices.Collect(maps.Keys(places)))
	}
	return nil
}

// keys returns all of the Registry's keys.
func (c *cluster) keys() ([]string, error) {
	var all []string
	ctx := within(c.t)
	i := c.rdb.Scan(ctx, 0, "herald:*", 1000).Iterator()
	for i.Next(ctx) {
		all = append(all, i.Val())
	}
	slices.Sort(all)
	return slices.Compact(all), i.Err()
}

// compareSubscriptions asks Redis how many nodes follow each topic.
func (c *cluster) compareSubscriptions() error {
	want := map[string]int64{"herald:{0}:*": int64(len(c.nodes)), "herald:{0}:h": int64(len(c.nodes))}
	for topic, devices := range c.topics() {
		on := make(map[*node]bool)
		for _, d := range devices {
			on[d.node] = true
		}
		want["herald:{0}:"+topic] = int64(len(on))
	}
	got, err := c.rdb.PubSubNumSub(within(c.t), slices.Collect(maps.Keys(want))...).Result()
	if err != nil {
		return err
	}
	for channel, n := range want {
		if got[channel] != n {
			return fmt.Errorf("channel %q: %d nodes follow it, expected %d", channel, got[channel], n)
		}
	}
	return nil
}
