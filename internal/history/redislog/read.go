package redislog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/redisconn"
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

// firstScan is how many entries are scanned first, when it is not known how large they are.
const firstScan = 16

// scan copies what a segment has behind an offset. No script has to read that together
// with the table, which would take four times as much of Redis' CPU: an entry that was born
// in the epoch of the copies never changes, because each offset of an epoch is given once.
func (l *Log) scan(ctx context.Context, epoch history.Epoch, s *segment, after history.Offset) error {
	last := history.Offset(s.number+1) * l.config.Limits.Segment
	for n := firstScan; ; {
		var found *redis.Cmd
		err := redisconn.Calm(func() error {
			_, err := l.config.Client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				found = pipe.Do(ctx, "XRANGE", l.segment(s.number), streamID(after+1), "+", "COUNT", n)
				return nil
			})
			return err
		})
		if err != nil {
			return err
		}
		entries, bytes, err := scanned(found.Val(), after, last)
		if err != nil || !l.copies.add(epoch, s, entries) || len(entries) < n {
			return err
		}
		after = entries[len(entries)-1].Offset
		n = max(1, min(2*n, l.bounds.walked, l.bounds.bytes*n/max(bytes, 1)))
	}
}

func streamID(at history.Offset) string { return strconv.FormatUint(uint64(at), 10) + "-0" }

// scanned returns the entries of an answer to XRANGE, which lie behind after, up to last,
// and how many bytes their bodies have.
func scanned(value any, after, last history.Offset) (entries []history.Entry, bytes int, err error) {
	a := answer{parts: []any{value}}
	list := a.list(0)
	for i := range list.parts {
		found := list.list(i)
		fields := found.list(1)
		id, _ := strings.CutSuffix(found.text(0), "-0")
		at, err := strconv.ParseUint(id, 10, 53)
		links, ok := parseLinks(fields.text(1))
		e := history.Entry{Offset: history.Offset(at), Born: parseEpoch(fields.text(0)), Links: links, Body: []byte(fields.text(3))}
		if err != nil || e.Offset <= after || e.Offset > last || !ok || e.Born == 0 || found.err != nil || fields.err != nil || !falls(e) {
			return nil, 0, fmt.Errorf("herald: a segment of the log has %.80v between %d and %d", list.parts[i], after, last)
		}
		entries, bytes, after = append(entries, e), bytes+len(e.Body), e.Offset
	}
	return entries, bytes, cmp.Or(a.err, list.err)
}

// falls reports whether the links of an entry lead down.
func falls(e history.Entry) bool {
	return !slices.ContainsFunc(e.Links, func(link history.Link) bool { return link.Prev >= e.Offset })
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
