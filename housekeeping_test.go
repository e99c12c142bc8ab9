package herald

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A hookedRegistry runs hooks after what it does. Their errors become its own.
type hookedRegistry struct {
	*MemoryRegistry
	afterAdd, afterRemove func([]Entry) error
}

func (r *hookedRegistry) Add(ctx context.Context, l Lease, entries ...Entry) ([]Added, error) {
	added, err := r.MemoryRegistry.Add(ctx, l, entries...)
	if err == nil && r.afterAdd != nil {
		err = r.afterAdd(entries)
	}
	return added, err
}

func (r *hookedRegistry) Remove(ctx context.Context, l Lease, entries ...Entry) error {
	err := r.MemoryRegistry.Remove(ctx, l, entries...)
	if err == nil && r.afterRemove != nil {
		err = r.afterRemove(entries)
	}
	return err
}

// Writes that are dropped because the lease could not be renewed are made as
// soon as it can, however many Conns they concern.
func TestDroppedWritesAreMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := NewMemoryRegistry()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle(), MaxConnsPerUser: -1})
		const n = auditStep + 50 // more than one step of an audit
		leaver := r.pipe("user=leaver")
		for range n {
			go r.pipe("")
		}
		r.await("Conns", func() bool { return r.Stats().Conns == n+1 })
		cut := r.registry.(*MemoryRegistry)
		cut.cut.Store(true)
		time.Sleep(r.config.Lease / 2)
		if err := r.Health(); !errors.Is(err, ErrRegistryDown) {
			t.Errorf("Health: %v", err)
		}
		cut.cut.Store(false)
		// It is back, housekeeping has been through, and the lease is not
		// renewed yet.
		r.presence.housekeep()
		synctest.Wait()
		leaver.Close()
		var partial *PartialError
		if err := r.Join(t.Context(), User("u"), "g"); !errors.As(err, &partial) {
			t.Errorf("Join: %v", err)
		}
		time.Sleep(time.Second) // until the next try to renew it
		synctest.Wait()
		if err := r.Health(); err != nil {
			t.Errorf("Health: %v", err)
		}
		members, err := r.Sessions(t.Context(), Group("g"))
		if err != nil || len(members) != n {
			t.Errorf("%d members, %v", len(members), err)
		}
		if entries := entriesOf(t, r.Hub); len(entries) != n {
			t.Errorf("%d entries, want %d", len(entries), n)
		}
	})
}

// An audit that meets a Leave on its way takes the group away, never the
// user's own place.
func TestAuditNeverHidesAUser(t *testing.T) {
	registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
	var hidden atomic.Int32
	registry.afterRemove = func([]Entry) error {
		if there, err := registry.Sessions(context.Background(), Lease{}, userTopic("a")); err != nil || len(there[0]) == 0 {
			hidden.Add(1)
		}
		return nil
	}
	r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry})
	ws := r.connect("user=a&groups=g,h")
	defer ws.Close()
	conn := r.only()
	entries := entriesOf(t, r.Hub)
	r.index.leaveGroup(conn, "g") // its write is still to come
	k := &housekeeping{p: r.presence}
	for _, e := range entries {
		k.check(e)
	}
	if err := r.presence.barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	for group, want := range map[string]int{"g": 0, "h": 1} {
		if members, err := r.Sessions(t.Context(), Group(group)); err != nil || len(members) != want {
			t.Errorf("group %s has %v, %v", group, members, err)
		}
	}
	if n := hidden.Load(); n > 0 {
		t.Errorf("the user was hidden %d times", n)
	}
	r.follower.Unfollow(groupTopic("g"))
}

// A node to which nothing happens keeps its lease.
func TestIdleNodeRenewsItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := NewMemoryRegistry()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle(), ProbeInterval: -1})
		for i := range 50 {
			time.Sleep(r.config.Lease / 5)
			nodes, _, err := registry.Nodes(t.Context())
			if err != nil || len(nodes) != 1 || !nodes[0].Alive {
				t.Fatalf("after %d fifths of a lease: %v, %v", i+1, fmt.Sprint(nodes), err)
			}
		}
	})
}

// A Registry that was away too shortly for the lease's renewal to notice may
// have lost what was written last, as in a failover: it is put back at once,
// however many Conns it concerns.
func TestShortOutageIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := NewMemoryRegistry()
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry.Handle(), MaxConnsPerUser: -1})
		const n = 2*auditStep + 50 // more than two steps of an audit
		for range n {
			go r.pipe("")
		}
		r.await("Conns", func() bool { return r.Stats().Conns == n })
		renewed := r.presence.renewed.Load()
		r.await("a renewal", func() bool { return r.presence.renewed.Load() != renewed })
		time.Sleep(100 * time.Millisecond) // housekeeping is due at the same time
		cut := r.registry.(*MemoryRegistry)
		entries := entriesOf(t, r.Hub)
		cut.cut.Store(true)
		time.Sleep(2 * time.Second)
		if err := registry.Remove(t.Context(), Lease{}, entries...); err != nil {
			t.Fatal(err)
		}
		cut.cut.Store(false)
		if err := r.Health(); err != nil {
			t.Errorf("Health: %v, but nothing should have been noticed", err)
		}
		time.Sleep(r.config.Lease/3 + time.Second)
		synctest.Wait()
		if sessions, err := r.Sessions(t.Context(), User("u")); err != nil || len(sessions) != n {
			t.Errorf("%d sessions are listed (%v), want %d", len(sessions), err, n)
		}
	})
}
