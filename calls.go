package herald

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/heraldgo/herald/internal/follow"
	"github.com/heraldgo/herald/internal/wire"
)

// calls are Joins, Leaves and Disconnects under way: those that this node has asked of
// others, and waits for, and those that it was asked for, and applies in order, outside
// the receiving goroutine.
type calls struct {
	node     string // this one
	config   *Config
	index    *index
	follower *follow.Follower
	presence *presence
	publish  func(context.Context, ...Packet) error // Hub.publish
	stopped  <-chan struct{}                        // closed when no more calls are applied
	stats    *counters

	nextID atomic.Uint64

	mu      sync.Mutex
	pending map[uint64]*pendingCall
	queue   []incomingCall
	bytes   int // the memory of the calls in queue

	wake chan struct{} // for run
}

// A pendingCall waits for the answers of nodes. Guarded by calls.mu.
type pendingCall struct {
	missing map[string]bool // nodes that have not answered
	failed  []string        // nodes that answered with an error
	err     error           // what one of them answered
	done    chan struct{}
}

func newCalls(node string, config *Config, index *index, follower *follow.Follower, presence *presence, publish func(context.Context, ...Packet) error, stopped <-chan struct{}, stats *counters) *calls {
	return &calls{
		node: node, config: config, index: index, follower: follower, presence: presence, publish: publish, stopped: stopped, stats: stats,
		pending: make(map[uint64]*pendingCall), wake: make(chan struct{}, 1),
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

// problemError turns what a node answered into an error again. It keeps ErrLimit.
func problemError(problem string) error {
	if rest, ok := strings.CutPrefix(problem, ErrLimit.Error()); ok {
		return fmt.Errorf("%w%s", ErrLimit, rest)
	}
	return errors.New(problem)
}

// left stops waiting for a node that has said goodbye: its connections are gone.
func (s *calls) left(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		s.settle(p, node)
	}
}

// excuseLeft does so for the nodes that said goodbye before the call was pending.
func (s *calls) excuseLeft(p *pendingCall) {
	living := s.presence.heartbeat.living()
	s.mu.Lock()
	defer s.mu.Unlock()
	for node := range p.missing {
		if !living[node] {
			s.settle(p, node)
		}
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

// ask asks every node that the call concerns, and waits for their answers.
func (s *calls) ask(ctx context.Context, t Target, c call) error {
	ctx, release := c.outlive(ctx)
	defer release()
	ctx, cancel := s.config.timeout(ctx)
	defer cancel()
	if isClosed(s.stopped) {
		return ErrClosed
	}
	_, now, err := s.presence.listNodes(ctx)
	if err != nil {
		return err
	}
	if c.op == opDisconnect {
		c.before = now.UnixMicro()
	}
	asked := s.asked(t)
	if len(asked) == 0 {
		return nil
	}
	c.target, c.ids = t.kind, t.ids
	p := &pendingCall{missing: asked, done: make(chan struct{})}
	e := envelope{kind: kindCall, sender: s.node, id: s.nextID.Add(1), filter: t.filter(), call: c}
	data := e.encode()
	packets := make([]Packet, 0, len(asked))
	for node := range asked {
		packets = append(packets, Packet{nodeTopic(node), data})
	}
	if s.excuse(ctx, t, asked); len(asked) == 0 {
		close(p.done)
	}
	s.mu.Lock()
	s.pending[e.id] = p
	s.mu.Unlock()
	s.excuseLeft(p)
	defer func() {
		s.mu.Lock()
		delete(s.pending, e.id)
		s.mu.Unlock()
	}()
	if err := s.publish(ctx, packets...); err != nil {
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

// outlive returns a context that ends as ctx does, unless the call itself ends ctx:
// OnConnect and OnMessage may disconnect the Conn whose context they pass.
func (c *call) outlive(ctx context.Context) (free context.Context, release func()) {
	closes := func() bool {
		end, ok := context.Cause(ctx).(*CloseError)
		return ok && c.op == opDisconnect && end.Code == c.code && end.Reason == c.reason
	}
	if c.op != opDisconnect || ctx.Err() != nil && !closes() {
		return ctx, func() {}
	}
	free, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	drop := func() {}
	if at, ok := ctx.Deadline(); ok {
		free, drop = context.WithDeadline(free, at)
	}
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); !closes() && ctx.Err() == context.Canceled {
			cancel(cause)
		}
	})
	return free, func() {
		stop()
		drop()
		cancel(nil)
	}
}

// asked returns the nodes that a call about the target concerns: all that live, listed or
// not. Connections of other nodes are gone.
func (s *calls) asked(t Target) map[string]bool {
	asked := s.presence.heartbeat.living()
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

// excuse takes nodes out of asked that need not answer: those that were never heard and,
// as the Registry says, have no connection of the target. Such a node may be no more than
// a record that somebody else has made. Or the Bus does not reach it, and then the
// Registry has its connections.
func (s *calls) excuse(ctx context.Context, t Target, asked map[string]bool) {
	unheard := s.presence.heartbeat.unheard()
	maps.DeleteFunc(unheard, func(node string, _ Lease) bool { return !asked[node] })
	if len(unheard) == 0 || t.kind == targetConnection { // the ids name the nodes
		return
	}
	if t.kind == targetEveryone {
		for node, lease := range unheard {
			if holds, err := s.presence.holds(ctx, lease); err == nil && !holds {
				delete(asked, node)
			}
		}
		return
	}
	found, err := s.presence.reg.Sessions(ctx, Lease{}, t.topics()...)
	if err != nil {
		return
	}
	filter := t.filter()
	for _, sessions := range found {
		for _, session := range sessions {
			if filter.passesSession(session) {
				delete(unheard, session.Node)
			}
		}
	}
	for node := range unheard {
		delete(asked, node)
	}
}

// local applies a call to one Conn of this node, and waits.
func (s *calls) local(ctx context.Context, c *Conn, what call) error {
	if err := checkGroups(what.groups); err != nil {
		return err
	}
	if len(what.groups) == 0 {
		return nil
	}
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	ctx, cancel := s.config.timeout(ctx)
	defer cancel()
	done := make(chan error, 1)
	s.push(incomingCall{call: what, local: c, done: done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.stopped:
		return ErrClosed
	}
}

// callOp is what a call asks of a node's Conns.
type callOp uint8

const (
	opJoin callOp = iota + 1
	opLeave
	opDisconnect
)

// A call is a change to the Conns of a Target, which each node applies to its own. The
// target's filter is in the envelope.
type call struct {
	op     callOp
	target targetKind
	ids    []string // the target's
	groups []string // Join and Leave only

	// For Disconnect only.

	code   StatusCode
	reason string
	before int64 // Unix microseconds; Conns with a later Since are spared
}

func (c *call) append(b []byte) []byte {
	b = append(b, byte(c.op), byte(c.target))
	b = wire.AppendStrings(b, c.ids)
	b = wire.AppendStrings(b, c.groups)
	b = binary.AppendUvarint(b, uint64(c.code))
	b = wire.AppendString(b, c.reason)
	return binary.AppendUvarint(b, uint64(c.before))
}

func (c *call) decode(d *wire.Decoder) {
	c.op = callOp(d.Byte())
	c.target = targetKind(d.Byte())
	c.ids = d.Names()
	c.groups = d.Names()
	code := d.Uvarint()
	c.code = StatusCode(code)
	c.reason = d.Text()
	c.before = int64(d.Uvarint())
	if c.op < opJoin || c.op > opDisconnect || c.target < targetUser || c.target > targetEveryone || code > 4999 {
		d.Bad = true
	}
	if c.op == opDisconnect && c.code.check(c.reason) != nil {
		d.Bad = true
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
