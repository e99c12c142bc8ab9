package faulttest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// steps are the steps of Redis' clock that tests try, ordered so that none undoes
// the one before.
var steps = []time.Duration{time.Minute, time.Hour, -time.Minute, -time.Hour}

// A node dies, and Redis' clock steps. The node's users go offline, those of the
// others never do, and a kick that returns nil has disconnected its user.
func TestClockStep(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			testClockStep(t, step)
		})
	}
}

func testClockStep(t *testing.T, step time.Duration) {
	server := redistest.StartWithClock(t)
	nodes := startNodes(t, single(server.Server), 3, herald.Config{})
	asker, holder, dead := nodes[0], nodes[1], nodes[2]
	live, ghosts, kicked := names("live", 8), names("ghost", 4), names("kicked", 3)
	for i, user := range live {
		nodes[i%2].connect(user)
	}
	for _, user := range kicked {
		holder.connect(user)
	}
	for _, user := range ghosts {
		dead.connect(user)
	}
	await(t, "all are counted", func() error {
		count, err := asker.Count(t.Context())
		if want := len(live) + len(kicked) + len(ghosts); err == nil && count != want {
			err = fmt.Errorf("count %d of %d", count, want)
		}
		return err
	})
	watch := asker.watchOnline(live)
	dead.kill()
	stepped := time.Now()
	server.Step(step)
	var early sync.WaitGroup
	early.Go(func() { asker.kick(holder, kicked[0]) }) // the dead node may delay it
	if await(t, "the dead node's users offline", func() error { return asker.allOnline(false, ghosts...) }) {
		t.Logf("the dead node's users were offline after %s", asker.leases(stepped))
	}
	asker.kick(holder, kicked[1])
	if await(t, "the dead node gone", func() error {
		listed, err := asker.Nodes(t.Context())
		if slices.ContainsFunc(listed, func(n herald.Node) bool { return n.ID == dead.NodeID() }) {
			err = fmt.Errorf("%s is listed", dead.NodeID())
		}
		return err
	}) {
		await(t, "a kick that waits for no dead node", func() error { return asker.kick(holder, kicked[2]) })
	}
	await(t, "OnOffline of the dead node's users", func() error {
		for _, user := range ghosts {
			if _, offline := told(nodes, user); offline != 1 {
				return fmt.Errorf("told of %s %d times", user, offline)
			}
		}
		return nil
	})
	early.Wait()
	watch.end(t, stepped)
	await(t, "all others online", func() error { return asker.allOnline(true, live...) })
	for _, user := range live {
		if _, offline := told(nodes, user); offline > 0 {
			t.Errorf("OnOffline was told of %s, who is online", user)
		}
	}
}

// kick disconnects a user of another node. If it returns nil, the user must be
// gone.
func (n *node) kick(holder *node, user string) error {
	n.t.Helper()
	began := time.Now()
	err := n.Disconnect(context.Background(), herald.User(user), 4000, "kicked")
	n.t.Logf("Disconnect(%s) after %v: %v", user, time.Since(began).Round(time.Millisecond), err)
	if err == nil && holder.has(user) > 0 {
		n.t.Errorf("Disconnect(%s): nil, and the connection lives", user)
	}
	return err
}

// A kick that returns nil has disconnected its user, whatever Redis' clock has done
// since the user connected.
func TestClockStepKick(t *testing.T) {
	t.Parallel()
	server := redistest.StartWithClock(t)
	nodes := startNodes(t, single(server.Server), 2, herald.Config{})
	for _, step := range steps {
		user := fmt.Sprint("kicked", step)
		nodes[1].connect(user)
		nodes[0].awaitRenewals(nodes[1], 1) // both know each other since before the step
		server.Step(step)
		await(t, "a kick after "+step.String(), func() error { return nodes[0].kick(nodes[1], user) })
	}
}

// MaxPerUser holds whatever Redis' clock does between two handshakes.
func TestClockStepLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 3} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			server := redistest.StartWithClock(t)
			nodes := startNodes(t, single(server.Server), 2, herald.Config{Admit: herald.MaxPerUser(limit)})
			var clients []*client
			for _, step := range append([]time.Duration{0}, steps...) {
				server.Step(step)
				for i := range limit + 1 {
					clients = append(clients, reconnect(t, nodes[i%2], "u"))
				}
				newest := clients[len(clients)-limit:]
				if !await(t, fmt.Sprintf("after a step of %v, the end of older connections", step), func() error {
					if open := nodes[0].has("u") + nodes[1].has("u"); open > limit {
						return fmt.Errorf("%d open, of at most %d", open, limit)
					}
					return nil
				}) {
					return
				}
				for _, c := range newest {
					if !c.open() {
						t.Errorf("after a step of %v: one of the newest %d was closed", step, limit)
					}
				}
			}
		})
	}
}

// reconnect connects like a client that is refused for a while.
func reconnect(t *testing.T, n *node, user string) (c *client) {
	t.Helper()
	await(t, "a handshake", func() (err error) {
		c, err = n.dial(user)
		return err
	})
	return c
}

// OfflineDelay keeps its length, whatever Redis' clock does meanwhile.
func TestClockStepOffline(t *testing.T) {
	t.Parallel()
	leave := func(t *testing.T, step, delay time.Duration) *node {
		server := redistest.StartWithClock(t)
		n := startNodes(t, single(server.Server), 1, herald.Config{OfflineDelay: delay})[0]
		n.connect("u").close()
		await(t, "the user gone", func() error { return n.allOnline(false, "u") })
		server.Step(step)
		return n
	}
	t.Run("back", func(t *testing.T) {
		t.Parallel()
		n := leave(t, -time.Hour, 3*time.Second)
		await(t, "OnOffline", func() error {
			if _, offline := told([]*node{n}, "u"); offline != 1 {
				return fmt.Errorf("told %d times", offline)
			}
			return nil
		})
	})
	t.Run("forward", func(t *testing.T) {
		t.Parallel()
		n := leave(t, time.Hour, 10*time.Minute)
		n.awaitRenewals(n, 4) // Offline is asked for once a second
		n.connect("u")
		if online, offline := told([]*node{n}, "u"); online != 1 || offline != 0 {
			t.Errorf("a user was away for a moment: OnOnline was told %d times, OnOffline %d, want 1 and 0", online, offline)
		}
	})
}

// awaitRenewals waits until n has seen the node of renew its lease this many times.
// The two may be the same.
func (n *node) awaitRenewals(of *node, times int) {
	n.t.Helper()
	var last time.Time
	await(n.t, "renewals of the lease", func() error {
		listed, err := n.Nodes(context.Background())
		i := slices.IndexFunc(listed, func(l herald.Node) bool { return l.ID == of.NodeID() })
		if i < 0 {
			return fmt.Errorf("not listed: %w", err)
		}
		if renewed := listed[i].Renewed; !renewed.Equal(last) { // the first one seen is from before
			last = renewed
			times--
		}
		if times >= 0 {
			return fmt.Errorf("%d to come", times+1)
		}
		return nil
	})
}
