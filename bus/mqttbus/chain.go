package mqttbus

import (
	"errors"
	"slices"
	"strings"
)

// A broker drops what a slow subscriber does not take, and tells nobody. So every
// packet names the one before it (stamp), which the publisher's ledger knows. A
// subscriber that has seen earlier packets of that publisher to that topic compares.
// For a topic that the ledger has forgotten, or that is new to the subscriber, there
// is no alarm.

// errMissing is why packets are reported as lost: a later one has come without them.
var errMissing = errors.New("mqttbus: the broker dropped packets for this subscriber, or for want of permission")

// errForeign is why an unreadable packet is reported as lost.
var errForeign = errors.New("mqttbus: a packet that no Bus of this version published")

// errHuge is why a packet that is larger than all that may wait for Receive is
// reported as lost.
var errHuge = errors.New("mqttbus: a packet was too large to be kept")

// maxLedger is how many topics a generation of a ledger knows.
const maxLedger = 1 << 16

// A ledger knows the last packets of one publisher, by topic. It forgets the topics
// that were not used for longest.
type ledger struct {
	publisher uint64
	number    uint64 // the last given out
	young     map[string]uint64
	old       map[string]uint64
}

// next returns the stamp of the next packet to topic.
func (l *ledger) next(topic string) stamp {
	previous, ok := l.young[topic]
	if !ok {
		previous = l.old[topic]
		topic = strings.Clone(topic) // the caller's may be a part of much more
	}
	l.number++
	l.set(topic, l.number)
	return stamp{publisher: l.publisher, number: l.number, previous: previous}
}

// set notes the last packet to topic.
func (l *ledger) set(topic string, number uint64) {
	if l.young == nil || len(l.young) >= maxLedger {
		l.young, l.old = make(map[string]uint64), l.young
	}
	l.young[topic] = number
}

// maxPublishers is how many publishers are told apart on one topic.
const maxPublishers = 64

// A subscription is a topic that a link is subscribed to.
type subscription struct {
	topic string // herald's
	seen  []seen
}

// A seen is the last packet that came from one publisher to one topic.
type seen struct {
	publisher uint64
	number    uint64
	proof     int64 // the link's last proof when it came, on the Bus' clock
	reports   int   // how many had been made
}

// A verdict is what a stamp says of a packet.
type verdict uint8

const (
	fine verdict = iota
	again
	missing // another before it
)

// look compares a stamp with what has been seen and notes it. was is the
// publisher's last packet before.
func (s *subscription) look(m stamp, proof int64, reports int) (v verdict, was seen) {
	now := seen{m.publisher, m.number, proof, reports}
	i := slices.IndexFunc(s.seen, func(o seen) bool { return o.publisher == m.publisher })
	if i < 0 {
		if len(s.seen) < maxPublishers {
			s.seen = append(s.seen, now)
			return fine, now
		}
		oldest := 0
		for i := range s.seen {
			if s.seen[i].proof < s.seen[oldest].proof {
				oldest = i
			}
		}
		s.seen[oldest] = now
		return fine, now
	}
	was = s.seen[i]
	if m.number <= was.number {
		return again, was
	}
	s.seen[i] = now
	if m.previous > was.number {
		return missing, was
	}
	return fine, was
}
