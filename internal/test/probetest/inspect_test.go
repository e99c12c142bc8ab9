// Package probetest_test asks Hubs what they know about each other's connections,
// and sends probes along the way of messages.
package probetest_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

const patience = 30 * time.Second

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// accepted waits until OnConnect has accepted this many connections.
func accepted(t *testing.T, cluster *heraldtest.Cluster, want uint64) {
	t.Helper()
	await(t, "connections to be accepted", func() bool {
		n := uint64(0)
		for _, node := range cluster.Nodes {
			n += node.Hub.Stats().Accepted
		}
		return n == want
	})
}

func ids(reports []herald.NodeReport) map[string]herald.NodeReport {
	byNode := make(map[string]herald.NodeReport)
	for _, r := range reports {
		byNode[r.Node] = r
	}
	return byNode
}

// Every node reports on itself and on its connections of a target, even if names
// have arbitrary bytes. Only a node whose Bus is cut has no report.
func TestReports(t *testing.T) {
	cluster := heraldtest.NewCluster(t, 3, herald.Config{SendTimeout: patience})
	odd := herald.Identity{User: "\xff\x00<b>", Device: "d\xfe", Platform: "ios", Groups: []string{"g\xff"}, Meta: map[string]string{"k": "\xff"}}
	cluster.Connect(0, odd)
	cluster.Connect(2, odd)
	cluster.Connect(2, herald.Identity{User: "other"})
	asker := cluster.Nodes[1].Hub
	accepted(t, cluster, 3)
	reports := ids(asker.Reports(within(t, patience)))
	for i, want := range []int{1, 0, 2} {
		r := reports[cluster.Nodes[i].Hub.NodeID()]
		if r.Err != nil || r.Stats.Conns != want || r.Health != nil || r.Stats.Accepted != uint64(want) || len(r.Slowest) != 0 {
			t.Errorf("node %d: %+v", i, r)
		}
	}

	conns, err := asker.Inspect(within(t, patience), herald.User(odd.User))
	if err != nil || len(conns) != 2 {
		t.Fatalf("%+v, %v", conns, err)
	}
	for i, c := range conns {
		s := c.Session
		if s.User != odd.User || s.Device != odd.Device || s.Platform != "ios" || !maps.Equal(s.Meta, odd.Meta) || !slices.Equal(c.Groups, odd.Groups) || s.Since.IsZero() ||
			s.Node != cluster.Nodes[2*i].Hub.NodeID() || !strings.HasPrefix(s.ID, s.Node+".") {
			t.Errorf("%+v", c)
		}
	}
	if conns, err := asker.Inspect(within(t, patience), herald.Group("g\xff").On("android")); err != nil || len(conns) != 0 {
		t.Errorf("on another platform: %+v, %v", conns, err)
	}
	if conns, err := asker.Inspect(within(t, patience), herald.Connection(conns[1].Session.ID)); err != nil || len(conns) != 1 {
		t.Errorf("by its id: %+v, %v", conns, err)
	}

	cluster.Nodes[2].Bus.Cut()
	cut := cluster.Nodes[2].Hub.NodeID()
	reports = ids(asker.Reports(within(t, 200*time.Millisecond)))
	if len(reports) != 3 || reports[cut].Err == nil || reports[asker.NodeID()].Err != nil {
		t.Errorf("with a node cut off: %+v", reports)
	}
	conns, err = asker.Inspect(within(t, 200*time.Millisecond), herald.User(odd.User))
	var partial *herald.PartialError
	if !errors.As(err, &partial) || !slices.Contains(partial.Missing, cut) || slices.ContainsFunc(conns, func(c herald.ConnReport) bool { return c.Session.Node == cut }) {
		t.Errorf("with a node cut off: %+v, %v", conns, err)
	}
	cluster.Nodes[2].AwaitHealth(herald.ErrBusDown)
	own := ids(cluster.Nodes[2].Hub.Reports(within(t, 200*time.Millisecond)))[cut]
	if own.Err != nil || len(own.Health) == 0 || own.Stats.OpenGaps == 0 {
		t.Errorf("the node that is cut off says of itself: %+v", own)
	}
}
