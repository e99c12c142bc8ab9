package herald

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Online says which of the users have a live connection, on any node. The map
// has an entry for each. If the Registry has lost the sessions of a living
// node, as a Redis has that restarts empty, Online, Sessions, Count and Nodes
// return ErrRegistryDown until the nodes have put them back. That takes about a
// second from when they reach the Registry again.
func (h *Hub) Online(ctx context.Context, users ...string) (map[string]bool, error) {
	if slices.Contains(users, "") {
		return nil, fmt.Errorf("%w: Online: a user's id must not be empty", ErrInvalid)
	}
	ctx, cancel := h.config.timeout(ctx)
	defer cancel()
	online := make(map[string]bool, len(users))
	if len(users) == 0 {
		return online, nil
	}
	topics := make([]string, len(users))
	for i, u := range users {
		topics[i] = userTopic(u)
	}
	var found []bool
	err := h.ask(ctx, "ask who is online", func(lease Lease) (err error) {
		found, err = h.presence.reg.Online(ctx, lease, topics...)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, u := range users {
		online[u] = found[i]
	}
	return online, nil
}

// Sessions lists the sessions of the target, on any node, each once, oldest
// first. The target comes from User or Group.
func (h *Hub) Sessions(ctx context.Context, t Target) ([]Session, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if t.kind != targetUser && t.kind != targetGroup {
		return nil, fmt.Errorf("%w: target of Sessions: must come from User or Group", ErrInvalid)
	}
	ctx, cancel := h.config.timeout(ctx)
	defer cancel()
	if t.nobody() {
		return nil, nil
	}
	found, err := h.listSessions(ctx, t.topics())
	if err != nil {
		return nil, err
	}
	sessions := slices.Concat(found...)
	slices.SortFunc(sessions, compareSessions)
	sessions = slices.CompactFunc(sessions, func(a, b Session) bool { return a.ID == b.ID })
	f := t.filter()
	return slices.DeleteFunc(sessions, func(s Session) bool { return !f.passesSession(s) }), nil
}

// Count returns the number of connections of all nodes. Each node tells the
// Registry its number, about a second after it has changed.
func (h *Hub) Count(ctx context.Context) (int, error) {
	nodes, err := h.Nodes(ctx)
	count := 0
	for _, n := range nodes {
		count += n.Conns
	}
	return count, err
}

// Nodes lists the nodes that live, by id.
func (h *Hub) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := h.config.timeout(ctx)
	defer cancel()
	if isClosed(h.stopped) {
		return nil, ErrClosed
	}
	nodes, _, err := h.presence.listNodes(ctx)
	if err == nil {
		err = once(h.presence.missing())
	}
	if err != nil {
		return nil, err
	}
	nodes = slices.DeleteFunc(nodes, func(n Node) bool { return !n.Alive })
	slices.SortFunc(nodes, compareNodes)
	return nodes, nil
}

func (h *Hub) listSessions(ctx context.Context, topics []string) (sessions [][]Session, err error) {
	err = h.ask(ctx, "list sessions", func(lease Lease) error {
		sessions, err = h.presence.reg.Sessions(ctx, lease, topics...)
		return err
	})
	return sessions, err
}

// ask asks the Registry by a call that needs the node's lease, unless the Hub
// has been shut down or the Registry is not to be believed.
func (h *Hub) ask(ctx context.Context, what string, call func(Lease) error) error {
	if isClosed(h.stopped) {
		return ErrClosed
	}
	lease := h.presence.current()
	err := h.presence.complete(ctx)
	if err == nil {
		err = call(lease)
	}
	if errors.Is(err, ErrLeaseLost) {
		h.presence.lose(lease.Generation)
		err = fmt.Errorf("%w: %w", ErrRegistryDown, err)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return once(err)
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

var errSendTimeout = fmt.Errorf("SendTimeout: %w", context.DeadlineExceeded)

// timeout bounds a call by SendTimeout.
func (c *Config) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.SendTimeout, errSendTimeout)
}
