package herald

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/watching"
)

// Online says which of the users have a live connection, on any node. The map has an
// entry for each. If the Registry has lost the sessions of a living node, for instance
// because Redis has restarted empty, Online, Sessions, Count and Nodes return
// ErrRegistryDown until the nodes have put them back. That takes about a second from when
// they reach the Registry again.
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

// Presence is who has come to a group and who has left it, oldest first.
type Presence struct {
	Joined, Left []Session
}

// Watch tells who is in a group, on any node, and then who comes and goes, without
// polling. The first Presence has all who are there as Joined; if nobody is, it is
// empty. Each later one has what has changed since: nobody joins twice, or leaves
// without having joined. A slow loop is told late, but never wrong. It never hears of
// somebody who joins and leaves while its body runs, or leaves and comes back, so it
// costs no more memory than two lists.
//
// A Presence comes a moment after the Registry has changed. After a fault it may be
// late by two Leases. The Hub asks for the list again once in a Lease, and sooner if
// it sees that a change was lost or that the Bus had a gap. While the Bus or the
// Registry is down, nothing is told, and nobody seems to leave.
//
// The loop ends when ctx is done, with its error; with ErrClosed when the Hub is shut
// down; and with ErrBusDown or ErrRegistryDown if the first list cannot be had.
// ErrInvalid says that group is no name of a group, or that Config.Registry is no
// [WatchRegistry]. However often a node watches a group, it costs the Registry no more
// than once.
func (h *Hub) Watch(ctx context.Context, group string) iter.Seq2[Presence, error] {
	return func(yield func(Presence, error) bool) {
		first := true
		for p, err := range h.looks(ctx, group) {
			if (first || err != nil || !p.empty()) && !yield(p, err) {
				return
			}
			first = false
		}
	}
}

func (p Presence) empty() bool { return len(p.Joined)+len(p.Left) == 0 }

// looks is Watch with more rounds: one after each list, and one if what has changed was
// undone.
func (h *Hub) looks(ctx context.Context, group string) iter.Seq2[Presence, error] {
	return func(yield func(Presence, error) bool) {
		w, err := h.watch(group)
		if err == nil {
			defer w.Close()
		}
		for err == nil {
			var came, left []watching.Session
			if came, left, err = w.Next(ctx); err == nil && !yield(Presence{sessionsOf(came), sessionsOf(left)}, nil) {
				return
			}
		}
		yield(Presence{}, once(fmt.Errorf("watch a group: %w", err)))
	}
}

// watch begins to watch a group.
func (h *Hub) watch(group string) (*watching.Watcher, error) {
	if err := checkGroups([]string{group}); err != nil {
		return nil, err
	}
	if err := h.presence.reg.watchable(); err != nil {
		return nil, err
	}
	return h.watching.Watch(groupTopic(group))
}

// newWatching makes the Room that watches groups, and the Outbox that tells the watchers.
func (h *Hub) newWatching() (*watching.Room, *watching.Outbox) {
	room := watching.NewRoom(watching.Config{
		Follow:   func(topic string) { h.follower.Follow(watchTopic(topic)) },
		Unfollow: func(topic string) { h.follower.Unfollow(watchTopic(topic)) },
		List:     h.listWatched,
		Every:    h.config.Lease,
	})
	return room, watching.NewOutbox(func(ctx context.Context, topic string, data []byte) error {
		ctx, cancel := h.config.timeout(ctx)
		defer cancel()
		return h.bus.Publish(ctx, Packet{watchTopic(topic), data})
	})
}

// listWatched lists a topic, once its changes are heard here.
func (h *Hub) listWatched(ctx context.Context, topic string) (number int64, sessions []watching.Session, err error) {
	ctx, cancel := h.config.timeout(ctx)
	defer cancel()
	heard := h.follower.Follow(watchTopic(topic))
	defer h.follower.Unfollow(watchTopic(topic))
	if err := heard.Wait(ctx); err != nil {
		return 0, nil, blame(ErrBusDown, err)
	}
	err = h.ask(ctx, "list sessions", func(lease Lease) error {
		all, err := h.presence.reg.Watch(ctx, lease, 3*h.config.Lease, topic)
		if err == nil {
			number = all[0].Number
			for _, s := range all[0].Sessions {
				sessions = append(sessions, encodeSession(s))
			}
		}
		return err
	})
	return number, sessions, err
}

