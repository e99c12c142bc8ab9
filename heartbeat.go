package herald

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
	sent     int64               // on clock: our oldest heartbeat that has not come back; 0 is none
	proved   int64               // on clock: when our last heartbeat that came back was sent; 0 is none
	failed   error               // of the last publishing
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
	due := false
	for {
		select {
		case <-b.wake:
			due = true
		case <-timer.C:
			b.checkOwn()
			timer.Reset(config.ProbeTimeout / 4)
		case <-ctx.Done():
			return
		}
		// One that could not be sent is sent as soon as it can: the others
		// would take their own Bus for deaf, while it is ours that was down.
		due = due && !b.send(ctx, data)
	}
}

// send publishes our heartbeat, and answers whether the Bus has taken it. It is
// awaited from before that on, for it may come back at once.
func (b *heartbeat) send(ctx context.Context, data []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, b.hub.config.ProbeTimeout)
	defer cancel()
	at := clock()
	b.mu.Lock()
	first := b.sent == 0
	if first {
		b.sent = at
	}
	b.mu.Unlock()
	err := b.hub.bus.Publish(ctx, Packet{topicHeartbeat, data})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
	if err != nil && first && b.sent == at {
		b.sent = 0
	}
	return err == nil
}

// lastProof is when the Bus last carried our own heartbeat.
func (b *heartbeat) lastProof() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hub.wall(b.proved)
}

// hear takes note of a node's heartbeat.
func (b *heartbeat) hear(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard[node] = clock()
	delete(b.awaited, node)
	if node == b.hub.id && b.sent != 0 {
		b.proved, b.sent = b.sent, 0
	}
	if len(b.awaited) == 0 {
		b.isolated = nil
	}
}

// restored starts anew after the Bus has.
func (b *heartbeat) restored() {
	b.mu.Lock()
	b.sent = 0
	for node, a := range b.awaited {
		b.awaited[node] = awaiting{reset: a.reset}
	}
	b.mu.Unlock()
	b.renewed()
}

// checkOwn resets the Bus where our own heartbeat has not come back.
func (b *heartbeat) checkOwn() {
	b.mu.Lock()
	lost := b.sent != 0 && clock()-b.sent > int64(b.hub.config.ProbeTimeout)
	var since int64
	if lost {
		b.sent = 0
		since = b.proved
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
				since = min(since, cmp.Or(b.heard[n.ID], a.first))
			}
		}
		b.awaited[n.ID] = a
	}
	for node := range b.heard {
		if !known[node] && node != b.hub.id {
			delete(b.heard, node)
		}
	}
	maps.DeleteFunc(b.awaited, func(node string, _ awaiting) bool { return !known[node] })
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
	return cmp.Or(b.isolated, b.failed)
}

// deaf resets a Bus that lies. since is the last proof that it worked, on
// clock; 0 where there was none.
func (h *Hub) deaf(since int64, why error) {
	h.stats.resets.Add(1)
	h.gaps.blame(h.wall(since), why)
	h.bus.Reset()
}

// wall returns the time of a moment on clock; 0 is when the Hub was made.
func (h *Hub) wall(at int64) time.Time {
	if at == 0 {
		return h.createdAt
	}
	return time.Now().Add(-time.Duration(clock() - at))
}
