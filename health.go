package herald

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// heartbeat proves that the Bus carries messages. After each renewal of its
// lease a node sends a heartbeat to a topic that all nodes follow, and every
// node that the Registry lists must be heard, itself included. What is not
// is a deaf Bus: it is reset, and the time since the last proof is a Gap.
type heartbeat struct {
	hub  *Hub
	wake chan struct{} // holds one

	mu       sync.Mutex
	heard    map[string]int64    // by node, on clock
	awaited  map[string]awaiting // by node: renewals that no heartbeat followed
	sent     int64               // on clock: our oldest heartbeat that did not come back; 0 is none
	isolated error               // why Health is red although the Bus says nothing
}

// awaiting is a node's renewals since it was last heard. Two without a
// heartbeat show that it lives and is not heard; one may have been its last
// deed.
type awaiting struct {
	first, last int64 // on clock
	reset       bool  // the Bus has been reset for it
}

// heartbeatGrace is how long a heartbeat may be under way.
const heartbeatGrace = time.Second

func newHeartbeat(h *Hub) *heartbeat {
	return &heartbeat{hub: h, wake: make(chan struct{}, 1), heard: make(map[string]int64), awaited: make(map[string]awaiting)}
}

// renewed is called after each renewal of the node's lease.
func (b *heartbeat) renewed() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run sends heartbeats and looks for their coming back, until ctx is done.
func (b *heartbeat) run(ctx context.Context) {
	config := &b.hub.config
	if config.ProbeInterval == off {
		return
	}
	data := (&envelope{kind: kindHeartbeat, sender: b.hub.id}).encode()
	timer := time.NewTimer(config.ProbeTimeout)
	defer timer.Stop()
	for {
		select {
		case <-b.wake:
			at := clock()
			callCtx, cancel := context.WithTimeout(ctx, config.ProbeTimeout)
			err := b.hub.bus.Publish(callCtx, Packet{topicHeartbeat, data})
			cancel()
			b.mu.Lock()
			if err == nil && b.sent == 0 && b.heard[b.hub.id] < at {
				b.sent = at
			}
			b.mu.Unlock()
		case <-timer.C:
			b.checkOwn()
			timer.Reset(config.ProbeTimeout / 4)
		case <-ctx.Done():
			return
		}
	}
}

// hear takes note of a node's heartbeat.
func (b *heartbeat) hear(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard[node] = clock()
	delete(b.awaited, node)
	if node == b.hub.id {
		b.sent = 0
	}
	if len(b.awaited) == 0 {
		b.isolated = nil
	}
}

// restored starts anew after the Bus has.
func (b *heartbeat) restored() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = 0
	for node, a := range b.awaited {
		b.awaited[node] = awaiting{reset: a.reset}
	}
}

// checkOwn resets the Bus where our own heartbeat has not come back.
func (b *heartbeat) checkOwn() {
	b.mu.Lock()
	lost := b.sent != 0 && clock()-b.sent > int64(b.hub.config.ProbeTimeout)
	var since int64
	if lost {
		b.sent = 0
		since = b.heard[b.hub.id]
	}
	b.mu.Unlock()
	if lost && b.hub.gaps.failing() == nil {
		b.hub.deaf(since, fmt.Errorf("%w: own heartbeat did not come back", ErrBusDown))
	}
}

// listed compares who lives, as the Registry says, with who is heard.
func (b *heartbeat) listed(nodes []Node, now time.Time) {
	timeout := int64(b.hub.config.ProbeTimeout)
	if b.hub.config.ProbeInterval == off || b.hub.gaps.failing() != nil {
		return
	}
	at := clock()
	since := at
	var lost string
	b.mu.Lock()
	known := make(map[string]bool, len(nodes))
	alive, silent := 0, 0
	for _, n := range nodes {
		known[n.ID] = true
		if !n.Alive || n.ID == b.hub.id {
			continue
		}
		alive++
		renewed := at - int64(now.Sub(n.Renewed))
		a, waiting := b.awaited[n.ID]
		switch {
		case renewed <= b.heard[n.ID]+int64(heartbeatGrace):
			continue
		case !waiting || a.first == 0:
			a.first, a.last = renewed, renewed
		case renewed > a.last+int64(10*time.Millisecond):
			a.last = renewed
		}
		if a.last > a.first && at-a.first > timeout && at-a.last > int64(heartbeatGrace) {
			silent++
			if !a.reset {
				a.reset = true
				lost = n.ID
				since = min(since, b.heard[n.ID])
			}
		}
		b.awaited[n.ID] = a
	}
	for node := range b.heard {
		if !known[node] && node != b.hub.id {
			delete(b.heard, node)
			delete(b.awaited, node)
		}
	}
	// Where most others are not heard the fault is likely ours.
	b.isolated = nil
	if silent*2 > alive {
		b.isolated = fmt.Errorf("%w: %d of %d other nodes are not heard", ErrBusDown, silent, alive)
	}
	b.mu.Unlock()
	if lost != "" {
		b.hub.deaf(since, fmt.Errorf("%w: node %s lives and is not heard", ErrBusDown, lost))
	}
}

