package node

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// A Publisher keeps what goes with each call of the node.
type Publisher struct {
	known   history.Point
	segment uint64
}

// Known returns the epoch that the node knows, and the last offset that was
// acknowledged to it there.
func (p *Publisher) Known() history.Point { return p.known }

// Segment returns the segment that the next batch probably goes to.
func (p *Publisher) Segment() uint64 { return p.segment }

// Met notes the log's end, as a call has returned it. asked is what went with that
// call. Calls overlap: if more is known by now than went with the call, the log has
// not heard all of it, and the next call will meet what this one has.
func (p *Publisher) Met(asked, end history.Point) {
	if end.Epoch != p.known.Epoch && asked == p.known {
		// If the log lacks what was acknowledged in the old epoch, this call has
		// begun the new one for it.
		p.known = history.Point{Epoch: end.Epoch}
	}
}

// Replied takes the answer to an append, with which asked went, and reports whether the
// batch has to go again. An append that nobody answered is not repeated. No more than
// one is under way at a time.
func (p *Publisher) Replied(asked history.Point, r store.Reply) (again bool) {
	switch r.Outcome {
	case store.Taken:
		p.known = r.End
		return false
	case store.WrongSegment:
		p.segment = r.Segment
	}
	p.Met(asked, r.End)
	return true
}

// Alone returns the drafts of a batch that go out by PUBLISH if the log cannot take
// the batch: those that are not to be kept.
func Alone(batch []store.Draft) []store.Draft {
	return slices.DeleteFunc(slices.Clone(batch), func(d store.Draft) bool { return !d.Unkept })
}
