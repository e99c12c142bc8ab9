package herald

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/wake"
)

// heartbeat proves that the Bus carries messages. Every second or so a node sends a
// heartbeat to a topic that all nodes follow. Its number tells the nodes that hear it
// what they have missed. Every node that the Registry lists must be heard, this one
// included. If one is not, the Bus is deaf: it is reset, and the time since the last
// proof is a Gap.
type heartbeat struct {
	node   string // this one
	made   time.Time
	config *Config
	bus    Bus
	gaps   *gaps
	stats  *counters

	wake wake.Signal   // a heartbeat is due now
	left chan struct{} // closed when our goodbye has come back

	mu       sync.Mutex // above gaps.mu
	peers    map[string]*peer
	gone     map[string]*peer // former peers
	forgot   bool             // some that were in gone have been deleted
	nodes    []Node           // the last listing; nobody changes it
	live     int              // how many real nodes are alive in it, this one included
	listing  int              // how many nodes are alive in it
	from, to int64            // on clock: when the last listing was asked for, and had come
	restored int64            // on clock: when the Bus was last restored, or began
	split    int64            // on clock: since when a part of the open gap has been over; 0 if none is
	isolated error            // why this node seems cut off, although the Bus reports no fault

	// Whether other nodes keep nothing, because they are old or have no Retention.

	plain  atomic.Pointer[string] // the name of one; nil if there is none
	remix  func()                 // called when the first has come or the last has gone
	warned bool                   // used by watch alone: it has logged that others have a Retention

	// Our own heartbeats.

	number uint64 // the last one that the Bus has taken
	notice notice // for the next one
	whole  int64  // the generation of this node's lease under which all its entries are
	told   int64  // on clock: when the others were last told of a loss
	sent   int64  // on clock: when the oldest that has not come back was sent; 0 if all have
	proved int64  // on clock: when the last that came back was sent; 0 if none has
	took   int64  // how long that one took to come back

	unmeasured atomic.Int64 // took, until a message's lag has been measured with it; 0 if there is none
	failed     error        // what the last Publish returned
}

const (
	heartbeatGrace = time.Second           // time for a heartbeat to arrive
	heartbeatPace  = 50 * time.Millisecond // between two heartbeats that a node hears, on average, at least
)

func newHeartbeat(node string, config *Config, bus Bus, gaps *gaps, stats *counters) *heartbeat {
	return &heartbeat{
		node: node, made: time.Now(), config: config, bus: bus, gaps: gaps, stats: stats,
		wake: wake.New(), left: make(chan struct{}),
		peers: make(map[string]*peer), gone: make(map[string]*peer),
		restored: clock.Now(), remix: func() {},
	}
}

// keepsNothing reports whether the node is there, and its messages go through no log.
func (b *heartbeat) keepsNothing(p *peer) bool {
	return p.heard != 0 && !p.left && !p.keeps && (p.alive || since(p.heard) < b.config.Lease)
}

// announce tells the others, by a heartbeat at once, that all entries of this node are
// under the lease of that generation.
func (b *heartbeat) announce(generation int64) {
	b.mu.Lock()
	b.whole = generation
	b.mu.Unlock()
	b.wake.Set()
}

// announced returns the generation that was announced last.
func (b *heartbeat) announced() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole
}

// interval returns the time between two heartbeats. It grows with the number of nodes, so
// that a node hears no more of them.
func (b *heartbeat) interval() time.Duration {
	c := b.config
	often := min(c.ProbeInterval, c.Lease/6)
	return max(often, time.Duration(b.live)*heartbeatPace)
}

// run sends heartbeats until ctx is done. The first is asked for when the node has its
// lease, so that nodes that hear it find this one listed.
func (b *heartbeat) run(ctx context.Context) {
	config := b.config
	if config.ProbeInterval == off {
		return
	}
	timer := time.NewTimer(off)
	defer timer.Stop()
	for {
		select {
		case <-b.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		sent := b.send(ctx, 0)
		b.mu.Lock()
		pause := b.interval()
		b.mu.Unlock()
		if !sent {
			// Try again soon: otherwise the others would take their own Bus for deaf,
			// although it was ours that was down.
			pause = min(pause, config.ProbeTimeout/4)
		}
		timer.Reset(pause)
	}
}

// send publishes our next heartbeat, and reports whether the Bus has taken it. The
// heartbeat counts as sent before Publish returns, because it may come back at once. If
// Publish fails, the next one has the same number, so that nobody misses a heartbeat that
// was never sent. If it was sent after all, two have that number.
func (b *heartbeat) send(ctx context.Context, also notice) bool {
	ctx, cancel := context.WithTimeout(ctx, b.config.ProbeTimeout)
	defer cancel()
	at := clock.Now()
	b.mu.Lock()
	if b.config.Retention > 0 {
		also |= noticeKeeps
	}
	e := envelope{kind: kindHeartbeat, sender: b.node, id: b.number + 1, notice: b.notice | also, whole: b.whole}
	first := b.sent == 0
	if first {
		b.sent = at
	}
	b.mu.Unlock()
	err := b.bus.Publish(ctx, Packet{topicHeartbeat, e.encode()})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
	if err == nil {
		b.number = e.id
		b.notice &^= e.notice
	} else if first && b.sent == at {
		b.sent = 0
	}
	return err == nil
}

// leave says goodbye, and waits a moment until the goodbye has come back. By then
// the others have most likely heard it, and do not miss us in the Registry.
func (b *heartbeat) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatGrace)
	defer cancel()
	if b.send(ctx, noticeLeaving) {
		select {
		case <-b.left:
		case <-ctx.Done():
		}
	}
}

