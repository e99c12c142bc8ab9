package herald

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/heraldgo/herald/internal/follow"
)

// calls are Join, Leave and Disconnect on their way: those this node has
// asked of others and waits for, and those it has been asked and applies, one
// after the other, off the receiving goroutine.
type calls struct {
	hub *Hub

	nextID atomic.Uint64

	mu      sync.Mutex
	pending map[uint64]*pendingCall
	queue   []incomingCall
	bytes   int // the memory of those in queue

	wake chan struct{} // holds one
}

// A pendingCall waits for the answers of nodes. Guarded by calls.mu.
type pendingCall struct {
	missing map[string]bool
	failed  []string // nodes that answered with an error
	err     error    // what one of them answered
	done    chan struct{}
}

// An incomingCall is to be applied here: asked by a node, or by a Conn's own
// method.
type incomingCall struct {
	call   call
	filter filter
	sender string // the node that asked
	id     uint64
	bytes  int   // how much memory it takes
	local  *Conn // that asked, if no node did
	done   chan error

	// Of one that is being applied.

	conns   []*Conn // that it is about
	problem error
}

// maxCalls and maxCallBytes bound the calls that wait to be applied. Those over
// them are counted, and not answered: an answer to each would cost more.
const (
	maxCalls     = 1 << 16
	maxCallBytes = 64 << 20
	callSize     = 256 // bytes of memory of one beside its packet's
	nameSize     = 24  // and of each name
)

func newCalls(h *Hub) *calls {
	return &calls{hub: h, pending: make(map[uint64]*pendingCall), wake: make(chan struct{}, 1)}
}

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
		s.hub.stats.callsRefused.Add(1)
		if in.done != nil {
			in.done <- fmt.Errorf("%w: as many calls wait as may", ErrLimit)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// answered takes a node's answer.
func (s *calls) answered(id uint64, node, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pending[id]; p != nil && p.missing[node] && problem != "" {
		p.failed = append(p.failed, node)
		p.err = fmt.Errorf("node %s: %w", node, problemError(problem))
	}
	s.settle(s.pending[id], node)
}

// problemError makes an error again of what a node answered. That a limit was
// reached is told over nodes too.
func problemError(problem string) error {
	if rest, ok := strings.CutPrefix(problem, ErrLimit.Error()); ok {
		return fmt.Errorf("%w%s", ErrLimit, rest)
	}
	return errors.New(problem)
}

// left waits no longer for a node that has said goodbye: its connections have
// gone.
func (s *calls) left(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		s.settle(p, node)
	}
}

// settle says that the call, which may be nil, need not wait for the node.
func (s *calls) settle(p *pendingCall, node string) {
	if p == nil || !p.missing[node] {
		return
	}
	if delete(p.missing, node); len(p.missing) == 0 {
		close(p.done)
	}
}

// call asks every node that the call concerns, and waits for their answers.
func (h *Hub) call(ctx context.Context, t Target, c call) error {
	ctx, cancel := h.timeout(ctx)
	defer cancel()
	_, now, err := h.listNodes(ctx)
	if err != nil {
		return err
	}
	if c.op == opDisconnect {
		c.before = now.UnixMicro()
	}
	asked := h.asked(t)
	if len(asked) == 0 {
		return nil
	}
	c.target, c.ids = t.kind, t.ids
	p := &pendingCall{missing: asked, done: make(chan struct{})}
	e := envelope{kind: kindCall, sender: h.id, id: h.calls.nextID.Add(1), filter: t.filter(), call: c}
	data := e.encode()
	packets := make([]Packet, 0, len(asked))
	for node := range asked {
		packets = append(packets, Packet{nodeTopic(node), data})
	}
	if h.excuse(ctx, t, asked); len(asked) == 0 {
		close(p.done)
	}
	s := h.calls
	s.mu.Lock()
	s.pending[e.id] = p
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending, e.id)
		s.mu.Unlock()
	}()
	if err := h.publish(ctx, packets...); err != nil {
		return err
	}
	var timedOut error
	select {
	case <-p.done:
	case <-ctx.Done():
		timedOut = context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := append(slices.Sorted(maps.Keys(p.missing)), p.failed...)
	if len(missing) == 0 {
		return nil
	}
	if p.err == nil {
		p.err = timedOut
	}
	return &PartialError{Missing: missing, Err: p.err}
}

// asked returns the nodes that a call about the target concerns: all that live,
// listed or not. Connections of others have gone.
func (h *Hub) asked(t Target) map[string]bool {
	asked := h.heartbeat.living()
	if t.kind == targetConnection {
		holders := make(map[string]bool)
		for _, id := range t.ids {
			node, _ := cutID(id)
			holders[node] = true
		}
		maps.DeleteFunc(asked, func(node string, _ bool) bool { return !holders[node] })
	}
	return asked
}

