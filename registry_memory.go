package herald

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A MemoryRegistry keeps the Registry in memory, for the Hubs of one process:
// for a service that is one node, and for tests. Its clock is that of the
// package time, so that it works inside testing/synctest; steps of the wall
// clock do not move it.
type MemoryRegistry struct {
	store *memoryStore
	cut   atomic.Bool
}

// NewMemoryRegistry returns an empty MemoryRegistry.
func NewMemoryRegistry() *MemoryRegistry {
	return &MemoryRegistry{store: &memoryStore{
		epoch:  time.Now(),
		leases: make(map[string]*memoryLease),
		dying:  make(map[Lease]*memoryLease),
		topics: make(map[string]map[string]memoryValue),
		gone:   make(map[string]int64),
	}}
}

// Handle returns another handle on what m keeps, as another node would hold
// one. Cut and Heal of one handle leave the others as they are.
func (m *MemoryRegistry) Handle() *MemoryRegistry { return &MemoryRegistry{store: m.store} }

// Cut makes every call on this handle fail with ErrRegistryDown, and do
// nothing, until Heal.
func (m *MemoryRegistry) Cut() { m.cut.Store(true) }

// Heal ends a Cut.
func (m *MemoryRegistry) Heal() { m.cut.Store(false) }

// enter locks the store for a call, or says why the call fails.
func (m *MemoryRegistry) enter(ctx context.Context, what string) error {
	err := ctx.Err()
	if err == nil && m.cut.Load() {
		err = ErrRegistryDown
	}
	if err != nil {
		return fmt.Errorf("memory registry: %s: %w", what, err)
	}
	m.store.mu.Lock()
	return nil
}

// A memoryStore is what the handles share. Times are in microseconds.
type memoryStore struct {
	epoch time.Time // carries the monotonic clock

	mu         sync.Mutex
	generation int64                             // the last one
	clock      int64                             // the latest Since that was given
	leases     map[string]*memoryLease           // by node: the present ones
	dying      map[Lease]*memoryLease            // those that are being swept
	topics     map[string]map[string]memoryValue // by topic and connection
	gone       map[string]int64                  // users, and when the last session went
}

type memoryLease struct {
	node   Node
	places map[place]struct{}
}

type memoryValue struct {
	session Session
	lease   Lease
	online  bool // what its Add answered
}

func (s *memoryStore) now() int64 { return s.epoch.Add(time.Since(s.epoch)).UnixMicro() }

// live says whether the lease is present and has not run out.
func (s *memoryStore) live(lease Lease, now int64) bool {
	l := s.leases[lease.Node]
	return l != nil && l.node.Generation == lease.Generation && now < l.node.Renewed.Add(l.node.TTL).UnixMicro()
}

// current returns the lease, or nil where it is lost.
func (s *memoryStore) current(lease Lease) *memoryLease {
	if l := s.leases[lease.Node]; l != nil && l.node.Generation == lease.Generation {
		return l
	}
	return nil
}

// known returns the lease, be it dying, or nil where it is forgotten.
func (s *memoryStore) known(lease Lease) *memoryLease {
	if l := s.current(lease); l != nil {
		return l
	}
	return s.dying[lease]
}

// Add implements [Registry.Add]. The Node of a Session is the lease's.
func (m *MemoryRegistry) Add(ctx context.Context, lease Lease, entries ...Entry) ([]Added, error) {
	if err := m.enter(ctx, "add"); err != nil {
		return nil, err
	}
	defer m.store.mu.Unlock()
	l := m.store.current(lease)
	if l == nil {
		return nil, fmt.Errorf("memory registry: add: %w", ErrLeaseLost)
	}
	added := make([]Added, len(entries))
	for i, e := range entries {
		added[i] = m.store.add(l, e)
	}
	return added, nil
}

func (s *memoryStore) add(l *memoryLease, e Entry) Added {
	value := memoryValue{session: cloneSession(e.Session), lease: l.node.Lease()}
	value.session.Node = l.node.ID
	var added Added
	switch {
	case e.UserTopic != "":
		added = s.presence(&value, s.topics[e.UserTopic], e.Older)
	default:
		s.stamp(&value.session)
	}
	added.Since = value.session.Since
	for _, p := range e.places() {
		if s.topics[p.topic] == nil {
			s.topics[p.topic] = make(map[string]memoryValue)
		}
		s.topics[p.topic][p.id] = value
		l.places[p] = struct{}{}
	}
	return added
}

// stamp gives a Session a Since, later than all that were given, if it has
// none.
func (s *memoryStore) stamp(session *Session) {
	since := session.Since.UnixMicro()
	if session.Since.IsZero() {
		since = max(s.now(), s.clock+1)
	}
	s.clock = max(s.clock, since)
	session.Since = time.UnixMicro(since)
}

