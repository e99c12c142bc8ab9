package node

import (
	"maps"

	"github.com/heraldgo/herald/internal/history"
)

// chains knows how far the chain of each followed topic has been handed on.
type chains struct {
	base  history.Offset   // at least here are all of them
	ahead map[string]chain // those that are further, or new
}

// A chain is how far one topic is. What was sent before the topic was followed is not
// missing. So a chain shows holes only behind the first Mark that was asked for after
// the subscription, which is the second Mark at the latest.
type chain struct {
	at  history.Offset
	new int // how many Marks that takes
}

const newMarks = 2

func newChains() chains { return chains{ahead: make(map[string]chain)} }

// had reports whether a packet is a second copy.
func (c *chains) had(p history.Packet) bool {
	return p.At.Offset <= max(c.base, c.ahead[p.Topic].at)
}

// hole reports whether something is missing before a packet.
func (c *chains) hole(p history.Packet) bool {
	chain := c.ahead[p.Topic]
	return chain.new == 0 && p.Prev > max(c.base, chain.at)
}

func (c *chains) advance(topic string, to history.Offset) {
	c.ahead[topic] = chain{at: to, new: c.ahead[topic].new}
}

// renew notes that a topic is followed from now on, or no longer.
func (c *chains) renew(topic string) {
	c.ahead[topic] = chain{at: c.ahead[topic].at, new: newMarks}
}

// reach advances all chains.
func (c *chains) reach(to history.Offset) {
	c.base = to
	maps.DeleteFunc(c.ahead, func(_ string, chain chain) bool { return chain.new == 0 && chain.at <= to })
}

// mark advances all chains to a Mark.
func (c *chains) mark(to history.Offset) {
	for topic, chain := range c.ahead {
		if chain.new > 0 {
			chain.new--
			c.ahead[topic] = chain
		}
	}
	c.reach(to)
}

// cross takes back what lies above the fork of a new epoch: other entries have these
// offsets now.
func (c *chains) cross(base, fork history.Offset) {
	c.base = base
	for topic, chain := range c.ahead {
		if chain.at > fork {
			chain.at = 0
			c.ahead[topic] = chain
		}
	}
}

// recent has the packets that were handed on last, for devices that go live.
type recent struct {
	most    int
	bytes   int              // most of their bodies, unless the last one alone has more
	size    int              // of the bodies now
	since   history.Offset   // everything that was handed on behind it is there
	packets []history.Packet // rising
}

func (r *recent) add(p history.Packet) {
	r.size += len(p.Body)
	for len(r.packets) > 0 && (len(r.packets) >= r.most || r.size > r.bytes) {
		first := &r.packets[0]
		r.since, r.size = first.At.Offset, r.size-len(first.Body)
		*first = history.Packet{} // otherwise its body would stay until the slice grows
		r.packets = r.packets[1:]
	}
	r.packets = append(r.packets, p)
}

func (r *recent) behind(at history.Offset) (packets []history.Packet, ok bool) {
	if at < r.since {
		return nil, false
	}
	for i, p := range r.packets {
		if p.At.Offset > at {
			return r.packets[i:], true
		}
	}
	return nil, true
}

// last returns the last offset that was handed on.
func (r *recent) last() history.Offset {
	if len(r.packets) == 0 {
		return r.since
	}
	return r.packets[len(r.packets)-1].At.Offset
}

// begin forgets what was handed on before.
func (r *recent) begin(at history.Offset) { r.since, r.packets, r.size = at, nil, 0 }
