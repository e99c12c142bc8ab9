package redislog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// errBegan says that an epoch has begun between two steps of one survey.
var errBegan = errors.New("the log has begun another epoch")

// Survey says what was kept for the topics since from, as store.Log does. It
// takes several steps. The log may go on meanwhile: what comes after the first
// step is behind the end that is returned, and what goes is missing.
func (l *Log) Survey(ctx context.Context, known, from history.Point, topics []string, most int) (history.Survey, error) {
	const tries = 3
	for n := 1; ; n++ {
		s, err := l.survey(ctx, known, from, topics, most)
		if err == nil {
			return s, nil
		}
		if n == tries || !errors.Is(err, errBegan) {
			return history.Survey{}, fmt.Errorf("survey of the log: %w", err)
		}
	}
}

func (l *Log) survey(ctx context.Context, known, from history.Point, topics []string, most int) (history.Survey, error) {
	w := walk{log: l, known: known, most: most}
	for first := true; first || len(topics) > 0; first = false {
		n := min(len(topics), l.bounds.asked)
		if err := w.look(ctx, from, topics[:n], first); err != nil {
			return history.Survey{}, err
		}
		topics = topics[n:]
	}
	for chains := range slices.Chunk(w.chains, l.bounds.chains) {
		if err := w.descend(ctx, chains); err != nil {
			return history.Survey{}, err
		}
	}
	return w.result(), nil
}

// A walk is a survey that is under way.
type walk struct {
	log    *Log
	known  history.Point
	most   int
	survey history.Survey
	cut    history.Offset // there were more than most: all up to here is left out
	chains []chain        // of the topics that have something
}

// A chain is a topic, and where it is.
type chain struct {
	topic string
	at    history.Offset
}

// look asks for the ends of chains. What is found in another epoch, or after the
// horizon has passed where the survey begins, says nothing about what was there.
func (w *walk) look(ctx context.Context, from history.Point, topics []string, first bool) error {
	args := append(w.log.args(w.known, 1+len(topics)), hex(from.Epoch))
	for _, topic := range topics {
		args = append(args, topic)
	}
	a, err := w.log.run(ctx, lookScript, []string{w.log.table()}, args, 6)
	if err != nil {
		return err
	}
	view := store.View{End: a.end, Horizon: history.Offset(a.number(3))}
	if s, ok := a.part(4).(string); !ok || s != "" {
		view.Survived, view.Knows = history.Offset(a.number(4)), true
	}
	lasts := a.numbers(5)
	if len(lasts) != len(topics) {
		a.fail("%d offsets for %d topics", len(lasts), len(topics))
	}
	if a.err != nil {
		return a.err
	}
	s := &w.survey
	switch {
	case first:
		s.End = view.End
		s.From, s.Whole, s.Fork = view.Start(from)
		w.known = history.Point{Epoch: s.End.Epoch}
	case view.End.Epoch != s.End.Epoch:
		return errBegan
	case view.Horizon > s.From:
		s.Whole = false
	}
	for i, at := range lasts {
		if at > s.From {
			w.chains = append(w.chains, chain{topics[i], at})
		}
	}
	return nil
}

// descend walks chains to their ends.
func (w *walk) descend(ctx context.Context, chains []chain) error {
	room := w.most + 1
	var seen []history.Offset
	for len(chains) > 0 && room > 0 {
		found, left, whole, err := w.step(ctx, chains, min(room, w.log.bounds.walked))
		if err != nil {
			return err
		}
		if !whole {
			w.survey.Whole = false
		}
		for _, at := range found {
			if at <= w.survey.End.Offset { // or it came after the first step
				seen = append(seen, at)
				room--
			}
		}
		chains = left
	}
	if len(seen) > w.most {
		w.cut = max(w.cut, seen[w.most]) // they fall
		seen = seen[:w.most]
	}
	w.survey.Offsets = append(w.survey.Offsets, seen...)
	return nil
}