func (b *heartbeat) failing() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isolated
}

// deaf resets a Bus that lies. since is the last proof that it worked, on
// clock; 0 where there was none.
func (h *Hub) deaf(since int64, why error) {
	h.stats.resets.Add(1)
	proof := h.createdAt
	if since != 0 {
		proof = time.Now().Add(-time.Duration(clock() - since))
	}
	h.gaps.blame(proof, why)
	h.bus.Reset()
}

// gaps collects what the Bus says of its losses, and reports each when it is
// over.
type gaps struct {
	hub  *Hub
	wake chan struct{} // holds one

	mu     sync.Mutex
	all    *openGap
	topics map[string]openGap
	floor  time.Time // how far back the next Down goes at least; zero is not at all
	why    error     // of floor
	over   []Gap     // to be reported
}

type openGap struct {
	since time.Time
	cause error
}

func newGaps(h *Hub) *gaps {
	return &gaps{hub: h, wake: make(chan struct{}, 1), topics: make(map[string]openGap)}
}

// blame extends the Down that a Reset will bring.
func (g *gaps) blame(since time.Time, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.floor.IsZero() || since.Before(g.floor) {
		g.floor, g.why = since, why
	}
}

// down takes an EventDown.
func (g *gaps) down(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := openGap{e.Since, e.Err}
	if o.since.IsZero() {
		o.since = time.Now()
	}
	if !g.floor.IsZero() {
		if g.floor.Before(o.since) {
			o.since = g.floor
		}
		o.cause = g.why
		g.floor = time.Time{}
	}
	if e.Topics == nil {
		if g.all == nil {
			g.all = &o
		} else if o.since.Before(g.all.since) {
			g.all.since = o.since
		}
		return
	}
	for _, t := range e.Topics {
		if old, ok := g.topics[t]; !ok || o.since.Before(old.since) {
			g.topics[t] = o
		}
	}
}

// restored takes an EventRestored.
func (g *gaps) restored(e Event) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	var gap Gap
	if e.Topics == nil {
		if g.all == nil && len(g.topics) == 0 {
			return
		}
		if g.all != nil {
			gap = Gap{Since: g.all.since, Cause: g.all.cause, All: true}
		}
		for t, o := range g.topics {
			g.widen(&gap, t, o)
		}
		g.all = nil
		clear(g.topics)
	} else {
		for _, t := range e.Topics {
			if o, ok := g.topics[t]; ok {
				g.widen(&gap, t, o)
				delete(g.topics, t)
			}
		}
	}
	if gap.Since.IsZero() {
		return
	}
	gap.Until = now
	g.report(gap)
}

// widen makes gap cover a topic.
func (g *gaps) widen(gap *Gap, topic string, o openGap) {
	if gap.Since.IsZero() || o.since.Before(gap.Since) {
		gap.Since = o.since
	}
	if gap.Cause == nil {
		gap.Cause = o.cause
	}
	name, ok := g.hub.index.nameOf(topic)
	switch {
	case topic == topicEveryone:
		gap.Everyone = true
	case ok && isUserTopic(topic):
		gap.Users = append(gap.Users, name)
	case ok && isGroupTopic(topic):
		gap.Groups = append(gap.Groups, name)
	}
}

// malformed reports a packet that could not be understood.
func (g *gaps) malformed(topic string, err error) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	gap := Gap{Until: now}
	g.widen(&gap, topic, openGap{now, err})
	g.report(gap)
}

// maxGaps is how many gaps may wait to be reported; those over it are joined
// into one.
const maxGaps = 64

func (g *gaps) report(gap Gap) {
	g.hub.stats.gaps.Add(1)
	g.hub.stats.gapFor.Add(int64(gap.Until.Sub(gap.Since)))
	if len(g.over) >= maxGaps {
		first := g.over[0]
		g.over = g.over[:0]
		gap = Gap{Since: first.Since, Until: gap.Until, Cause: gap.Cause, All: true}
	}
	g.over = append(g.over, gap)
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run reports gaps until ctx is done and none is left.
func (g *gaps) run(ctx context.Context) {
	for {
		g.mu.Lock()
		over := g.over
		g.over = nil
		g.mu.Unlock()
		for _, gap := range over {
			g.hub.config.Logger.Warn("herald: messages may have been lost", "since", gap.Since, "until", gap.Until, "err", gap.Cause)
			if g.hub.config.OnGap != nil {
				g.hub.guard(nil, "OnGap", func() { g.hub.config.OnGap(gap) })
			}
		}
		if len(over) > 0 {
			continue
		}
		select {
		case <-g.wake:
		case <-ctx.Done():
			return
		}
	}
}

// failing returns why messages may be lost just now, or nil.
func (g *gaps) failing() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all != nil {
		return fmt.Errorf("%w: %v", ErrBusDown, g.all.cause)
	}
	for _, o := range g.topics {
		return fmt.Errorf("%w for %d topics: %v", ErrBusDown, len(g.topics), o.cause)
	}
	return nil
}