// presence sets Since and online of a value that is about to come under its
// user's topic, and answers who is older.
func (s *memoryStore) presence(value *memoryValue, there map[string]memoryValue, most int) Added {
	session := &value.session
	own, again := there[session.ID]
	first := session.Since.IsZero()
	if first {
		session.Since = own.session.Since // of an Add that is done once more
	}
	s.stamp(session)
	_, going := s.gone[session.User]
	delete(s.gone, session.User)
	if again {
		value.online = own.online && (own.lease == value.lease || first)
	} else {
		value.online = len(there) == 0 && !going
	}
	added := Added{Online: value.online}
	if most <= 0 {
		return added
	}
	now := s.now()
	for id, v := range there {
		if id != session.ID && v.session.Since.Before(session.Since) && s.live(v.lease, now) {
			added.Older = append(added.Older, cloneSession(v.session))
		}
	}
	slices.SortFunc(added.Older, compareSessions)
	added.OlderTotal = len(added.Older)
	added.Older = added.Older[:min(most, len(added.Older))]
	return added
}

// Remove implements [Registry.Remove].
func (m *MemoryRegistry) Remove(ctx context.Context, lease Lease, entries ...Entry) error {
	if err := m.enter(ctx, "remove"); err != nil {
		return err
	}
	defer m.store.mu.Unlock()
	for _, e := range entries {
		for _, p := range e.places() {
			m.store.remove(p)
		}
	}
	return nil
}

// remove takes away what lies at p, if anything.
func (s *memoryStore) remove(p place) {
	there := s.topics[p.topic]
	v, ok := there[p.id]
	if !ok {
		return
	}
	delete(there, p.id)
	if l := s.known(v.lease); l != nil {
		delete(l.places, p)
	}
	if len(there) == 0 {
		delete(s.topics, p.topic)
		if p.user {
			s.gone[v.session.User] = s.now()
		}
	}
}

// Sessions implements [Registry.Sessions].
func (m *MemoryRegistry) Sessions(ctx context.Context, lease Lease, topics ...string) ([][]Session, error) {
	if err := m.enterHeld(ctx, "sessions", lease); err != nil {
		return nil, err
	}
	defer m.store.mu.Unlock()
	now := m.store.now()
	all := make([][]Session, len(topics))
	for i, topic := range topics {
		for _, v := range m.store.topics[topic] {
			if m.store.live(v.lease, now) {
				all[i] = append(all[i], cloneSession(v.session))
			}
		}
		slices.SortFunc(all[i], compareSessions)
	}
	return all, nil
}

// Online implements [Registry.Online].
func (m *MemoryRegistry) Online(ctx context.Context, lease Lease, topics ...string) ([]bool, error) {
	if err := m.enterHeld(ctx, "online", lease); err != nil {
		return nil, err
	}
	defer m.store.mu.Unlock()
	now := m.store.now()
	online := make([]bool, len(topics))
	for i, topic := range topics {
		for _, v := range m.store.topics[topic] {
			online[i] = online[i] || m.store.live(v.lease, now)
		}
	}
	return online, nil
}

// enterHeld is enter for what needs a lease that has not run out. The zero
// Lease needs none.
func (m *MemoryRegistry) enterHeld(ctx context.Context, what string, lease Lease) error {
	if err := m.enter(ctx, what); err != nil {
		return err
	}
	if lease != (Lease{}) && !m.store.live(lease, m.store.now()) {
		m.store.mu.Unlock()
		return fmt.Errorf("memory registry: %s: %w", what, ErrLeaseLost)
	}
	return nil
}

// Check implements [Registry.Check]: nothing gets lost in memory.
func (m *MemoryRegistry) Check(ctx context.Context, lease Lease, entries ...Entry) ([]Entry, error) {
	if err := m.enter(ctx, "check"); err != nil {
		return nil, err
	}
	defer m.store.mu.Unlock()
	if m.store.current(lease) == nil {
		return nil, fmt.Errorf("memory registry: check: %w", ErrLeaseLost)
	}
	lost := make(map[int][]place)
	for i, e := range entries {
		for _, p := range e.places() {
			if v, ok := m.store.topics[p.topic][p.id]; !ok || v.lease != lease {
				lost[i] = append(lost[i], p)
			}
		}
	}
	return lostEntries(entries, lost), nil
}

// Entries implements [Registry.Entries], in one page.
func (m *MemoryRegistry) Entries(ctx context.Context, lease Lease, cursor string) ([]Entry, string, error) {
	if err := m.enter(ctx, "entries"); err != nil {
		return nil, "", err
	}
	defer m.store.mu.Unlock()
	l := m.store.known(lease)
	if l == nil {
		return nil, "", nil
	}
	byID := make(map[string]*Entry)
	for p := range l.places {
		v, ok := m.store.topics[p.topic][p.id]
		if !ok || v.lease != lease {
			continue
		}
		e := byID[p.id]
		if e == nil {
			e = &Entry{Session: cloneSession(v.session)}
			byID[p.id] = e
		}
		if p.user {
			e.UserTopic = p.topic
		} else {
			e.Topics = append(e.Topics, p.topic)
		}
	}
	var entries []Entry
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		entries = append(entries, *byID[id])
	}
	return entries, "", nil
}

// cloneSession returns a copy that shares nothing with s.
func cloneSession(s Session) Session {
	s.Meta = maps.Clone(s.Meta)
	return s
}