// TellMembers tells the group's members on this node who is in it: each gets the
// message that encode makes of all who are there when it has joined, and then the
// messages of what has changed since. A member that leaves and comes back gets the
// message of all again, unless it has missed nothing. TellMembers returns when ctx is
// done, or as the loop over Watch ends. Each node has to call it, once for a group, or
// its members are not told. The goroutine that calls TellMembers also calls encode.
func (h *Hub) TellMembers(ctx context.Context, group string, encode func(Presence) Message) error {
	there := make(map[string]Session)
	told := make(map[*Conn]bool)
	var conns []*Conn
	// A member that was away for a moment may have missed a change, while nobody is told
	// that it was away. So it gets the message of all in any round, also in an empty one.
	for p, err := range h.looks(ctx, group) {
		if err != nil {
			return err
		}
		for _, s := range p.Left {
			delete(there, s.ID)
		}
		for _, s := range p.Joined {
			there[s.ID] = s
		}
		before := told
		told = make(map[*Conn]bool)
		var all, news *Message
		conns = h.index.appendConns(conns[:0], groupTopic(group))
		for _, c := range conns {
			told[c] = true
			message, what := &news, p
			switch {
			case !before[c]:
				message, what = &all, Presence{Joined: slices.SortedFunc(maps.Values(there), compareSessions)}
			case p.empty():
				continue
			}
			if *message == nil {
				m := encode(what)
				*message = &m
			}
			c.Send(**message) // one that is full or has gone needs no news
		}
	}
	return nil
}

// Conns iterates over the connections of this node that OnConnect has let in,
// in no order, as they are when the iteration begins.
func (h *Hub) Conns() iter.Seq[*Conn] {
	return func(yield func(*Conn) bool) {
		for _, c := range h.index.appendConns(nil, topicEveryone) {
			if c.isAccepted() && !yield(c) {
				return
			}
		}
	}
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
	if _, _, err := h.presence.listNodes(ctx); err != nil {
		return nil, err
	}
	nodes, err := h.presence.lastListing()
	if err != nil {
		return nil, once(err)
	}
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return !n.Alive })
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

