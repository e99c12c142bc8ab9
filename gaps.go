package herald

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/wake"
)

// A Gap is a period in which the Bus may have lost messages for a node. If a
// message was lost, it was sent inside a reported Gap, or its Send returned an
// error, or Stats counts it as dropped.
type Gap struct {
	Since time.Time // by this node's clock
	Until time.Time // by this node's clock
	Cause error     // what the Bus or the Hub noticed

	// All says that messages to every target may have been lost. Otherwise only messages
	// to the listed users and groups, which have connections on this node, may have been
	// lost, and with Everyone those to everyone.
	All      bool
	Users    []string
	Groups   []string
	Everyone bool
}

// gaps collects what the Bus says of its losses, and reports each Gap when it is over.
type gaps struct {
	names func(topic string) (name string, ok bool) // asks the index
	stats *counters
	log   *slog.Logger
	tell  func(Gap)   // OnGap, or nil
	wake  wake.Signal // for run

	mu     sync.Mutex
	all    *openGap           // the gap of every topic, while anything holds it open
	held   holder             // what holds it
	topics map[string]openGap // those of single topics
	begun  error              // why messages may be getting lost; to be logged
	over   []Gap              // to be reported

	// For a log that fills gaps, and says which it could not fill.

	doubt    func(since time.Time) // makes the log report losses that it may not see; nil if there is no log
	doubted  time.Time             // since when; zero if nothing is in doubt
	hidden   bool                  // the gap of every topic has losses that the log may not see
	suspects error                 // the cause of the last loss
}

type openGap struct {
	since time.Time
	cause error
}

// A holder is a reason why the gap of every topic is open. There may be several.
type holder uint8

const (
	byBus     holder = 1 << iota // the Bus was Down, and is not Restored
	byEcho                       // the Bus is Restored, and other nodes have yet to be heard
	bySilence                    // a node lives and is not heard
)

func newGaps(names func(string) (string, bool), stats *counters, log *slog.Logger, tell func(Gap)) *gaps {
	return &gaps{names: names, stats: stats, log: log, tell: tell, wake: wake.New(), topics: make(map[string]openGap)}
}

// hold opens the gap of every topic, or extends the one that is open.
func (g *gaps) hold(by holder, since time.Time, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open(by, since, cause)
}

func (g *gaps) open(by holder, since time.Time, cause error) {
	g.begin(cause)
	if g.all != nil {
		since = earliest(g.all.since, since)
	}
	g.all = &openGap{since, cause}
	g.held |= by
	g.hidden = g.hidden || by == bySilence
}

// begin has it logged, when the first gap opens, that messages may be getting lost.
func (g *gaps) begin(cause error) {
	if g.all == nil && len(g.topics) == 0 {
		g.begun = cmp.Or(cause, ErrBusDown)
		g.wake.Set()
	}
}

// release takes away one reason for the gap of every topic, and ends the gap if none is
// left. If only silence is left, which may last, what is over is reported as a part.
func (g *gaps) release(by holder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held&by == 0 {
		return
	}
	g.held &^= by
	g.close()
}

// part reports the gap of every topic so far, if only silence keeps it open.
func (g *gaps) part() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.close()
}

func (g *gaps) close() {
	if g.all == nil || g.held&^bySilence != 0 {
		return
	}
	now := time.Now()
	gap := Gap{Since: g.all.since, Until: now, Cause: g.all.cause, All: true}
	if g.all = nil; g.held != 0 {
		g.all = &openGap{now, gap.Cause}
	}
	hidden := g.hidden
	g.hidden = g.held != 0
	g.report(gap, hidden)
}

// linger keeps the gap of every topic open when the Bus is Restored, until others are
// heard.
func (g *gaps) linger() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held&byBus != 0 {
		g.held |= byEcho
	}
}

// missed reports a loss that is over. excused says that the Bus reports it, too, if only
// for some topics.
func (g *gaps) missed(since time.Time, excused bool, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.all != nil:
		g.all.since = earliest(g.all.since, since)
	case !excused:
		g.report(Gap{Since: since, Until: time.Now(), Cause: cause, All: true}, true)
	}
}

// deaf reports whether heartbeats cannot come, as far as the Bus says.
func (g *gaps) deaf() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, down := g.topics[topicHeartbeat]
	return down || g.held&byBus != 0
}

// earliest returns the earlier time. A zero time does not count.
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
	since := e.Since
	if since.IsZero() {
		since = time.Now()
	}
	if e.Topics == nil {
		g.open(byBus, since, e.Err)
		g.hidden = g.hidden || e.hidden
		return
	}
	g.begin(e.Err)
	for _, t := range e.Topics {
		if old, ok := g.topics[t]; !ok || since.Before(old.since) {
			g.topics[t] = openGap{since, e.Err}
		}
	}
}

