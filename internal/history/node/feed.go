package node

import (
	"github.com/heraldgo/herald/internal/history"
)

// A state of a Feed: see the diagram above.
type state uint8

const (
	down    state = iota // the link is
	asked                // for a survey
	reading              // what the survey found
	flowing
)

// Limits bound a Feed, and what it asks for at once.
type Limits struct {
	Held   int // packets that wait while a hole is repaired
	Recent int // packets that devices can still have when they go live
	Bytes  int // of the bodies that are held, and of those that are recent
	Page   int // entries of one read
	Survey int // entries of one survey
}

// A Feed puts what the link brings in order, fills the holes in it from the log,
// and says when something may be missing. It is down at first, and knows nothing.
type Feed struct {
	limits Limits
	state  state
	round  uint64 // of the question that is open

	// Everything of the followed topics up to at has been handed on, or was told
	// to be missing. Of the next entry some topics' packets may have been.
	at     history.Point
	chains chains

	held      []history.Packet // came while not flowing, in the order of the link
	heldBytes int              // of their bodies
	spilt     bool             // there was no room for all of them: ask again
	doubt     bool             // it is to be told even if all can be filled

	one     [1]history.Packet // the memory of what Take hands on
	backlog history.Backlog
	recent  recent
	trail   history.Trail
}

// NewFeed returns a Feed whose link is down.
func NewFeed(limits Limits) *Feed {
	return &Feed{limits: limits, chains: newChains(), recent: recent{most: limits.Recent, bytes: limits.Bytes}}
}

// A Step is what is to be done after an input, in the order of the fields. It is
// valid until the next input.
type Step struct {
	Fork history.Fork     // if it has an epoch: every Device crosses it
	Gap  bool             // something may be missing: tell every device, now
	Hand []history.Packet // for the devices of their topics, in this order
	Mark history.Point    // if it has an epoch: for every device
	Ask  Ask              // if it has a round
}

// An Ask is a question to the log. It has to be answered, by the method of its
// kind, or given up. Only the answer to the last one counts.
type Ask struct {
	Round uint64

	// A survey of the followed topics since From, or the entries at Offsets if there
	// are any.
	From    history.Point
	Offsets []history.Offset
	Most    int
}

// At returns up to where everything has been handed on: where a device that
// comes now begins.
func (f *Feed) At() history.Point { return f.at }

// Repairing says whether a question to the log is open.
func (f *Feed) Repairing() bool { return f.state == asked || f.state == reading }

// Flowing says whether it hands on what comes: nothing is missing that was not
// told.
func (f *Feed) Flowing() bool { return f.state == flowing }

// Follow says that the node is about to subscribe to a topic, and then, once more,
// that the subscription is confirmed. What was sent before is not missing. A
// survey that is under way was asked for without the topic, and is asked for
// again: it could pass what is sent to the topic meanwhile. No more than one
// fence is on its way at a time.
func (f *Feed) Follow(topic string) Step {
	var s Step
	f.chains.renew(topic)
	if f.state == asked {
		f.ask(&s)
	}
	return s
}

// Unfollow says that the node no longer follows a topic. What is held of it shows
// no hole.
func (f *Feed) Unfollow(topic string) { f.chains.renew(topic) }

// Recent returns what was handed on behind p, rising, and whether that is all of
// it.
func (f *Feed) Recent(p history.Point) (packets []history.Packet, ok bool) {
	if p.Epoch != f.at.Epoch {
		return nil, false
	}
	return f.recent.behind(p.Offset)
}

// Take takes a packet of a followed topic.
func (f *Feed) Take(p history.Packet) Step {
	s := Step{Hand: f.one[:0]}
	if f.state == flowing {
		if f.pass(&s, p) {
			return s
		}
		f.ask(&s)
	}
	f.hold(p)
	return s
}

// Mark takes a fence that comes from the link: what was published before it has
// been taken. A Mark is made of it only while nothing is held, or down.
func (f *Feed) Mark(end history.Point) Step {
	var s Step
	switch {
	case f.state != flowing:
	case end.Epoch != f.at.Epoch:
		f.ask(&s)
	case end.Offset > f.at.Offset:
		f.at.Offset = end.Offset
		f.chains.mark(end.Offset)
		s.Mark = end
	}
	return s
}

// Met says that a call of the node has met an epoch of the log, if no packet has
// yet.
func (f *Feed) Met(epoch history.Epoch) Step {
	var s Step
	if f.state == flowing && epoch != f.at.Epoch {
		f.ask(&s)
	}
	return s
}

// Doubt says that a loss may be hidden, though the log may look whole: the link
// was deaf, or a heartbeat was missed. It is told as soon as the feed flows.
func (f *Feed) Doubt() Step {
	if f.state == flowing {
		return Step{Gap: true}
	}
	f.doubt = true
	return Step{}
}

// Down says that the link is down, behind all that it has brought.
func (f *Feed) Down() {
	f.state = down
	f.round++
	f.held, f.heldBytes, f.spilt = nil, 0, false // the log has them, or nobody does
}

// Restored says that there is a new link, on which all followed topics are
// subscribed, before anything that it brings.
func (f *Feed) Restored() Step {
	var s Step
	f.ask(&s)
	return s
}

// pass hands a packet on, unless there is something to be filled before it.
func (f *Feed) pass(s *Step, p history.Packet) bool {
	switch {
	case !p.Kept:
	case p.At.Epoch != f.at.Epoch:
		return false
	case f.chains.had(p):
		return true
	case f.chains.hole(p):
		if p.Prev > f.at.Offset {
			return false
		}
		s.Gap = true // what is missing cannot be handed on in order any more
	}
	f.hand(s, p)
	return true
}

func (f *Feed) hand(s *Step, p history.Packet) {
	s.Hand = append(s.Hand, p)
	if !p.Kept {
		return
	}
	if p.Born != p.At.Epoch {
		f.trail.Leave(history.Point{Epoch: p.Born, Offset: p.At.Offset})
	}
	f.chains.advance(p.Topic, p.At.Offset)
	f.at.Offset = max(f.at.Offset, p.At.Offset-1)
	f.recent.add(p)
}

// reach notes that everything up to an offset has been handed on.
func (f *Feed) reach(to history.Offset) {
	f.at.Offset = to
	f.chains.reach(to)
}

func (f *Feed) hold(p history.Packet) {
	if f.state == down {
		return // of a link that is gone
	}
	f.heldBytes += len(p.Body)
	if len(f.held) < f.limits.Held && f.heldBytes <= f.limits.Bytes {
		f.held = append(f.held, p)
		return
	}
	f.held, f.heldBytes, f.spilt = nil, 0, true
}

// unhold takes the first packet off those that are held.
func (f *Feed) unhold() {
	f.heldBytes -= len(f.held[0].Body)
	f.held = f.held[1:]
}
