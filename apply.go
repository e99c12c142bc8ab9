package herald

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/follow"
)

// An incomingCall is to be applied here. A node has asked for it, or a method of a Conn.
type incomingCall struct {
	call   call
	filter filter
	sender string // the node that asked
	id     uint64
	bytes  int   // how much memory it takes
	local  *Conn // the one that asked, if no node did
	done   chan error

	// Set while it is applied.

	conns   []*Conn // those that it is about
	problem error
}

// maxCalls and maxCallBytes bound the calls that wait to be applied. Calls beyond them
// are counted, but not answered: an answer to each would cost more.
const (
	maxCalls     = 1 << 16
	maxCallBytes = 64 << 20
	callSize     = 256 // bytes of memory that one takes besides its packet
	nameSize     = 24  // and those of each name
)

// push queues a call to be applied.
func (s *calls) push(in incomingCall) {
	s.mu.Lock()
	full := len(s.queue) >= maxCalls || s.bytes+in.bytes > maxCallBytes
	if !full {
		s.queue = append(s.queue, in)
		s.bytes += in.bytes
	}
	s.mu.Unlock()
	if full {
		s.stats.callsRefused.Add(1)
		if in.done != nil {
			in.done <- fmt.Errorf("%w: as many calls wait as may", ErrLimit)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// callBatch is the most calls that are applied in one go. maxChanges is the most
// memberships that one call may change on a node, and the most Conns that several names
// may have there, each counted once for every name.
const (
	callBatch  = 256
	maxChanges = 1 << 20
)

// run applies calls until ctx is done.
func (s *calls) run(ctx context.Context) {
	for {
		if batch := s.next(); len(batch) > 0 {
			s.apply(ctx, batch)
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the calls to apply in one go, and finds the Conns that they are about.
func (s *calls) next() (batch []incomingCall) {
	for changes := 0; len(batch) < callBatch && changes < maxChanges; {
		in, ok := s.pop()
		if !ok {
			break
		}
		in.conns, in.problem = s.concerned(in)
		if in.problem != nil {
			s.stats.callsRefused.Add(1)
		}
		changes += max(len(in.conns), 1) * max(len(in.call.groups), 1)
		batch = append(batch, in)
	}
	return batch
}

// pop takes the first call of the queue.
func (s *calls) pop() (in incomingCall, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		return in, false
	}
	in, s.queue[0] = s.queue[0], incomingCall{}
	s.queue = s.queue[1:]
	s.bytes -= in.bytes
	return in, true
}

// concerned returns the Conns of this node that the call is about, each once.
func (s *calls) concerned(in incomingCall) (conns []*Conn, err error) {
	if in.local != nil {
		return []*Conn{in.local}, nil
	}
	switch in.call.target {
	case targetConnection:
		for _, id := range in.call.ids {
			if c := s.index.withID(s.node, id); c != nil {
				conns = append(conns, c)
			}
		}
	case targetUser:
		conns, err = s.index.connsOf(in.call.ids, userTopic)
	case targetGroup:
		conns, err = s.index.connsOf(in.call.ids, groupTopic)
	case targetEveryone:
		conns = s.index.appendConns(conns, topicEveryone)
	}
	if len(in.call.ids) > 1 {
		slices.SortFunc(conns, func(a, b *Conn) int { return cmp.Compare(a.counter, b.counter) })
		conns = slices.Compact(conns)
	}
	sieve := newSieve(s.node, &in.filter)
	conns = slices.DeleteFunc(conns, func(c *Conn) bool { return !sieve.passes(c) })
	if n := len(in.call.groups); n > 1 && n*len(conns) > maxChanges {
		err = fmt.Errorf("%w: %d connections and %d groups: must be at most %d memberships of a node in one call", ErrLimit, len(conns), n, maxChanges)
	}
	if err != nil {
		return nil, err
	}
	return conns, nil
}

// connsOf returns the Conns of several topics. One that belongs to many comes as often.
func (x *index) connsOf(names []string, topic func(string) string) (conns []*Conn, err error) {
	for i, name := range names {
		conns = x.appendConns(conns, topic(name))
		if i > 0 && len(conns) > maxChanges {
			return nil, fmt.Errorf("%w: target: its connections, as often as it names them: must be at most %d of a node in one call", ErrLimit, maxChanges)
		}
	}
	return conns, nil
}

// apply applies calls in their order: first the groups of all that join are
// followed, then the index is changed, then the Registry; then the answers go
// out together.
func (s *calls) apply(ctx context.Context, batch []incomingCall) {
	ctx, cancel := s.config.timeout(ctx)
	defer cancel()
	waits := make([]*follow.Wait, len(batch))
	for i, in := range batch {
		if in.call.op == opJoin && len(in.conns) > 0 {
			waits[i] = s.follower.Follow(groupTopics(in.call.groups)...)
		}
	}
	problems := make([]error, len(batch))
	for i, in := range batch {
		if problems[i] = in.problem; waits[i] != nil {
			problems[i] = waits[i].Wait(ctx)
		}
	}
	disconnects := slices.ContainsFunc(batch, func(in incomingCall) bool { return in.call.op == opDisconnect })
	if disconnects { // after it each Since that was under way is known
		s.presence.barrier(ctx)
	}
	failures := s.presence.failures.Load()
	done := make([]chan presenceResult, len(batch))
	asked := make([]int, len(batch))
	for i, in := range batch {
		done[i] = make(chan presenceResult, len(in.conns))
		if problems[i] == nil {
			asked[i], problems[i] = s.applyOne(ctx, in.call, in.conns, done[i])
		}
		if waits[i] != nil {
			s.follower.Unfollow(groupTopics(in.call.groups)...)
		}
	}
	if disconnects {
		err := s.presence.barrier(ctx)
		if err == nil && s.presence.failures.Load() != failures {
			err = fmt.Errorf("%w: closed, and may be listed for a while", ErrRegistryDown)
		}
		for i, in := range batch {
			if in.call.op == opDisconnect && in.problem == nil {
				problems[i] = err
			}
		}
	}
	for i := range batch {
		for range asked[i] {
			select {
			case r := <-done[i]:
				if r.err != nil {
					problems[i] = r.err
				}
			case <-ctx.Done():
				problems[i] = context.Cause(ctx)
			}
		}
	}
	s.answer(ctx, batch, problems)
}

func (s *calls) answer(ctx context.Context, batch []incomingCall, problems []error) {
	var packets []Packet
	for i, in := range batch {
		if in.local != nil {
			in.done <- problems[i]
			continue
		}
		e := envelope{kind: kindAnswer, sender: s.node, id: in.id}
		if problems[i] != nil {
			text := problems[i].Error()
			e.err = text[:min(len(text), maxAnswer)]
		}
		packets = append(packets, Packet{nodeTopic(in.sender), e.encode()})
	}
	if len(packets) > 0 {
		// If this fails the asker gets no answer, and reports that.
		s.publish(ctx, packets...)
	}
}

// applyOne changes the Conns. It returns how many answers of the Registry will come, and
// why a Conn could not be changed.
func (s *calls) applyOne(ctx context.Context, what call, conns []*Conn, done chan presenceResult) (asked int, problem error) {
	for _, c := range conns {
		var changed []string
		switch what.op {
		case opJoin:
			// Follow comes first: if c ends meanwhile, it unfollows what it has joined.
			topics := groupTopics(what.groups)
			s.follower.Follow(topics...)
			joined, err := s.index.joinGroups(c, what.groups, s.config.MaxGroups)
			if err != nil {
				s.stats.refusedJoins.Add(1)
				problem = err
			}
			s.follower.Unfollow(without(topics, joined)...)
			if l := c.queue.log; l != nil && len(joined) > 0 && problem == nil {
				problem = l.join(ctx, joined)
			}
			if len(joined) > 0 && s.presence.join(c, joined, done) {
				asked++
			}
		case opLeave:
			for _, g := range what.groups {
				if s.index.leaveGroup(c, g) {
					s.follower.Unfollow(groupTopic(g))
					changed = append(changed, groupTopic(g))
				}
			}
			if len(changed) > 0 && s.presence.leave(c, changed, done) {
				asked++
			}
		case opDisconnect:
			// A Conn that came after the call, or is still coming, is spared.
			since := c.since.Load()
			if what.target == targetConnection || since != 0 && since <= what.before {
				c.shut(&CloseError{Code: what.code, Reason: what.reason})
			}
		}
	}
	return asked, problem
}

// without takes some out of the topics, each once: a topic that is there twice stays.
func without(topics, some []string) []string {
	if len(some) == len(topics) {
		return nil
	}
	taken := make(map[string]bool, len(some))
	for _, t := range some {
		taken[t] = true
	}
	return slices.DeleteFunc(topics, func(t string) bool {
		take := taken[t]
		delete(taken, t)
		return take
	})
}