// restored takes an EventRestored.
func (g *gaps) restored(e Event) {
	gap, topics := g.end(e.Topics)
	if gap.Since.IsZero() {
		return
	}
	for _, t := range topics {
		g.cover(&gap, t)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report(gap, false)
}

// end ends the gaps of the topics, or of all if topics is nil. It returns the Gap to
// report and the topics that it has yet to cover. The topics of heartbeats and of
// watchers carry no messages.
func (g *gaps) end(topics []string) (gap Gap, lost []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gap.Until = time.Now()
	all := topics == nil
	if all {
		topics = slices.Collect(maps.Keys(g.topics))
	}
	for _, t := range topics {
		if o, ok := g.topics[t]; ok {
			delete(g.topics, t)
			if t != topicHeartbeat && !isWatchTopic(t) {
				gap.Since = earliest(gap.Since, o.since)
				gap.Cause = cmp.Or(gap.Cause, o.cause)
				lost = append(lost, t)
			}
		}
	}
	if all && g.held&byBus != 0 {
		// The gap of every topic covers those of single topics.
		g.all.since = earliest(g.all.since, gap.Since)
		g.held &^= byBus
		g.close()
		return Gap{}, nil
	}
	return gap, lost
}

// cover makes gap cover a topic. The caller does not hold g.mu, because names locks the
// index.
func (g *gaps) cover(gap *Gap, topic string) {
	name, ok := g.names(topic)
	switch {
	case topic == topicEveryone:
		gap.Everyone = true
	case ok && isUserTopic(topic):
		gap.Users = append(gap.Users, name)
	case ok && isGroupTopic(topic):
		gap.Groups = append(gap.Groups, name)
	case !isUserTopic(topic) && !isGroupTopic(topic) && !isWatchTopic(topic): // a node's: messages to single connections
		gap.All = true
	}
}

// malformed reports the loss of a packet that could not be decoded, and came after since.
func (g *gaps) malformed(topic string, since time.Time, err error) {
	gap := Gap{Since: since, Until: time.Now(), Cause: err}
	g.cover(&gap, topic)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.report(gap, true)
}

// report has a gap told. If a log fills gaps, confirm tells of those that it could not
// fill; only losses that are hidden from the log are given to it as a doubt.
func (g *gaps) report(gap Gap, hidden bool) {
	switch {
	case g.doubt == nil:
		g.told(gap)
	case hidden:
		g.doubted = earliest(g.doubted, gap.Since)
		g.wake.Set()
	}
	g.suspects = gap.Cause
}

// errNotFilled is the cause of a Gap for which no other is known.
var errNotFilled = errors.New("herald: the log does not have all that was sent")

// confirm reports a gap that a log could not fill.
func (g *gaps) confirm(since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told(Gap{Since: since, Until: time.Now(), Cause: cmp.Or(g.suspects, errNotFilled), All: true})
	g.suspects = nil
}

// maxGaps is how many gaps may wait to be reported; beyond it, all are joined into one.
const maxGaps = 64

func (g *gaps) told(gap Gap) {
	g.stats.gaps.Add(1)
	g.stats.gapFor.Add(int64(gap.Until.Sub(gap.Since)))
	if len(g.over) >= maxGaps {
		for _, o := range g.over {
			gap.Since = earliest(gap.Since, o.Since)
		}
		gap = Gap{Since: gap.Since, Until: gap.Until, Cause: gap.Cause, All: true}
		g.over = g.over[:0]
	}
	g.over = append(g.over, gap)
	g.wake.Set()
}

// run logs and tells what has begun and what is over, until ctx is done and nothing is
// left.
func (g *gaps) run(ctx context.Context) {
	for {
		g.mu.Lock()
		begun, over, doubted := g.begun, g.over, g.doubted
		g.begun, g.over, g.doubted = nil, nil, time.Time{}
		g.mu.Unlock()
		if !doubted.IsZero() {
			g.doubt(doubted)
		}
		if begun != nil {
			g.log.Warn("herald: messages may be getting lost", "err", begun)
		}
		for _, gap := range over {
			g.log.Warn("herald: messages may have been lost", "since", gap.Since, "until", gap.Until, "err", gap.Cause)
			if g.tell != nil {
				g.tell(gap)
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

// openNow returns how many gaps are open, and the age of the oldest.
func (g *gaps) openNow() (n int, age time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n = len(g.topics)
	var since time.Time
	for _, o := range g.topics {
		since = earliest(since, o.since)
	}
	if g.all != nil {
		n++
		since = earliest(since, g.all.since)
	}
	if n > 0 {
		age = time.Since(since)
	}
	return n, age
}

// failing returns why the Bus says that messages may be lost just now, or nil.
func (g *gaps) failing() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held&byBus != 0 {
		return fmt.Errorf("%w: %v", ErrBusDown, g.all.cause)
	}
	for _, o := range g.topics {
		return fmt.Errorf("%w for %d topics: %v", ErrBusDown, len(g.topics), o.cause)
	}
	return nil
}