// tellLost makes the others renew their leases, and so find out whether they are lost,
// once a second at most.
func (b *heartbeat) tellLost() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := clock.Now(); now-b.told >= int64(time.Second) {
		b.told = now
		b.notice |= noticeLost
		b.wake.Set()
	}
}

// lastProof is when the Bus last carried our own heartbeat.
func (b *heartbeat) lastProof() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wall(b.proved)
}

// proof returns how long our last heartbeat that came back was under way, and
// how long ago it was sent.
func (b *heartbeat) proof() (roundTrip, age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Duration(b.took), since(b.proved)
}

// watch checks that our heartbeats come back and that living nodes are heard, until ctx
// is done.
func (b *heartbeat) watch(ctx context.Context) {
	config := b.config
	if config.ProbeInterval == off {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		b.mu.Lock()
		deaf := b.checkOwn() || b.checkPeers()
		b.checkGap()
		pause := min(b.interval(), config.ProbeTimeout/4)
		plain, keeper := b.one(b.keepsNothing), b.one(func(p *peer) bool { return p.keeps && !p.left })
		b.mu.Unlock()
		b.noteRetentions(plain, keeper)
		if deaf {
			b.stats.resets.Add(1)
			b.bus.Reset()
		}
		timer.Reset(pause)
	}
}

// noteRetentions notes a node that keeps nothing and one that keeps what it sends, if
// there are any, and logs if there are both.
func (b *heartbeat) noteRetentions(plain, keeper string) {
	logger := b.config.Logger
	if b.config.Retention <= 0 {
		if keeper != "" && !b.warned {
			b.warned = true
			logger.Warn("herald: this node has no Retention, and others under the same Prefix have one: no client can come back while this node is there", slog.String("node", keeper))
		}
		return
	}
	next := &plain
	if plain == "" {
		next = nil
	}
	switch before := b.plain.Swap(next); {
	case (before == nil) == (next == nil):
		return
	case next != nil:
		logger.Warn("herald: a node under the same Prefix keeps nothing, so no client can come back while it is there: it has no Retention, or an older version", slog.String("node", plain))
	default:
		logger.Info("herald: all nodes keep what they send")
	}
	b.remix()
}

// plainNode returns the name of a node that keeps nothing, or "".
func (b *heartbeat) plainNode() string {
	if plain := b.plain.Load(); plain != nil {
		return *plain
	}
	return ""
}

// one returns a node of which that holds, or "". A name that is empty is nobody's, but
// anybody may have put it there.
func (b *heartbeat) one(is func(*peer) bool) string {
	for node, p := range b.peers {
		if node != "" && is(p) {
			return node
		}
	}
	return ""
}

// checkOwn returns true if our own heartbeat has not come back in time.
func (b *heartbeat) checkOwn() bool {
	if b.sent == 0 || clock.Now()-b.sent <= int64(b.config.ProbeTimeout+heartbeatGrace) || b.gaps.deaf() {
		return false
	}
	b.sent = 0
	b.peer(b.node).silent = true
	b.settle()
	b.gaps.hold(bySilence, b.wall(b.proved), b.isolated)
	return true
}

func (b *heartbeat) failing() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.isolated, b.failed)
}

// wall converts a moment on clock to a time, which is not before the heartbeat was made.
func (b *heartbeat) wall(at int64) time.Time {
	t := time.Now().Add(-time.Duration(clock.Now() - at))
	if t.Before(b.made) {
		return b.made
	}
	return t
}

// real reports whether the node is more than a record in the Registry, which anybody may
// have put there: it was heard, has answered a call, or has entries there. The silence of
// other nodes means nothing.
func (p *peer) real() bool { return p.heard != 0 || p.answered || p.holds }

// unheard returns the leases of nodes that are listed as alive, were never heard, and
// have answered no call.
func (b *heartbeat) unheard() map[string]Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	unheard := make(map[string]Lease)
	for node, p := range b.peers {
		if p.alive && p.heard == 0 && !p.answered && node != b.node {
			unheard[node] = Lease{node, p.generation}
		}
	}
	return unheard
}

// answered notes that a node has answered a call.
func (b *heartbeat) answered(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[node]; p != nil {
		p.answered = true
	}
}

// holds notes whether the Registry has entries of a node.
func (b *heartbeat) holds(node string, holds bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[node]; p != nil {
		p.holds = holds || b.mute()
	}
}

// mute reports whether no node sends heartbeats, so that every listed node counts.
func (b *heartbeat) mute() bool { return b.config.ProbeInterval == off }

// versions returns the nodes that live, and the newest envelope that each understands:
// 0 if the Registry has not listed the node yet.
func (b *heartbeat) versions() map[string]int {
	living := b.living()
	b.mu.Lock()
	defer b.mu.Unlock()
	versions := make(map[string]int, len(living))
	for node := range living {
		versions[node] = 0
		if p := b.peers[node]; p != nil {
			versions[node] = p.version
		}
	}
	return versions
}