// callLocal applies a call to one Conn of this node, and waits.
func (h *Hub) callLocal(ctx context.Context, c *Conn, what call) error {
	if err := checkGroups(what.groups); err != nil {
		return err
	}
	if len(what.groups) == 0 {
		return nil
	}
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	ctx, cancel := h.timeout(ctx)
	defer cancel()
	done := make(chan error, 1)
	h.calls.push(incomingCall{call: what, local: c, done: done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-h.stopped:
		return ErrClosed
	}
}

func checkGroups(groups []string) error {
	for _, g := range groups {
		if g == "" {
			return fmt.Errorf("%w: group: name must not be empty", ErrInvalid)
		}
		if len(g) > maxGroupName {
			return fmt.Errorf("%w: group: name of %d bytes: must be at most %d", ErrInvalid, len(g), maxGroupName)
		}
	}
	return nil
}

// callBatch is the most calls that are applied in one go, and maxChanges the
// most memberships that one call may change on a node, or Conns that it may name
// more than once.
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

// next takes the calls that are applied in one go, and looks whom they are about.
func (s *calls) next() (batch []incomingCall) {
	for changes := 0; len(batch) < callBatch && changes < maxChanges; {
		in, ok := s.pop()
		if !ok {
			break
		}
		in.conns, in.problem = s.hub.concerned(in)
		if in.problem != nil {
			s.hub.stats.callsRefused.Add(1)
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

// apply applies calls in their order: first the groups of all that join are
// followed, then the index is changed, then the Registry; then the answers go
// out together.
func (s *calls) apply(ctx context.Context, batch []incomingCall) {
	h := s.hub
	ctx, cancel := h.timeout(ctx)
	defer cancel()
	waits := make([]*follow.Wait, len(batch))
	for i, in := range batch {
		if in.call.op == opJoin && len(in.conns) > 0 {
			waits[i] = h.follower.Follow(groupTopics(in.call.groups)...)
		}
	}
	problems := make([]error, len(batch))
	for i, in := range batch {
		if problems[i] = in.problem; waits[i] != nil {
			problems[i] = waits[i].Wait(ctx)
		}
	}
	disconnects := slices.ContainsFunc(batch, func(in incomingCall) bool { return in.call.op == opDisconnect })
	if disconnects { // those whose Since is under way are known after it
		h.presence.barrier(ctx)
	}
	failures := h.presence.failures.Load()
	done := make([]chan presenceResult, len(batch))
	asked := make([]int, len(batch))
	for i, in := range batch {
		done[i] = make(chan presenceResult, len(in.conns))
		if problems[i] == nil {
			asked[i], problems[i] = h.applyOne(in.call, in.conns, done[i])
		}
		if waits[i] != nil {
			h.follower.Unfollow(groupTopics(in.call.groups)...)
		}
	}
	if disconnects {
		err := h.presence.barrier(ctx)
		if err == nil && h.presence.failures.Load() != failures {
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
		e := envelope{kind: kindAnswer, sender: s.hub.id, id: in.id}
		if problems[i] != nil {
			text := problems[i].Error()
			e.err = text[:min(len(text), maxAnswer)]
		}
		packets = append(packets, Packet{nodeTopic(in.sender), e.encode()})
	}
	if len(packets) > 0 {
		// If this fails the asker gets no answer, and reports that.
		s.hub.publish(ctx, packets...)
	}
}

func groupTopics(groups []string) []string {
	topics := make([]string, len(groups))
	for i, g := range groups {
		topics[i] = groupTopic(g)
	}
	return topics
}

// applyOne changes the Conns, and returns how many answers of the Registry
// will come, and why one of the Conns could not be changed.
func (h *Hub) applyOne(what call, conns []*Conn, done chan presenceResult) (asked int, problem error) {
	for _, c := range conns {
		var changed []string
		switch what.op {
		case opJoin:
			joined, err := h.index.joinGroups(c, what.groups, h.config.MaxGroups)
			if err != nil {
				h.stats.refusedJoins.Add(1)
				problem = err
			}
			h.follower.Follow(joined...)
			if len(joined) > 0 && h.presence.join(c, joined, false, done) {
				asked++
			}
		case opLeave:
			for _, g := range what.groups {
				if h.index.leaveGroup(c, g) {
					h.follower.Unfollow(groupTopic(g))
					changed = append(changed, groupTopic(g))
				}
			}
			if len(changed) > 0 {
				h.presence.remove(c.entry(changed), done)
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
