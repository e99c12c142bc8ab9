package node

import (
	"testing"

	"github.com/heraldgo/herald/internal/history"
)

func packet(topic string, offset, prev history.Offset) history.Packet {
	return history.Packet{Topic: topic, Kept: true, At: history.Point{Epoch: 1, Offset: offset}, Prev: prev}
}

// A chain is kept while it reaches further than all have, or is new. Only a chain
// that is not new shows holes.
func TestChains(t *testing.T) {
	c := newChains()
	c.advance("a", 5)
	c.reach(4)
	if !c.had(packet("a", 5, 0)) || c.had(packet("a", 6, 0)) || c.had(packet("b", 5, 0)) {
		t.Error("it does not know what was had above all chains")
	}
	if c.hole(packet("a", 9, 5)) || !c.hole(packet("a", 9, 6)) || c.hole(packet("b", 9, 4)) || !c.hole(packet("b", 9, 5)) {
		t.Error("it does not know where a hole is above all chains")
	}
	if c.reach(5); len(c.ahead) != 0 {
		t.Errorf("it keeps what is no further than all: %v", c.ahead)
	}
	c.renew("a")
	c.advance("b", 9)
	for n := range newMarks {
		if c.hole(packet("a", 8, 7)) {
			t.Errorf("a new topic shows a hole after %d Marks", n)
		}
		if !c.hole(packet("b", 11, 10)) {
			t.Errorf("another topic shows no hole after %d Marks", n)
		}
		c.mark(6)
	}
	if !c.hole(packet("a", 8, 7)) || !c.hole(packet("b", 11, 10)) {
		t.Errorf("there is no hole after %d Marks", newMarks)
	}
}

// Packets above a fork do not count as handed on.
func TestChainsCross(t *testing.T) {
	c := newChains()
	c.advance("a", 5)
	c.advance("b", 6)
	c.cross(3, 5)
	if !c.had(packet("a", 5, 0)) || c.had(packet("b", 6, 0)) || c.had(packet("b", 4, 0)) || !c.had(packet("b", 3, 0)) {
		t.Errorf("had was up to %d, and %v", c.base, c.ahead)
	}
}

// The packets that are remembered as recent are bounded exactly, in number and in
// bytes. But one packet is remembered, however large it is.
func TestRecent(t *testing.T) {
	sized := func(offset history.Offset, bytes int) history.Packet {
		p := packet("a", offset, 0)
		p.Body = make([]byte, bytes)
		return p
	}
	for name, test := range map[string]struct {
		packets []history.Packet
		since   history.Offset
	}{
		"none":                {},
		"large":               {packets: []history.Packet{sized(1, 11)}},
		"as many as may be":   {packets: []history.Packet{sized(1, 0), sized(2, 0), sized(3, 0)}},
		"too many":            {packets: []history.Packet{sized(1, 0), sized(2, 0), sized(3, 0), sized(4, 0)}, since: 1},
		"as large as may be":  {packets: []history.Packet{sized(1, 5), sized(2, 5)}},
		"too large by a byte": {packets: []history.Packet{sized(1, 5), sized(2, 6)}, since: 1},
		"large after others":  {packets: []history.Packet{sized(1, 1), sized(2, 1), sized(3, 20)}, since: 2},
	} {
		r := recent{most: 3, bytes: 10}
		for _, p := range test.packets {
			r.add(p)
		}
		if r.since != test.since || r.last() != history.Offset(len(test.packets)) {
			t.Errorf("%s: it has what came since %d, up to %d; want since %d", name, r.since, r.last(), test.since)
		}
		for at := range history.Offset(len(test.packets) + 1) {
			packets, ok := r.behind(at)
			if want := at >= test.since; ok != want {
				t.Errorf("%s: all behind %d is there: %v", name, at, ok)
			} else if ok && len(packets) != len(test.packets)-int(at) {
				t.Errorf("%s: behind %d there are %d packets", name, at, len(packets))
			}
		}
	}
}
