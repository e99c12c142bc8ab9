package herald

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/faults"
	"github.com/heraldgo/herald/internal/places"
	"github.com/heraldgo/herald/internal/redisregistry"
)

// A MemoryRegistry keeps the Registry in memory, for the Hubs of one process:
// for a service that is one node, and for tests. Its clock is that of the
// package time, so that it works inside testing/synctest; steps of the wall
// clock do not move it.
type MemoryRegistry struct {
	store   *memoryStore
	cut     atomic.Bool
	changes []Change // that calls on this handle have made; guarded by store.mu
}

// NewMemoryRegistry returns an empty MemoryRegistry.
func NewMemoryRegistry() *MemoryRegistry {
	return &MemoryRegistry{store: &memoryStore{
		epoch:  time.Now(),
		leases: make(map[string]*memoryLease),
		dying:  make(map[Lease]*memoryLease),
		topics: make(map[string]map[string]memoryValue),
		gone:   make(map[string]int64),
		marks:  make(map[string]memoryMark),
	}}
}

// Handle returns another handle on what m keeps, as another node would hold one.
func (m *MemoryRegistry) Handle() *MemoryRegistry { return &MemoryRegistry{store: m.store} }

// heraldtest can cut a handle off.
func init() {
	faults.OfRegistry = func(registry any) faults.Registry {
		m := registry.(*MemoryRegistry)
		return faults.Registry{Cut: func() { m.cut.Store(true) }, Heal: func() { m.cut.Store(false) }}
	}
}

// call runs f with the store, unless the handle is cut or ctx is done.
func (m *MemoryRegistry) call(ctx context.Context, what string, f func(*memoryStore) error) error {
	err := ctx.Err()
	if err == nil && m.cut.Load() {
		err = ErrRegistryDown
	}
	if err == nil {
		m.store.mu.Lock()
		defer m.store.mu.Unlock()
		err = f(m.store)
		m.changes = append(m.changes, m.store.made...)
		m.changes = m.changes[max(0, len(m.changes)-redisregistry.MaxChanges):]
		m.store.made = nil
	}
	if err != nil {
		return fmt.Errorf("memory registry: %s: %w", what, err)
	}
	return nil
}

// Add implements [Registry.Add]. The Node of a Session is the lease's.
func (m *MemoryRegistry) Add(ctx context.Context, lease Lease, entries ...Entry) (added []Added, err error) {
	err = m.call(ctx, "add", func(s *memoryStore) error {
		l := s.current(lease)
		if l == nil {
			return ErrLeaseLost
		}
		added = make([]Added, len(entries))
		for i, e := range entries {
			added[i] = s.add(l, e)
		}
		return nil
	})
	return added, err
}

// Remove implements [Registry.Remove].
func (m *MemoryRegistry) Remove(ctx context.Context, lease Lease, entries ...Entry) error {
	return m.call(ctx, "remove", func(s *memoryStore) error {
		for _, e := range entries {
			for _, p := range e.places() {
				s.remove(p)
			}
		}
		return nil
	})
}

// Sessions implements [Registry.Sessions].
func (m *MemoryRegistry) Sessions(ctx context.Context, lease Lease, topics ...string) ([][]Session, error) {
	all := make([][]Session, len(topics))
	err := m.call(ctx, "sessions", func(s *memoryStore) error {
		return s.eachLive(lease, topics, func(i int, v memoryValue) { all[i] = append(all[i], cloneSession(v.session)) })
	})
	if err != nil {
		return nil, err
	}
	for _, sessions := range all {
		slices.SortFunc(sessions, compareSessions)
	}
	return all, nil
}

// Watch implements [WatchRegistry.Watch].
func (m *MemoryRegistry) Watch(ctx context.Context, lease Lease, ttl time.Duration, topics ...string) ([]Watched, error) {
	all := make([]Watched, len(topics))
	err := m.call(ctx, "watch", func(s *memoryStore) error {
		now := s.now()
		maps.DeleteFunc(s.marks, func(_ string, mark memoryMark) bool { return now >= mark.until })
		for i, topic := range topics {
			mark, ok := s.marks[topic]
			if !ok {
				mark.number = now
			}
			mark.until = max(mark.until, now+min(ttl, redisregistry.MaxLease).Microseconds())
			s.marks[topic] = mark
			all[i].Number = mark.number
		}
		return s.eachLive(lease, topics, func(i int, v memoryValue) {
			all[i].Sessions = append(all[i].Sessions, cloneSession(v.session))
		})
	})
	if err != nil {
		return nil, err
	}
	for _, w := range all {
		slices.SortFunc(w.Sessions, compareSessions)
	}
	return all, nil
}

// Changes implements [WatchRegistry.Changes].
func (m *MemoryRegistry) Changes() []Change {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	changes := m.changes
	m.changes = nil
	return changes
}

