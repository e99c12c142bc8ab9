package store

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// Forget forgets what is kept for topics. The entries that were for nobody else
// are removed. The chains still say where they ended: a reader who has not had all
// that a topic of his had kept will be told, and the others need not be.
func (l *Log) Forget(c Caller, topics []string) {
	t := l.begin(c)
	var offsets []history.Offset
	for _, topic := range topics {
		at := t.last[topic]
		if at <= t.horizon {
			continue
		}
		t.forgot[topic] = at
		for e, ok := l.entry(at); ok && at > t.horizon; e, ok = l.entry(at) {
			offsets = append(offsets, at)
			at = prev(e, topic)
		}
	}
	for _, at := range offsets {
		n := uint64((at - 1) / l.size)
		l.segments[n] = slices.DeleteFunc(l.segments[n], func(e history.Entry) bool {
			return e.Offset == at && t.forgotten(e)
		})
	}
}

// forgotten says whether an entry is for nobody any more.
func (t *table) forgotten(e history.Entry) bool {
	return !slices.ContainsFunc(e.Links, func(l history.Link) bool { return t.forgot[l.Topic] < e.Offset })
}

// Renew begins a new epoch, unless the log has left the given one. Nodes may have
// published without the log, so nobody who comes from an earlier epoch has all.
func (l *Log) Renew(c Caller, epoch history.Epoch) history.Point {
	t := l.begin(c)
	if t.epoch == epoch {
		t.fork(c)
	}
	return t.end()
}
