package node_test

import (
	"testing"

	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/store"
)

// What was acknowledged is not forgotten for an answer to a call that did not
// bring it with it: nobody else can tell the log that it lacks it.
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
