package store

import (
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// Forget forgets what is kept for topics. Entries for no other topic are removed. The
// chains still say where they ended, so only a reader who has not had everything that
// was kept for one of its topics is told that something may be missing.
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

// forgotten reports whether all topics of an entry are forgotten.
func (t *table) forgotten(e history.Entry) bool {
	return !slices.ContainsFunc(e.Links, func(l history.Link) bool { return t.forgot[l.Topic] < e.Offset })
}

// Renew begins a new epoch, unless the log has left the given one. Nodes may have
// published without the log, so a reader who comes from an earlier epoch may lack
// messages.
func (l *Log) Renew(c Caller, epoch history.Epoch) history.Point {
	t := l.begin(c)
	if t.epoch == epoch {
		t.fork(c)
	}
	return t.end()
}