// Stats returns a snapshot of the Hub's counters. Each is right; together
// they are of slightly different moments.
func (h *Hub) Stats() Stats {
	c := &h.stats
	s := Stats{
		Accepted:         c.accepted.Load(),
		Rejected:         c.rejected.Load(),
		BadRequests:      c.badRequests.Load(),
		AddrLimited:      c.addrLimited.Load(),
		UserLimited:      c.userLimited.Load(),
		Crowded:          c.crowded.Load(),
		Disconnected:     c.disconnected.Load(),
		TooSlow:          c.tooSlow.Load(),
		Silent:           c.silent.Load(),
		Overran:          c.overran.Load(),
		Panics:           c.panics.Load(),
		LogsLeftOut:      c.logsLeftOut.Load(),
		BadIdentities:    c.badIdentities.Load(),
		OverBudget:       c.overBudget.Load(),
		TooFast:          c.tooFast.Load(),
		RefusedJoins:     c.refusedJoins.Load(),
		Sent:             c.sent.Load(),
		SendErrors:       c.sendErrors.Load(),
		Received:         c.received.Load(),
		Foreign:          c.foreign.Load(),
		Lingering:        c.lingering.Load(),
		Gone:             c.gone.Load(),
		Malformed:        c.malformed.Load(),
		Delivered:        c.delivered.Load(),
		Written:          c.written.Load() + h.writers.written(),
		DroppedFull:      c.droppedFull.Load(),
		DroppedBudget:    c.droppedBudget.Load(),
		DroppedClosed:    c.droppedClosed.Load(),
		CallsRefused:     c.callsRefused.Load(),
		Strangers:        c.strangers.Load(),
		DroppedVolatile:  c.droppedVolatile.Load(),
		Conflated:        c.conflated.Load(),
		MessagesReceived: c.messagesReceived.Load(),
		Forbidden:        c.forbidden.Load(),
		Unauthorized:     c.unauthorized.Load(),
		NotReady:         c.notReady.Load(),
		Denied:           c.denied.Load(),
		Closed:           c.closedByCode(),
		ClosedByClient:   c.closedByClient.Load(),
		Lost:             c.lost.Load(),
		BytesReceived:    c.bytesReceived.Load(),
		BytesWritten:     c.bytesWritten.Load() + h.writers.bytesWritten(),
		RegistryCalls:    newHistogram(c.registryCalls.Counts()),
		RegistryErrors:   c.registryErrors.Load(),
		BusRoundTrips:    newHistogram(c.busRoundTrips.Counts()),
		Lag:              newHistogram(c.lag.Counts()),
		Resumes:          c.resumes.Load(),
		ResumesWhole:     c.resumesWhole.Load(),
		ResumesInPart:    c.resumesInPart.Load(),
		Callbacks:        h.callbackStats(),
		Mended:           c.mended.Load(),
		Unreadable:       unreadable(h.registry),
		Gaps:             c.gaps.Load(),
		GapFor:           time.Duration(c.gapFor.Load()),
		Resets:           c.resets.Load(),

		DeliveriesReceived: c.deliveriesReceived.Load(),
		DeliveriesMissed:   c.deliveriesMissed.Load(),
	}
	s.TooSlow += s.OverBudget
	s.Dropped = s.DroppedFull + s.DroppedBudget + s.DroppedClosed
	s.Conns, s.Users, s.Topics = h.index.size()
	s.Handshakes = h.door.handshakes()
	s.Refused = int(min(h.refused.Load(), maxRefused)) // one that is turned away is counted for a moment
	s.OpenGaps, s.OpenGapFor = h.gaps.openNow()
	s.BusRoundTrip, s.ProofAge = h.heartbeat.proof()
	s.RegistryRoundTrip = time.Duration(c.registryRoundTrip.Load())
	s.LeaseAge = since(h.presence.renewed.Load())
	for conn := range h.Conns() {
		cs := conn.Stats()
		s.Queued += cs.Queued
		s.QueuedBytes += int64(cs.QueuedBytes)
		s.LongestQueue = max(s.LongestQueue, cs.Queued)
		s.LongestWrite = max(s.LongestWrite, cs.WritingFor)
		s.OldestQueued = max(s.OldestQueued, cs.Oldest)
	}
	return s
}

func (h *Hub) callbackStats() map[string]CallbackStats {
	stats := make(map[string]CallbackStats)
	for name, took := range h.callbacks.Totals() {
		stats[name] = CallbackStats{Calls: newHistogram(took)}
	}
	for _, r := range h.callbacks.Running() {
		s := stats[r.Name]
		s.Running++
		s.Longest = max(s.Longest, r.For)
		stats[r.Name] = s
	}
	return stats
}

// Stats returns a snapshot of the connection.
func (c *Conn) Stats() ConnStats {
	c.mu.Lock()
	q := &c.queue
	s := ConnStats{
		Queued: q.size(), QueuedBytes: q.bytes, WritingFor: since(q.trying), Oldest: q.oldest(), LastWrite: wallTime(q.wrote),
		Dropped: int(q.dropped), Unconfirmed: q.fences.Len(),
	}
	c.mu.Unlock()
	s.LastRead = wallTime(c.socket.lastRead.Load())
	return s
}

// ask makes a call to the Registry that needs the node's lease, unless the Hub has been
// shut down or the Registry cannot be believed.
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
