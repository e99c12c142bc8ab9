package store

import (
	"maps"
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// next returns the segment that a batch of entries goes to, and whether the batch
// begins it.
func (l *Log) next(entries history.Offset, now int64) (n uint64, fresh bool) {
	t := l.table
	if len(t.spans) == 0 {
		return uint64((t.counter + l.size - 1) / l.size), true
	}
	s := t.spans[len(t.spans)-1]
	switch {
	case t.sealed(),
		t.counter+entries > l.size*history.Offset(s.n+1),
		now-s.began >= t.agreed.Age/8, // otherwise entries up to twice as old would be kept
		s.bytes >= t.agreed.Bytes/8:
		return s.n + 1, true
	}
	return s.n, false
}

// enter begins a segment. If its key exists already, it is that of a log whose table
// was lost.
func (l *Log) enter(n uint64, now int64) {
	t := l.table
	delete(l.segments, n)
	t.counter = l.size * history.Offset(n) // chains need no dense offsets
	t.spans = append(t.spans, span{n: n, began: now})
}

// Due returns the oldest segment if it has to be removed by the agreed retention. The
// last segment stays.
func (l *Log) Due(now int64) (n uint64, ok bool) {
	t := l.table
	if t == nil || len(t.spans) < 2 {
		return 0, false
	}
	bytes := 0
	for _, s := range t.spans {
		bytes += s.bytes
	}
	// All its entries are older than the segment after it.
	return t.spans[0].n, bytes > t.agreed.Bytes || now-t.spans[1].began >= t.agreed.Age
}

// Trim removes the segment that the caller has seen to be due, if it still is.
// Nothing else moves the horizon.
func (l *Log) Trim(c Caller, n uint64) bool {
	t := l.begin(c)
	if due, ok := l.Due(c.Now); !ok || due != n {
		return false
	}
	delete(l.segments, n)
	t.spans = slices.Delete(t.spans, 0, 1)
	t.horizon = l.size * history.Offset(n+1)
	below := func(_ string, at history.Offset) bool { return at <= t.horizon }
	maps.DeleteFunc(t.last, below)
	maps.DeleteFunc(t.forgot, below)
	return true
}

// Segments returns the keys of the segments, those of a lost table included.
func (l *Log) Segments() []uint64 { return slices.Sorted(maps.Keys(l.segments)) }

// LoseTable loses the table.
func (l *Log) LoseTable() { l.table = nil }

// LoseSegment loses one segment.
func (l *Log) LoseSegment(n uint64) { delete(l.segments, n) }
