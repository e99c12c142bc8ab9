package redisregistry_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// clusterShards has the hash tags of the Registry's shards.
var clusterShards = []string{"0", "66", "48", "18", "3", "65", "140", "19", "2", "64", "141", "106", "1", "67", "49", "107"}

// nextMaster returns another of the three masters.
func nextMaster(c *redistest.Cluster, n *redistest.Node) *redistest.Node {
	return c.Nodes[(slices.Index(c.Nodes, n)+1)%3]
}

// move moves a shard to another master.
func move(c *redistest.Cluster, tag string) {
	slot := c.Slot("{" + tag + "}")
	c.Migrate(slot, nextMaster(c, c.MasterOf(slot)))
}

// walk returns the id and topic of each place that the lease's entries have.
func walk(t testing.TB, r herald.Registry, lease herald.Lease, eachPage func()) map[[2]string]bool {
	t.Helper()
	found := make(map[[2]string]bool)
	for cursor := ""; ; {
		entries, next, err := r.Entries(t.Context(), lease, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			for _, topic := range append(slices.Clone(e.Topics), e.UserTopic) {
				if topic != "" {
					found[[2]string{e.Session.ID, topic}] = true
				}
			}
		}
		if cursor = next; cursor == "" {
			return found
		}
		eachPage()
	}
}

func placesOf(entries []herald.Entry) map[[2]string]bool {
	all := make(map[[2]string]bool)
	for _, e := range entries {
		for _, topic := range append(slices.Clone(e.Topics), e.UserTopic) {
			all[[2]string{e.Session.ID, topic}] = true
		}
	}
	return all
}

// While shards move with all their keys, leases are kept, and entries are read,
// added and removed as usual.
func testClusterMoves(t *testing.T, cluster *redistest.Cluster) {
	r := clusterRegistry(t, cluster, "")
	lease := takeLease(t, r, "n", time.Hour)
	fixed := someEntries("n", 1500)
	mustAdd(t, r, lease, fixed...)

	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var wg sync.WaitGroup
	var all []*atomic.Int64
	work := func(what string, f func(ctx context.Context, round int) error) {
		rounds := new(atomic.Int64)
		all = append(all, rounds)
		wg.Go(func() {
			for !stopped() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := f(ctx, int(rounds.Load()))
				cancel()
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				rounds.Add(1)
			}
			t.Logf("%s: %d times", what, rounds.Load())
		})
	}
	var kept [2][]herald.Entry
	for w := range kept {
		work("add and remove", func(ctx context.Context, round int) error {
			entries := make([]herald.Entry, 20)
			for i := range entries {
				id := fmt.Sprintf("n.w%d-%d-%d", w, round, i)
				entries[i] = herald.Entry{Session: herald.Session{ID: id, User: id}, UserTopic: "u" + id, Topics: []string{"gall", "g" + id}}
			}
			if _, err := r.Add(ctx, lease, entries...); err != nil {
				return err
			}
			kept[w] = append(kept[w], entries[0])
			return r.Remove(ctx, lease, entries[1:]...)
		})
	}
	work("keep alive", func(ctx context.Context, _ int) error {
		_, err := r.KeepAlive(ctx, nodeOfLease(lease), time.Hour)
		return err
	})
	work("nodes", func(ctx context.Context, _ int) error {
		nodes, _, err := r.Nodes(ctx)
		if err == nil && (len(nodes) != 1 || !nodes[0].Alive) {
			err = fmt.Errorf("nodes are %v", nodes)
		}
		return err
	})
	work("sessions", func(ctx context.Context, round int) error {
		topics := make([]string, 100)
		for i := range topics {
			topics[i] = fixed[(round*len(topics)+i)%len(fixed)].UserTopic
		}
		all, err := r.Sessions(ctx, herald.Lease{}, topics...)
		for i, sessions := range all {
			if len(sessions) != 1 {
				return fmt.Errorf("%d sessions of %s", len(sessions), topics[i])
			}
		}
		return err
	})
	for _, tag := range clusterShards {
		move(cluster, tag)
		before := make([]int64, len(all))
		for i, rounds := range all {
			before[i] = rounds.Load()
		}
		eventually(t, "each to get on", func() bool {
			for i, rounds := range all {
				if rounds.Load() < before[i]+2 {
					return false
				}
			}
			return true
		})
	}
	close(stop)
	wg.Wait()

	there := slices.Concat(fixed, kept[0], kept[1])
	wantSessions(t, r, "gall", len(there))
	if got := walk(t, r, lease, func() {}); !maps.Equal(got, placesOf(there)) {
		t.Errorf("%d places, want %d", len(got), len(placesOf(there)))
	}
	if err := r.Remove(t.Context(), lease, there...); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for {
		users, err := r.Offline(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(users) == 0 {
			break
		}
		for _, u := range users {
			seen[u] = true
		}
	}
	for _, e := range there {
		if !seen[e.Session.User] {
			t.Errorf("user %s did not go offline", e.Session.User)
		}
	}
}

