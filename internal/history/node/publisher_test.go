package node_test

import (
	"testing"

	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/store"
)

// The answer to a call must not make a Publisher forget a point that the call did
// not bring along: only this node can tell the log that it lacks what was
// acknowledged.
func TestMet(t *testing.T) {
	var p node.Publisher
	p.Replied(p.Known(), store.Reply{Outcome: store.Taken, End: at(1, 90)})
	asked := p.Known()
	p.Replied(p.Known(), store.Reply{Outcome: store.Taken, End: at(1, 100)})
	p.Met(asked, at(2, 95))
	if p.Known() != at(1, 100) {
		t.Errorf("it brings %v with it after another call met the next epoch", p.Known())
	}
	p.Met(p.Known(), at(2, 95))
	if p.Known() != at(2, 0) {
		t.Errorf("it brings %v with it after its own call met the next epoch", p.Known())
	}
	p.Met(at(1, 100), at(1, 100))
	if p.Known() != at(2, 0) {
		t.Errorf("it brings %v with it after a late answer of the epoch before", p.Known())
	}
}
