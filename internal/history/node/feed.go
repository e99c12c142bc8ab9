package node

import (
	"github.com/heraldgo/herald/internal/history"
)

// A state of a Feed: see the diagram in doc.go.
type state uint8

const (
	down    state = iota // the link is
	asked                // a survey is asked for
	reading              // entries that the survey found are asked for
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

// A Feed puts what the link brings in order, fills the holes from the log, and says
// when something may be missing. It begins down, and without a position.
type Feed struct {
	limits Limits
	state  state
	round  uint64 // of the open question

	// Everything of the followed topics up to at has been handed on, or was told to
	// be missing. Of the entry behind it, the packets of some topics may have been
	// handed on.
	at     history.Point
	chains chains

	held      []history.Packet // came while the Feed was not flowing, in the order of the link
	heldBytes int              // of their bodies
	spilt     bool             // there was no room for all of them: ask again
	doubt     bool             // a Gap is due even if all can be filled

	one     [1]history.Packet // the memory of what Take hands on
	backlog history.Backlog
	recent  recent
	trail   history.Trail
}

// NewFeed returns a Feed whose link is down.
func NewFeed(limits Limits) *Feed {
	return &Feed{limits: limits, chains: newChains(), recent: recent{most: limits.Recent, bytes: limits.Bytes}}
}

// A Step says what to do after an input, in the order of the fields. It is valid
// until the next input.
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

// At returns up to where everything has been handed on. A device that comes now
// begins there.
func (f *Feed) At() history.Point { return f.at }

// Repairing reports whether a question to the log is open.
func (f *Feed) Repairing() bool { return f.state == asked || f.state == reading }

// Flowing reports whether the Feed hands on what comes: then nothing is missing that was
// not told.
func (f *Feed) Flowing() bool { return f.state == flowing }

// Follow says that the node is about to subscribe to a topic, and is called once more
// when the subscription is confirmed. What was sent before is not missing. A survey
// under way was asked for without the topic and could pass what is sent to it
// meanwhile, so it is asked for again. No more than one fence is on its way at a
// time.
func (f *Feed) Follow(topic string) Step {
	var s Step
	f.chains.renew(topic)
	if f.state == asked {
		f.ask(&s)
	}
	return s
}

// Unfollow says that the node no longer follows a topic. Packets of the topic that
// are held show no hole.
func (f *Feed) Unfollow(topic string) { f.chains.renew(topic) }

// Recent returns the packets that were handed on behind p, rising, and whether those
// are all.
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

// Mark takes a fence that comes from the link: what was published before it has been
// taken. It becomes a Mark only if the Feed is flowing.
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

// Met says that a call of the node has met an epoch of the log, which may come before
// any packet of that epoch.
func (f *Feed) Met(epoch history.Epoch) Step {
	var s Step
	if f.state == flowing && epoch != f.at.Epoch {
		f.ask(&s)
	}
	return s
}

// Doubt says that a loss may be hidden although the log looks whole: the link was
// deaf, or a heartbeat was missed. A Gap tells that as soon as the Feed flows.
func (f *Feed) Doubt() Step {
	if f.state == flowing {
		return Step{Gap: true}
	}
	f.doubt = true
	return Step{}
}

// Down says that the link is down, after everything that it has brought.
func (f *Feed) Down() {
	f.state = down
	f.round++
	f.held, f.heldBytes, f.spilt = nil, 0, false // the log has them, or nobody does
}

// Restored says that there is a new link, on which all followed topics are
// subscribed. It comes before anything that this link brings.
func (f *Feed) Restored() Step {
	var s Step
	f.ask(&s)
	return s
}

// pass hands a packet on, unless something has to be filled before it.
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
		return // it comes from a link that is gone
	}
	f.heldBytes += len(p.Body)
	if len(f.held) < f.limits.Held && f.heldBytes <= f.limits.Bytes {
		f.held = append(f.held, p)
		return
	}
	f.held, f.heldBytes, f.spilt = nil, 0, true
}

// unhold removes the first held packet.
func (f *Feed) unhold() {
	f.heldBytes -= len(f.held[0].Body)
	f.held = f.held[1:]
}