// Online implements [Registry.Online].
func (m *MemoryRegistry) Online(ctx context.Context, lease Lease, topics ...string) ([]bool, error) {
	online := make([]bool, len(topics))
	err := m.call(ctx, "online", func(s *memoryStore) error {
		return s.eachLive(lease, topics, func(i int, _ memoryValue) { online[i] = true })
	})
	if err != nil {
		return nil, err
	}
	return online, nil
}

// KeepAlive implements [Registry.KeepAlive].
func (m *MemoryRegistry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (generation int64, err error) {
	err = m.call(ctx, "keep alive", func(s *memoryStore) error {
		now := s.now()
		l := s.leases[node.ID]
		switch {
		case node.Generation == 0:
			if l != nil {
				s.dying[l.node.Lease()] = l
			}
			s.generation = max(now, s.generation+1)
			node.Generation = s.generation
			l = &memoryLease{places: make(map[places.Place]struct{})}
			s.leases[node.ID] = l
		case l == nil || l.node.Generation != node.Generation:
			return ErrLeaseLost
		}
		l.node = node
		l.node.Renewed, l.node.TTL = time.UnixMicro(now), ttl.Truncate(time.Microsecond)
		generation = node.Generation
		return nil
	})
	return generation, err
}

// Release implements [Registry.Release].
func (m *MemoryRegistry) Release(ctx context.Context, lease Lease) error {
	return m.call(ctx, "release", func(s *memoryStore) error {
		if l := s.current(lease); l != nil {
			delete(s.leases, lease.Node)
			s.dying[lease] = l
		}
		if l := s.dying[lease]; l != nil && len(l.places) == 0 {
			delete(s.dying, lease)
		}
		return nil
	})
}

// Nodes implements [Registry.Nodes].
func (m *MemoryRegistry) Nodes(ctx context.Context) (nodes []Node, at time.Time, err error) {
	err = m.call(ctx, "nodes", func(s *memoryStore) error {
		now := s.now()
		for _, l := range s.leases {
			nodes = append(nodes, l.node)
			nodes[len(nodes)-1].Alive = s.live(l.node.Lease(), now)
		}
		for _, l := range s.dying {
			nodes = append(nodes, l.node)
			nodes[len(nodes)-1].Alive = false
		}
		slices.SortFunc(nodes, compareNodes)
		at = time.UnixMicro(max(now, s.clock))
		return nil
	})
	return nodes, at, err
}

// Sweep implements [Registry.Sweep].
func (m *MemoryRegistry) Sweep(ctx context.Context, lease Lease) error {
	return m.call(ctx, "sweep", func(s *memoryStore) error {
		l := s.dying[lease]
		if current := s.current(lease); current != nil && !s.live(lease, s.now()) {
			delete(s.leases, lease.Node)
			l = current
		}
		if l == nil {
			return nil
		}
		for p := range l.places {
			if s.topics[p.Topic][p.ID].lease == lease {
				s.remove(p)
			}
		}
		delete(s.dying, lease)
		return nil
	})
}

// Offline implements [Registry.Offline].
func (m *MemoryRegistry) Offline(ctx context.Context, delay time.Duration) (users []string, err error) {
	err = m.call(ctx, "offline", func(s *memoryStore) error {
		due := s.now() - delay.Microseconds()
		for user, since := range s.gone {
			if since <= due {
				users = append(users, user)
				delete(s.gone, user)
			}
		}
		return nil
	})
	return users, err
}

// Check implements [Registry.Check]: nothing gets lost in memory.
func (m *MemoryRegistry) Check(ctx context.Context, lease Lease, entries ...Entry) (missing []Entry, err error) {
	err = m.call(ctx, "check", func(s *memoryStore) error {
		if s.current(lease) == nil {
			return ErrLeaseLost
		}
		lost := make([][]places.Place, len(entries))
		for i, e := range entries {
			for _, p := range e.places() {
				if s.topics[p.Topic][p.ID].lease != lease {
					lost[i] = append(lost[i], p)
				}
			}
		}
		missing = lostEntries(entries, lost)
		return nil
	})
	return missing, err
}

// Entries implements [Registry.Entries], in one page.
func (m *MemoryRegistry) Entries(ctx context.Context, lease Lease, cursor string) (entries []Entry, next string, err error) {
	err = m.call(ctx, "entries", func(s *memoryStore) error {
		l := s.known(lease)
		if l == nil {
			return nil
		}
		var all []places.Place
		for p := range l.places {
			if s.topics[p.Topic][p.ID].lease == lease {
				all = append(all, p)
			}
		}
		all = places.Sort(all)
		entries = entriesAt(all, func(i int) Session {
			return cloneSession(s.topics[all[i].Topic][all[i].ID].session)
		})
		return nil
	})
	return entries, "", err
}
