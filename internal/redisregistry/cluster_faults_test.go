package redisregistry_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A master dies, stays dead for a while, and comes back empty.
func TestRedisRegistryOnClusterComesBackEmpty(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0, "--cluster-require-full-coverage", "no")
	r := clusterRegistry(t, cluster, "")
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 300)
	mustAdd(t, r, lease, entries...)
	renewed := func() map[string]string {
		records := make(map[string]string)
		for _, tag := range clusterShards {
			if n := cluster.MasterOf(cluster.Slot("{" + tag + "}")); n != cluster.Nodes[1] {
				records[tag] = inShard(t, cluster, tag, "HGET", "nodes", "n").String()
			}
		}
		return records
	}
	before := renewed()
	cluster.Nodes[1].Kill()
	calls := map[string]func(ctx context.Context) error{
		"add":    func(ctx context.Context) error { _, err := r.Add(ctx, lease, entries...); return err },
		"remove": func(ctx context.Context) error { return r.Remove(ctx, lease, entries...) },
		"sessions": func(ctx context.Context) error {
			_, err := r.Sessions(ctx, herald.Lease{}, "u0", "u1", "u2", "u3", "u4", "u5", "u6")
			return err
		},
		"nodes":      func(ctx context.Context) error { _, _, err := r.Nodes(ctx); return err },
		"offline":    func(ctx context.Context) error { _, err := r.Offline(ctx, time.Hour); return err },
		"sweep":      func(ctx context.Context) error { return r.Sweep(ctx, lease) },
		"keep alive": func(ctx context.Context) error { _, err := r.KeepAlive(ctx, nodeOfLease(lease), time.Hour); return err },
	}
	for what, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := call(ctx); !errors.Is(err, herald.ErrRegistryDown) {
			t.Errorf("%s: %v, want ErrRegistryDown", what, err)
		}
		cancel()
	}
	for tag, record := range renewed() {
		if record == before[tag] {
			t.Errorf("the lease was not renewed in shard %s", tag)
		}
	}
	cluster.Nodes[1].Restart()
	cluster.AwaitOK()
	mustRenew := func() (err error) {
		eventually(t, "an answer", func() bool {
			err = calls["keep alive"](t.Context())
			return !errors.Is(err, herald.ErrRegistryDown)
		})
		return err
	}
	if err := mustRenew(); !errors.Is(err, herald.ErrLeaseLost) {
		t.Fatalf("keep alive: %v, want ErrLeaseLost", err)
	}
	lease = takeLease(t, r, "n", time.Hour)
	mustAdd(t, r, lease, entries...)
	wantSessions(t, r, "gall", len(entries))
	for _, e := range entries {
		wantSessions(t, r, e.UserTopic, 1)
	}
}

// A replica takes over. Calls fail meanwhile, and then succeed again.
func TestRedisRegistryOnClusterFailover(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 3)
	r := clusterRegistry(t, cluster, "")
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 300)
	mustAdd(t, r, lease, entries...)
	slot := cluster.Slot("{0}")
	old := cluster.MasterOf(slot)
	eventually(t, "the replica to have it all", func() bool {
		info := old.Admin().Info(t.Context(), "replication").Val()
		_, offset, _ := strings.Cut(info, "master_repl_offset:")
		offset, _, _ = strings.Cut(offset, "\r\n")
		return strings.Contains(info, ",offset="+offset+",")
	})
	old.Kill()
	down := time.Now()
	failed := 0
	eventually(t, "a lease that is renewed", func() bool {
		_, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour)
		if err != nil && !errors.Is(err, herald.ErrRegistryDown) {
			t.Fatalf("keep alive: %v, want ErrRegistryDown", err)
		}
		if err != nil {
			failed++
		}
		return err == nil
	})
	t.Logf("the registry was down for %v, for %d calls", time.Since(down), failed)
	wantNode(t, r, lease, true)
	wantSessions(t, r, "gall", len(entries))
	for _, e := range entries {
		wantSessions(t, r, e.UserTopic, 1)
	}
	mustAdd(t, r, lease, entries...)

	// The old master is a replica now. Connections to it are redirected.
	cluster.AwaitFailover(slot, old)
	old.Restart()
	cluster.AwaitOK()
	for range 50 {
		wantNode(t, r, lease, true)
		wantSessions(t, r, "gall", len(entries))
	}
}

// A master hangs. Calls end with their context, calls of other masters succeed, and
// Close ends the rest.
func TestRedisRegistryOnClusterHangs(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0, "--cluster-require-full-coverage", "no")
	r := clusterRegistry(t, cluster, "")
	lease := takeLease(t, r, "n", time.Hour)
	before := inShard(t, cluster, "0", "HGET", "nodes", "n").String()
	cluster.Nodes[1].Pause()
	defer cluster.Nodes[1].Continue()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := r.KeepAlive(ctx, nodeOfLease(lease), time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("too late: %v, want context.DeadlineExceeded", err)
	}
	if inShard(t, cluster, "0", "HGET", "nodes", "n").String() == before {
		t.Error("the lease was not renewed where it could be")
	}
	ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, _, err := r.Nodes(ctx)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
	go func() {
		_, _, err := r.Nodes(t.Context())
		ended <- err
	}()
	r.Close()
	if err := <-ended; !errors.Is(err, herald.ErrClosed) {
		t.Errorf("closed: %v, want ErrClosed", err)
	}
}
