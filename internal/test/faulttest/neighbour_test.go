package faulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// ghost puts a node's record into the Registry, or renews it.
func ghost(t testing.TB, rdb *redis.Client, name string, ttl time.Duration) {
	t.Helper()
	now, err := rdb.Time(t.Context()).Result()
	if err == nil {
		err = rdb.HSet(t.Context(), "herald:{0}:nodes", name, fmt.Sprintf("1 7 %d %d 0 1", now.UnixMicro(), ttl.Microseconds())).Err()
	}
	if err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
}

// haunt renews the records of ghosts until the function that it returns is called.
func haunt(t testing.TB, rdb *redis.Client, names []string) (stop func()) {
	t.Helper()
	ended, done := make(chan struct{}), make(chan struct{})
	for _, name := range names {
		ghost(t, rdb, name, testLease)
	}
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			case <-time.After(testLease / 10):
			}
			for _, name := range names {
				ghost(t, rdb, name, testLease)
			}
		}
	}()
	return func() { close(ended); <-done }
}

// Somebody lists nodes that do not exist, and renews their leases. A Disconnect is
// done when the real nodes have done it, and no node takes the Bus for deaf. But a
// ghost is missing if the Registry lists sessions of the user on it.
func TestGhosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	nodes := startNodes(t, single(server), 2, herald.Config{SendTimeout: 3 * time.Second})
	asker, holder := nodes[0], nodes[1]
	ghosts := names("ghost", 3)
	defer haunt(t, rdb, append(ghosts, "old"))()
	ghost(t, rdb, "old", 1<<62) // and one that claims to live for ever
	for i := range 3 {
		user := fmt.Sprint("kicked", i)
		holder.connect(user)
		if err := asker.kick(holder, user); err != nil {
			t.Errorf("Disconnect(%s): %v", user, err)
		}
	}
	startNode(t, single(server), herald.Config{Name: "late"})
	holder.connect("room")
	if err := asker.Join(t.Context(), herald.User("room"), "g"); err != nil || !holder.hasIn("room", "g") {
		t.Errorf("Join: %v", err)
	}
	// This is as long as it takes to be suspected, and to be found silent.
	asker.awaitRenewals(holder, 6)
	for _, n := range nodes {
		if err := n.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
		if s := n.Stats(); s.Gaps+s.Resets > 0 {
			t.Errorf("%d gaps and %d resets of the Bus", s.Gaps, s.Resets)
		}
		if lines := n.log.lines(0); len(lines) != 1 || !strings.Contains(lines[0], "nodes that were never heard") {
			t.Errorf("logged, but ghosts should be told of once: %q", lines)
		}
	}
	// A session that is listed on a ghost may be real.
	holder.connect("shared")
	if err := rdb.HSet(t.Context(), "herald:{0}:t:ushared", "ghost0.1", "1 7 1 0 6:ghost06:shared0:0:0:0:").Err(); err != nil {
		t.Fatal(err)
	}
	err := asker.Disconnect(t.Context(), herald.User("shared"), 4000, "kicked")
	if partial, ok := errors.AsType[*herald.PartialError](err); !ok || !slices.Equal(partial.Missing, []string{"ghost0"}) || holder.has("shared") > 0 {
		t.Errorf("Disconnect of a user of whom ghost0 is said to hold a session: %v", err)
	}
	for what, target := range map[string]herald.Target{"everyone": herald.Everyone(), "its connection": herald.Connection("ghost0.1")} {
		err := asker.Disconnect(t.Context(), target, 4000, "kicked")
		t.Logf("Disconnect of %s: %v", what, err)
		if _, partial := errors.AsType[*herald.PartialError](err); partial != (what == "its connection") {
			t.Errorf("Disconnect of %s: %v", what, err)
		}
	}
}

// A node may live without ever being heard, because the Bus does not carry its
// packets. If a user has a connection on it, it is missing, even if it is new.
func TestNeverHeardIsMissing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	asker := startNodes(t, single(server), 1, herald.Config{SendTimeout: 2 * time.Second})[0]
	// It has the same Registry, but another Bus.
	config := herald.Config{Name: "deaf", Bus: herald.NewMemoryNetwork().Bus()}
	apart := startNode(t, single(server), config)
	for i := range 2 {
		user := fmt.Sprint("apart", i)
		apart.connect(user)
		err := asker.Disconnect(context.Background(), herald.User(user), 4000, "kicked")
		if partial, ok := errors.AsType[*herald.PartialError](err); !ok || !slices.Equal(partial.Missing, []string{apart.NodeID()}) {
			t.Errorf("Disconnect(%s) answers %v, and it has %d connections on a node that does not hear", user, err, apart.has(user))
		}
		asker.awaitRenewals(apart, 3)
	}
	await(t, "Health red and a reset, for that node has sessions", func() error {
		if asker.Health() == nil || asker.Stats().Resets == 0 {
			return errors.New("not yet")
		}
		return nil
	})
}
