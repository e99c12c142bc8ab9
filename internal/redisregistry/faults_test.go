package redisregistry_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

func TestRedisRegistryScriptFlush(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client()
	r := redisRegistry(t, rdb)
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 3000)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond): // often enough to hit a batch, but no more often
				rdb.ScriptFlush(context.Background())
			}
		}
	})
	for range 3 {
		added, err := r.Add(t.Context(), lease, entries...)
		if err != nil || len(added) != len(entries) {
			t.Errorf("%d added: %v", len(added), err)
		}
	}
	close(stop)
	wg.Wait()
	wantSessions(t, r, "gall", len(entries))
	rdb.ScriptFlush(t.Context())
	if err := r.Remove(t.Context(), lease, entries...); err != nil {
		t.Fatal(err)
	}
	wantSessions(t, r, "gall", 0)
}

func TestRedisRegistryComesBackEmpty(t *testing.T) {
	server := redistest.Start(t)
	r := redisRegistry(t, server.Client())
	lease := takeLease(t, r, "n", time.Hour)
	entries := someEntries("n", 10)
	again := func(lose func()) {
		t.Helper()
		mustAdd(t, r, lease, entries...)
		lose()
		for what, err := range map[string]error{
			"add":        func() error { _, err := r.Add(t.Context(), lease, entries...); return err }(),
			"keep alive": func() error { _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour); return err }(),
		} {
			if !errors.Is(err, herald.ErrLeaseLost) {
				t.Fatalf("%s: %v, want ErrLeaseLost", what, err)
			}
		}
		next := takeLease(t, r, "n", time.Hour)
		if next.Generation <= lease.Generation {
			t.Fatalf("generation %d after %d", next.Generation, lease.Generation)
		}
		lease = next
		mustAdd(t, r, lease, entries...)
		wantSessions(t, r, "gall", len(entries))
		wantSessions(t, r, "u3", 1)
	}
	again(func() { server.Client().FlushAll(t.Context()) })
	again(func() {
		server.Kill()
		if _, err := r.Sessions(t.Context(), herald.Lease{}, "u3"); !errors.Is(err, herald.ErrRegistryDown) {
			t.Fatalf("sessions of a dead server: %v, want ErrRegistryDown", err)
		}
		if _, err := r.Add(t.Context(), lease, entries...); !errors.Is(err, herald.ErrRegistryDown) {
			t.Fatalf("add to a dead server: %v, want ErrRegistryDown", err)
		}
		server.Restart()
	})
}

func nodeOfLease(l herald.Lease) herald.Node {
	return herald.Node{ID: l.Node, Generation: l.Generation}
}

// A server hangs. Calls end with their context, and Close ends the rest.
func TestRedisRegistryHangs(t *testing.T) {
	server := redistest.Start(t)
	r := redisRegistry(t, server.Client())
	lease := takeLease(t, r, "n", time.Hour)
	server.Pause()
	defer server.Continue()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := r.Add(ctx, lease, someEntries("n", 1)...)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Sessions(ctx, herald.Lease{}, "u"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("too late: %v, want context.DeadlineExceeded", err)
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

// A server is made a replica. Calls return an error that says so, and no connection
// goes on reading from it.
func TestRedisRegistryDemoted(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	r := redisRegistry(t, admin)
	lease := takeLease(t, r, "n", time.Hour)
	mustAdd(t, r, lease, someEntries("n", 1)...)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { r.Nodes(t.Context()) }) // several connections
	}
	wg.Wait()
	connections := func() []string {
		list, err := admin.ClientList(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, line := range strings.Split(strings.TrimSpace(list), "\n") {
			if !strings.Contains(line, "cmd=client") {
				ids = append(ids, strings.Fields(line)[0])
			}
		}
		return ids
	}
	before := connections()
	if err := admin.ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("on a replica: %v, want ErrRegistryDown", err)
	}
	if _, err := herald.NewRedisRegistry(admin, nil); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("new on a replica: %v, want ErrRegistryDown", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	// It takes the server a while to notice that a connection is closed.
	for slices.ContainsFunc(connections(), func(id string) bool { return slices.Contains(before, id) }) {
		if time.Now().After(deadline) {
			t.Fatal("the old connections are still there")
		}
		time.Sleep(time.Millisecond)
	}
	if err := admin.ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.KeepAlive(t.Context(), nodeOfLease(lease), time.Hour); err != nil {
		t.Errorf("master again: %v", err)
	}
	wantSessions(t, r, "u0", 1)
}
