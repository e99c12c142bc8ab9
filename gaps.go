package herald

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"
)

// A Gap is a stretch of time in which the Bus may have lost messages.
// A message that was lost was sent inside a reported Gap, or its Send
// returned an error, or it is one of the drops that Stats counts.
type Gap struct {
	Since time.Time // by this node's clock
	Until time.Time // by this node's clock
	Cause error     // what the Bus or the Hub noticed

	// All says that messages of every target may have been lost. Otherwise
	// only those to the users and groups listed, of those this node has
	// connections of; and, with Everyone, those to everyone.
	All      bool
	Users    []string
	Groups   []string
	Everyone bool
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
	begun  error     // why messages may be getting lost, of late: to be logged
	over   []Gap     // to be reported
}

type openGap struct {
	since time.Time
	cause error
}

func newGaps(h *Hub) *gaps {
	return &gaps{hub: h, wake: make(chan struct{}, 1), topics: make(map[string]openGap)}
}

// blame extends the Down that is open, or that a Reset will bring.
func (g *gaps) blame(since time.Time, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all != nil {
		g.all.since = earliest(g.all.since, since)
		return
	}
	g.floor, g.why = earliest(g.floor, since), why
}

// earliest returns the earlier time; zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
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
		o = openGap{earliest(g.floor, o.since), g.why}
	}
	if g.all == nil && len(g.topics) == 0 {
		g.begun = cmp.Or(o.cause, ErrBusDown)
		g.poke()
	}
	if e.Topics == nil {
		g.floor = time.Time{}
		if g.all != nil {
			o.since = earliest(g.all.since, o.since)
		}
		g.all = &o
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
			g.lost(&gap, t, o)
		}
		g.all = nil
		clear(g.topics)
	} else {
		before := len(g.topics)
		for _, t := range e.Topics {
			if o, ok := g.topics[t]; ok {
				g.lost(&gap, t, o)
				delete(g.topics, t)
			}
		}
		if len(g.topics) == before {
			return
		}
	}
	blamed := g.all == nil && len(g.topics) == 0 && !g.floor.IsZero()
	if gap.Since.IsZero() && !blamed {
		return
	}
	// What is blamed goes for every topic. Where the Reset comes link by link,
	// or has not come yet, no Down tells of those that are well by now.
	if blamed {
		gap.Since, gap.All = earliest(gap.Since, g.floor), true
		gap.Cause = cmp.Or(gap.Cause, g.why)
		g.floor = time.Time{}
	}
	gap.Until = now
	g.report(gap)
}

// lost makes gap cover a topic that was down. No message travels with the
// heartbeats.
func (g *gaps) lost(gap *Gap, topic string, o openGap) {
	if topic != topicHeartbeat {
		g.widen(gap, topic, o)
	}
}

// widen makes gap cover a topic.
func (g *gaps) widen(gap *Gap, topic string, o openGap) {
	gap.Since = earliest(gap.Since, o.since)
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
	case !isUserTopic(topic) && !isGroupTopic(topic): // a node's: messages to single connections
		gap.All = true
	}
}

// malformed reports a packet that could not be understood.
func (g *gaps) malformed(topic string, err error) {
	since := g.hub.heartbeat.lastProof()
	g.mu.Lock()
	defer g.mu.Unlock()
	gap := Gap{Until: time.Now()}
	g.widen(&gap, topic, openGap{since, err})
	g.report(gap)
}

// maxGaps is how many gaps may wait to be reported; those over it are joined
// into one.
const maxGaps = 64

func (g *gaps) report(gap Gap) {
	g.hub.stats.gaps.Add(1)
	g.hub.stats.gapFor.Add(int64(gap.Until.Sub(gap.Since)))
	if len(g.over) >= maxGaps {
		for _, o := range g.over {
			gap.Since = earliest(gap.Since, o.Since)
		}
		gap = Gap{Since: gap.Since, Until: gap.Until, Cause: gap.Cause, All: true}
		g.over = g.over[:0]
	}
	g.over = append(g.over, gap)
	g.poke()
}

func (g *gaps) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run tells of Downs, and of gaps, until ctx is done and none is left.
func (g *gaps) run(ctx context.Context) {
	for {
		g.mu.Lock()
		begun, over := g.begun, g.over
		g.begun, g.over = nil, nil
		g.mu.Unlock()
		if begun != nil {
			g.hub.config.Logger.Warn("herald: messages may be getting lost", "err", begun)
		}
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
