package store

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// Fence returns the end of the log. The script publishes it to the node that asks,
// behind everything that was published before.
func (l *Log) Fence(c Caller) history.Point { return l.begin(c).end() }

// Survey says what was kept for the topics since from. If there are more than most
// entries, it has the last ones, and is not whole.
func (l *Log) Survey(c Caller, from history.Point, topics []string, most int) history.Survey {
	t := l.begin(c)
	s := history.Survey{End: t.end()}
	s.From, s.Whole, s.Fork = t.view(from).Start(from)
	for _, topic := range topics {
		stop := s.From
		if cut := t.forgot[topic]; cut > stop {
			stop, s.Whole = cut, false
		}
		for at := t.last[topic]; at > stop; {
			e, ok := l.entry(at)
			if !ok {
				s.Whole = false
				break
			}
			s.Offsets = append(s.Offsets, at)
			at = prev(e, topic)
		}
	}
	slices.Sort(s.Offsets)
	s.Offsets = slices.Compact(s.Offsets)
	if over := len(s.Offsets) - most; over > 0 {
		s.From, s.Whole = s.Offsets[over-1], false
		s.Offsets = s.Offsets[over:]
	}
	return s
}

// A View is what a log knows when it is asked where to go on from a Point.
type View struct {
	End     history.Point
	Horizon history.Offset // nothing up to here is kept

	// Survived is up to where the log has what the epoch of the Point had, if Knows
	// says that the log knows that epoch.
	Survived history.Offset
	Knows    bool
}

func (t *table) view(p history.Point) View {
	v := View{End: t.end(), Horizon: t.horizon}
	v.Survived, v.Knows = t.survived(p.Epoch)
	return v
}

// Start returns where a reader goes on that was at p. whole says that nothing was
// lost between the two.
func (v View) Start(p history.Point) (from history.Offset, whole bool, fork history.Fork) {
	switch {
	case !v.Knows:
		// p is of an unknown epoch, or nowhere. How much of this epoch the reader has
		// had is unknown.
		return v.End.Offset, false, history.Fork{Epoch: v.End.Epoch, At: v.End.Offset}
	case p.Epoch != v.End.Epoch:
		// The reader gets what survived. That is never whole, even if it looks so: a
		// server that is gone may have acknowledged more to a node that is gone.
		fork = history.Fork{Epoch: v.End.Epoch, Parent: p.Epoch, At: v.Survived}
		return max(fork.Cross(p).Offset, v.Horizon), false, fork
	case p.Offset > v.End.Offset:
		return v.End.Offset, false, fork // p is in the future
	}
	return max(p.Offset, v.Horizon), p.Offset >= v.Horizon, fork
}

// Read returns the entries that are there, of those at the offsets. ok is false if
// the log is no longer in the epoch of the survey.
func (l *Log) Read(c Caller, epoch history.Epoch, offsets []history.Offset) (entries []history.Entry, ok bool) {
	if l.begin(c).epoch != epoch {
		return nil, false
	}
	for _, at := range offsets {
		if e, ok := l.entry(at); ok {
			entries = append(entries, e)
		}
	}
	return entries, true
}

func (l *Log) entry(at history.Offset) (e history.Entry, ok bool) {
	entries := l.segments[uint64((at-1)/l.size)]
	i, ok := slices.BinarySearchFunc(entries, at, func(e history.Entry, at history.Offset) int {
		return int(e.Offset) - int(at)
	})
	if !ok {
		return e, false
	}
	return entries[i], true
}

func prev(e history.Entry, topic string) history.Offset {
	for _, link := range e.Links {
		if link.Topic == topic {
			return link.Prev
		}
	}
	return 0
}
