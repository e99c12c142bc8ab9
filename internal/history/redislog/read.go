package redislog

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// Read returns the entries at the offsets. It also looks at the first ones of more,
// which are other offsets, as far as the last call of a script has room for them. ok
// is false if the log is no longer in the epoch of the survey.
func (l *Log) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets, more []history.Offset) (x history.Excerpt, ok bool, err error) {
	wanted := slices.Concat(offsets, more)
	for looked := -1; looked < len(offsets); looked = len(x.Offsets) {
		rest := wanted[max(looked, 0):]
		some, n, ok, err := l.read(ctx, known, epoch, rest[:min(len(rest), l.bounds.read)])
		if err != nil {
			return history.Excerpt{}, false, fmt.Errorf("read the log: %w", err)
		}
		if !ok {
			return history.Excerpt{}, false, nil
		}
		x.Entries, x.Offsets = append(x.Entries, some...), append(x.Offsets, rest[:n]...)
	}
	if len(more) > 0 {
		slices.Sort(x.Offsets)
		slices.SortFunc(x.Entries, func(a, b history.Entry) int { return cmp.Compare(a.Offset, b.Offset) })
	}
	return x, true, nil
}

// read reads some of the offsets: the first n.
func (l *Log) read(ctx context.Context, known history.Point, epoch history.Epoch, offsets []history.Offset) (entries []history.Entry, n int, ok bool, err error) {
	keys, args := l.places(append(l.args(known, 1+2*len(offsets)), l.bounds.bytes), offsets)
	a, err := l.run(ctx, readScript, keys, args, 2)
	if err != nil {
		return nil, 0, false, err
	}
	if a.end.Epoch != epoch {
		return nil, 0, false, nil
	}
	n = int(a.number(common))
	list := a.list(common + 1)
	for i := range list.parts {
		e := list.list(i)
		entries = append(entries, e.entry(history.Offset(e.number(0)), 1))
		if e.err != nil && list.err == nil {
			list.err = e.err
		}
	}
	if list.err != nil {
		a.fail("an entry: %v", list.err)
	}
	if n > len(offsets) || n == 0 && len(offsets) > 0 {
		a.fail("%d of %d offsets", n, len(offsets))
		n = 0
	}
	asked := offsets[:n]
	for _, e := range entries {
		i := slices.Index(asked, e.Offset)
		if i < 0 {
			a.fail("an entry at %d that was not asked for", e.Offset)
			break
		}
		asked = asked[i+1:]
	}
	return entries, n, true, a.err
}

// places returns the keys of the table and of the segments that the offsets are in.
// For each offset it adds to args which of these keys its segment is, and the offset.
func (l *Log) places(args []any, offsets []history.Offset) (keys []string, _ []any) {
	keys = append(keys, l.table())
	index := make(map[uint64]int) // in keys, from 1
	for _, at := range offsets {
		segment := uint64((at - 1) / l.config.Limits.Segment)
		if index[segment] == 0 {
			keys = append(keys, l.segment(segment))
			index[segment] = len(keys)
		}
		args = append(args, index[segment], uint64(at))
	}
	return keys, args
}

// entry returns the entry at an offset. Its other fields are the parts from first on.
func (a *answer) entry(at history.Offset, first int) history.Entry {
	links, ok := parseLinks(a.text(first + 1))
	entry := history.Entry{Offset: at, Born: parseEpoch(a.text(first)), Links: links, Body: []byte(a.text(first + 2))}
	if !ok || entry.Born == 0 {
		a.fail("%.40v", a.parts)
	}
	return entry
}