// A walk during which shards move leaves nothing out.
func testClusterMovesInAWalk(t *testing.T, cluster *redistest.Cluster) {
	r := clusterRegistry(t, cluster, "")
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 4000)
	mustAdd(t, r, lease, entries...)
	pages := 0
	found := walk(t, r, lease, func() {
		if pages++; pages%2 == 0 {
			move(cluster, clusterShards[pages*len(clusterShards)/(3*len(entries)/200)%len(clusterShards)])
		}
	})
	if want := placesOf(entries); !maps.Equal(found, want) {
		t.Errorf("found %d places of %d", len(found), len(want))
	}
	t.Logf("%d pages", pages)
}

// If a move gets stuck halfway, the shard can still be read and its leases are
// kept. Additions to it wait.
func testClusterStuckMove(t *testing.T, cluster *redistest.Cluster) {
	r := clusterRegistry(t, cluster, "")
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 500)
	mustAdd(t, r, lease, entries...)
	slot := cluster.Slot("{0}")
	from := cluster.MasterOf(slot)
	to := nextMaster(cluster, from)
	setSlot := func(n *redistest.Node, args ...any) {
		t.Helper()
		if err := n.Admin().Do(t.Context(), slices.Concat([]any{"CLUSTER", "SETSLOT", slot}, args)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// These two users are alone in the shard.
	var lonely []herald.Entry
	for i := 0; len(lonely) < 2; i++ {
		e := herald.Entry{Session: herald.Session{ID: fmt.Sprint("n.lonely", i), User: fmt.Sprint("lonely", i)}, UserTopic: fmt.Sprint("lonely", i)}
		mustAdd(t, r, lease, e)
		if exists := from.Admin().Exists(t.Context(), "herald:{0}:t:"+e.UserTopic).Val(); exists == 1 {
			lonely = append(lonely, e)
		} else if err := r.Remove(t.Context(), lease, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Remove(t.Context(), lease, lonely[0]); err != nil {
		t.Fatal(err)
	}
	cluster.BeginMigration(slot, to)
	// A call that finds all its keys succeeds, even if it removes one of them.
	if err := r.Remove(t.Context(), lease, lonely[1]); err != nil {
		t.Errorf("remove: %v", err)
	}
	if users, err := r.Offline(t.Context(), 0); err != nil || !slices.Contains(users, lonely[1].Session.User) {
		t.Errorf("offline are %q (%v), want %s among them", users, err, lonely[1].Session.User)
	}
	host, port, _ := net.SplitHostPort(to.Addr)
	moveKeys := func(keys ...string) {
		t.Helper()
		args := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
		for _, key := range keys {
			args = append(args, key)
		}
		if err := from.Admin().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour); err != nil {
			t.Errorf("keep alive: %v", err)
		}
		nodes, _, err := r.Nodes(t.Context())
		if err != nil || len(nodes) != 1 || !nodes[0].Alive {
			t.Errorf("nodes are %v: %v", nodes, err)
		}
		wantSessions(t, r, "gall", len(entries))
		for _, e := range entries {
			wantSessions(t, r, e.UserTopic, 1)
		}
		if got := walk(t, r, lease, func() {}); !maps.Equal(got, placesOf(entries)) {
			t.Errorf("%d places, want %d", len(got), len(placesOf(entries)))
		}
		if _, err := r.Offline(t.Context(), 0); err != nil {
			t.Errorf("offline: %v", err)
		}
	}
	check()
	keys, err := from.Admin().ClusterGetKeysInSlot(t.Context(), slot, 1000).Result()
	if err != nil {
		t.Fatal(err)
	}
	moveKeys(keys[:len(keys)/2]...)
	check()
	moveKeys(keys[len(keys)/2:]...)
	check()

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	more := someEntries("m", 100)
	if _, err := r.Add(ctx, lease, more...); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("add while the move is stuck: %v, want context.DeadlineExceeded or ErrRegistryDown", err)
	}
	waited := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := r.Add(ctx, lease, more...)
		waited <- err
	}()
	setSlot(to, "NODE", to.ID)
	setSlot(from, "NODE", to.ID)
	if err := <-waited; err != nil {
		t.Errorf("add that waited for the end of the move: %v", err)
	}
	entries = append(entries, more...)
	wantSessions(t, r, "gall", len(entries))
}