// step walks chains some way. It returns the offsets that are there, falling, the
// chains that are not at their ends, and whether none broke.
func (w *walk) step(ctx context.Context, chains []chain, entries int) (found []history.Offset, left []chain, whole bool, err error) {
	l := w.log
	keys, segments := []string{l.table()}, l.highest(chains)
	args := append(l.args(w.known, 5+len(segments)+2*len(chains)),
		hex(w.survey.End.Epoch), uint64(l.config.Limits.Segment), uint64(w.survey.From), entries, l.bounds.bytes)
	for _, n := range segments {
		keys, args = append(keys, l.segment(n)), append(args, n)
	}
	for _, c := range chains {
		args = append(args, uint64(c.at), c.topic)
	}
	a, err := l.run(ctx, walkScript, keys, args, 3)
	if err != nil {
		return nil, nil, false, err
	}
	if a.end.Epoch != w.survey.End.Epoch {
		return nil, nil, false, errBegan
	}
	found, places, intact := a.numbers(3), a.numbers(4), a.number(5)
	if len(places) != len(chains) || len(found) > entries {
		a.fail("%d places for %d chains, and %d offsets", len(places), len(chains), len(found))
	}
	moved := false
	for i, at := range places {
		if at > chains[i].at {
			a.fail("a chain that goes up from %d to %d", chains[i].at, at)
		}
		if moved = moved || at != chains[i].at; at > 0 {
			left = append(left, chain{chains[i].topic, at})
		}
	}
	if !moved {
		a.fail("chains that stand still")
	}
	return found, left, intact == 1, a.err
}

// highest returns the segments in which the chains are, those with the highest
// numbers if they are many.
func (l *Log) highest(chains []chain) []uint64 {
	var segments []uint64
	for _, c := range chains {
		segments = append(segments, uint64((c.at-1)/l.config.Limits.Segment))
	}
	slices.Sort(segments)
	segments = slices.Compact(segments)
	return segments[max(0, len(segments)-l.bounds.segments):]
}

func (w *walk) result() history.Survey {
	s := w.survey
	slices.Sort(s.Offsets)
	s.Offsets = slices.Compact(s.Offsets)
	if over := len(s.Offsets) - w.most; over > 0 {
		w.cut = max(w.cut, s.Offsets[over-1])
	}
	if w.cut > 0 {
		s.From, s.Whole = w.cut, false
		i, _ := slices.BinarySearch(s.Offsets, w.cut+1)
		s.Offsets = s.Offsets[i:]
	}
	return s
}

// Read returns the entries at the offsets, as far as they are there. If the log
// is not in the epoch of the survey any more, ok is false.
func (l *Log) Read(ctx context.Context, known history.Point, epoch history.Epoch, offsets []history.Offset) (entries []history.Entry, ok bool, err error) {
	for first := true; first || len(offsets) > 0; first = false {
		some, n, ok, err := l.read(ctx, known, epoch, offsets[:min(len(offsets), l.bounds.read)])
		if err != nil {
			return nil, false, fmt.Errorf("read the log: %w", err)
		}
		if !ok {
			return nil, false, nil
		}
		entries, offsets = append(entries, some...), offsets[n:]
	}
	return entries, true, nil
}

// read reads the first n of the offsets.
func (l *Log) read(ctx context.Context, known history.Point, epoch history.Epoch, offsets []history.Offset) (entries []history.Entry, n int, ok bool, err error) {
	keys := []string{l.table()}
	index := make(map[uint64]int) // in keys, from 1
	args := append(l.args(known, 2+2*len(offsets)), hex(epoch), l.bounds.bytes)
	for _, at := range offsets {
		segment := uint64((at - 1) / l.config.Limits.Segment)
		if index[segment] == 0 {
			keys = append(keys, l.segment(segment))
			index[segment] = len(keys)
		}
		args = append(args, index[segment], uint64(at))
	}
	a, err := l.run(ctx, readScript, keys, args, 3)
	if err != nil {
		return nil, 0, false, err
	}
	if a.end.Epoch != epoch {
		return nil, 0, false, nil
	}
	n = int(a.number(3))
	list := a.list(4)
	for i := range list.parts {
		entries = append(entries, list.entry(i))
	}
	if list.err != nil {
		a.fail("an entry: %v", list.err)
	}
	if n > len(offsets) || n == 0 && len(offsets) > 0 || len(entries) > n {
		a.fail("%d entries at %d of %d offsets", len(entries), n, len(offsets))
	}
	return entries, n, true, a.err
}

// entry returns a part that is an entry.
func (a *answer) entry(i int) history.Entry {
	e := a.list(i)
	links, ok := parseLinks(e.text(2))
	entry := history.Entry{
		Offset: history.Offset(e.number(0)), Born: parseEpoch(e.text(1)), Links: links, Body: []byte(e.text(3)),
	}
	if !ok || entry.Born == 0 {
		e.fail("%.40v", e.parts)
	}
	if e.err != nil && a.err == nil {
		a.err = e.err
	}
	return entry
}
