package herald

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// KeepAlive implements [Registry.KeepAlive].
func (m *MemoryRegistry) KeepAlive(ctx context.Context, node Node, ttl time.Duration) (int64, error) {
	if err := m.enter(ctx, "keep alive"); err != nil {
		return 0, err
	}
	s := m.store
	defer s.mu.Unlock()
	now := s.now()
	l := s.leases[node.ID]
	switch {
	case node.Generation == 0:
		if l != nil {
			s.dying[l.node.Lease()] = l
		}
		s.generation = max(now, s.generation+1)
		node.Generation = s.generation
		l = &memoryLease{places: make(map[place]struct{})}
		s.leases[node.ID] = l
	case l == nil || l.node.Generation != node.Generation:
		return 0, fmt.Errorf("memory registry: keep alive: %w", ErrLeaseLost)
	}
	l.node = node
	l.node.Renewed, l.node.TTL = time.UnixMicro(now), ttl.Truncate(time.Microsecond)
	return node.Generation, nil
}

// Release implements [Registry.Release].
func (m *MemoryRegistry) Release(ctx context.Context, lease Lease) error {
	if err := m.enter(ctx, "release"); err != nil {
		return err
	}
	s := m.store
	defer s.mu.Unlock()
	if l := s.current(lease); l != nil {
		delete(s.leases, lease.Node)
		s.dying[lease] = l
	}
	if l := s.dying[lease]; l != nil && len(l.places) == 0 {
		delete(s.dying, lease)
	}
	return nil
}

// Nodes implements [Registry.Nodes].
func (m *MemoryRegistry) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	if err := m.enter(ctx, "nodes"); err != nil {
		return nil, time.Time{}, err
	}
	s := m.store
	defer s.mu.Unlock()
	now := s.now()
	var nodes []Node
	for _, l := range s.leases {
		n := l.node
		n.Alive = s.live(n.Lease(), now)
		nodes = append(nodes, n)
	}
	for _, l := range s.dying {
		n := l.node
		n.Alive = false
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, compareNodes)
	return nodes, time.UnixMicro(max(now, s.clock)), nil
}

// Sweep implements [Registry.Sweep].
func (m *MemoryRegistry) Sweep(ctx context.Context, lease Lease) error {
	if err := m.enter(ctx, "sweep"); err != nil {
		return err
	}
	s := m.store
	defer s.mu.Unlock()
	l := s.dying[lease]
	if current := s.current(lease); current != nil && !s.live(lease, s.now()) {
		delete(s.leases, lease.Node)
		l = current
	}
	if l == nil {
		return nil
	}
	for p := range l.places {
		if s.topics[p.topic][p.id].lease == lease {
			s.remove(p)
		}
	}
	delete(s.dying, lease)
	return nil
}

// Offline implements [Registry.Offline].
func (m *MemoryRegistry) Offline(ctx context.Context, delay time.Duration) ([]string, error) {
	if err := m.enter(ctx, "offline"); err != nil {
		return nil, err
	}
	s := m.store
	defer s.mu.Unlock()
	due := s.now() - delay.Microseconds()
	var users []string
	for user, since := range s.gone {
		if since <= due {
			users = append(users, user)
			delete(s.gone, user)
		}
	}
	return users, nil
}
