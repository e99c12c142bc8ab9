package herald

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lostRig is a rig whose Registry can lose things behind its back.
func lostRig(t *testing.T, n int, config Config) (r *rig, behind *MemoryRegistry, lines logLines) {
	logger, lines := newLog()
	behind = NewMemoryRegistry()
	config.Bus, config.Logger, config.MaxConnsPerUser, config.PingInterval = NewMemoryNetwork().Bus(), logger, -1, -1
	if config.Registry == nil {
		config.Registry = behind.Handle()
	}
	r = newPipeRig(t, config)
	for i := range n {
		go r.pipe(fmt.Sprintf("user=u%d&groups=g", i))
	}
	r.await("Conns", func() bool { return r.Stats().Conns == n })
	// Audits are due at the same time from here on, and find nothing.
	time.Sleep(2 * r.config.Lease)
	if s := r.Stats(); s.Mended != 0 {
		t.Errorf("%d sessions were put back, before any was lost", s.Mended)
	}
	return r, behind, lines
}

// told counts the lines of the log that have the text.
func told(lines logLines, text string) (n int) {
	for {
		select {
		case line := <-lines:
			if strings.Contains(line, text) {
				n++
			}
		default:
			return n
		}
	}
}

// Whatever the Registry loses, without an error or a new link, is found within
// a lease, however many Conns there are. It is put back at once, counted, and
// told of once.
func TestLossIsMendedWithinALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5*auditStep + 7
		r, behind, lines := lostRig(t, n, Config{})
		for round := range 3 {
			entries := entriesOf(t, r.Hub)
			lost := entries[round*100 : round*100+100]
			for i := range lost {
				if i%2 == 0 { // of some the group alone
					lost[i].UserTopic = ""
				}
			}
			if err := behind.Remove(t.Context(), Lease{}, lost...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(r.config.Lease + time.Second)
			synctest.Wait()
			if sessions, err := r.Sessions(t.Context(), Group("g")); err != nil || len(sessions) != n {
				t.Errorf("after a lease %d sessions are listed (%v), want %d", len(sessions), err, n)
			}
			if got, want := r.Stats().Mended, uint64(100*(round+1)); got != want {
				t.Errorf("%d sessions were put back, want %d", got, want)
			}
		}
		if got := told(lines, "the Registry had lost sessions"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
		if err := r.Health(); err != nil {
			t.Error(err)
		}
	})
}

// A lost index, or lease, is a lost lease: everything comes under a new one,
// and nothing of the old one stays.
func TestLostLeaseIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &indexLoser{MemoryRegistry: NewMemoryRegistry()}
		const n = auditStep + 7
		r, _, lines := lostRig(t, n, Config{Registry: registry})
		old := r.presence.current()
		registry.lost.Store(true)
		time.Sleep(r.config.Lease + time.Second)
		synctest.Wait()
		if now := r.presence.current(); now.Generation <= old.Generation {
			t.Errorf("the lease is %v, and was %v", now, old)
		}
		if entries := entriesOf(t, r.Hub); len(entries) != n {
			t.Errorf("%d entries under the new lease, want %d", len(entries), n)
		}
		if got := r.Stats().Mended; got != n {
			t.Errorf("%d sessions were put back, want %d", got, n)
		}
		if got := told(lines, "had lost this node's lease"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
		time.Sleep(3 * r.config.Lease)
		nodes, _, err := registry.Nodes(t.Context())
		if err != nil || len(nodes) != 1 {
			t.Errorf("nodes are %v (%v), want the one", nodes, err)
		}
	})
}

// An indexLoser says once that it has lost the index of a lease.
type indexLoser struct {
	*MemoryRegistry
	lost atomic.Bool
}

func (r *indexLoser) Check(ctx context.Context, l Lease, entries ...Entry) ([]Entry, error) {
	if r.lost.Swap(false) {
		return nil, fmt.Errorf("check: %w", ErrLeaseLost)
	}
	return r.MemoryRegistry.Check(ctx, l, entries...)
}

// A node whose record cannot be understood is told of once.
func TestUnknownNodeIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &strangeRegistry{MemoryRegistry: NewMemoryRegistry()}
		r, _, lines := lostRig(t, 1, Config{Registry: registry})
		time.Sleep(5 * r.config.Lease)
		if got := told(lines, "node=later-1 err=\"its lease has format 2"); got != 1 {
			t.Errorf("told %d times, want once", got)
		}
		if nodes, err := r.Nodes(t.Context()); err != nil || len(nodes) != 1 {
			t.Errorf("nodes that live: %v (%v), want this one", nodes, err)
		}
	})
}

type strangeRegistry struct{ *MemoryRegistry }

func (r *strangeRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	nodes, now, err := r.MemoryRegistry.Nodes(ctx)
	return append(nodes, Node{ID: "later-1", Err: errors.New("its lease has format 2")}), now, err
}
