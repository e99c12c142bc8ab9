package redislog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// errBegan says that an epoch has begun between two steps that count only in the same
// one. tries is how often such steps are begun again.
var errBegan = errors.New("the log has begun another epoch")

const tries = 3

// Survey says what was kept for the topics since from, as store.Log does. It
// takes several steps. The log may go on meanwhile: what comes after the first
// step is behind the end that is returned, and what goes is missing.
func (l *Log) Survey(ctx context.Context, known, from history.Point, topics []string, most int) (history.Survey, error) {
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
	if err := w.descend(ctx); err != nil {
		return history.Survey{}, err
	}
	return w.result(), nil
}

// A walk is a survey that is under way.
type walk struct {
	log    *Log
	known  history.Point
	most   int
	survey history.Survey
	cut    history.Offset  // there were more than most: all up to here is left out
	chains []chain         // of the topics that have something
	read   []history.Entry // if one step was enough
}

// A chain is a topic, where it is, and where it ends.
type chain struct {
	topic    string
	at, stop history.Offset
}

// look asks for the ends of chains. What is found in another epoch, or after the
// horizon has passed where the survey begins, says nothing about what was there.
func (w *walk) look(ctx context.Context, from history.Point, topics []string, first bool) error {
	args := append(w.log.args(w.known, 1+len(topics)), hex(from.Epoch))
	for _, topic := range topics {
		args = append(args, topic)
	}
	a, err := w.log.run(ctx, lookScript, []string{w.log.table()}, args, 4)
	if err != nil {
		return err
	}
	view := store.View{End: a.end, Horizon: history.Offset(a.number(common))}
	if s, ok := a.part(common + 1).(string); !ok || s != "" {
		view.Survived, view.Knows = history.Offset(a.number(common+1)), true
	}
	ends, cuts := a.numbers(common+2), a.numbers(common+3)
	if len(ends) != len(topics) || len(cuts) != 0 && len(cuts) != len(topics) {
		a.fail("%d and %d offsets for %d topics", len(ends), len(cuts), len(topics))
	}
	if view.Horizon > view.End.Offset || view.Knows && view.Survived > view.End.Offset {
		a.fail("a log that ends at %d, and begins at %d or %d", view.End.Offset, view.Horizon, view.Survived)
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
	for i, at := range ends {
		stop := s.From
		if len(cuts) > 0 && cuts[i] > stop {
			stop, s.Whole = cuts[i], false
		}
		if at > stop {
			w.chains = append(w.chains, chain{topics[i], at, stop})
		}
	}
	return nil
}

// descend walks all chains to their ends.
func (w *walk) descend(ctx context.Context) error {
	for chains := range slices.Chunk(w.chains, w.log.bounds.chains) {
		if err := w.descendSome(ctx, chains); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) descendSome(ctx context.Context, chains []chain) error {
	room := w.most + 1
	var seen []history.Offset
	for len(chains) > 0 && room > 0 {
		only := len(chains) == len(w.chains) && len(seen) == 0
		found, left, whole, err := w.step(ctx, chains, min(room, w.log.bounds.walked))
		if err != nil {
			return err
		}
		if !only || len(left) > 0 {
			w.read = nil
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
	keys, segments := []string{l.table()}, l.way(chains)
	args := append(l.args(w.known, 4+len(segments)+3*len(chains)),
		uint64(l.config.Limits.Segment), entries, l.bounds.bytes, l.bounds.whole)
	for _, n := range segments {
		keys, args = append(keys, l.segment(n)), append(args, n)
	}
	for _, c := range chains {
		args = append(args, uint64(c.at), uint64(c.stop), c.topic)
	}
	a, err := l.run(ctx, walkScript, keys, args, 4)
	if err != nil {
		return nil, nil, false, err
	}
	if a.end.Epoch != w.survey.End.Epoch {
		return nil, nil, false, errBegan
	}
	found, places, intact := a.numbers(common), a.numbers(common+1), a.number(common+2)
	if len(places) != len(chains) || len(found) > entries {
		a.fail("%d places for %d chains, and %d offsets", len(places), len(chains), len(found))
	}
	if !slices.IsSortedFunc(found, func(a, b history.Offset) int { return cmp.Compare(b, a) }) {
		a.fail("offsets that do not fall")
	}
	w.take(&a, found)
	moved := false
	for i, at := range places {
		if at > chains[i].at {
			a.fail("a chain that goes up from %d to %d", chains[i].at, at)
		}
		if moved = moved || at != chains[i].at; at > 0 {
			left = append(left, chain{chains[i].topic, at, chains[i].stop})
		}
	}
	if !moved {
		a.fail("chains that stand still")
	}
	return found, left, intact == 1, a.err
}

// take takes the entries at the offsets, which fall, if the answer to a step has them.
func (w *walk) take(a *answer, found []history.Offset) {
	list := a.list(common + 3)
	w.read = nil
	if len(list.parts) == 0 {
		return
	}
	if len(list.parts) != len(found) {
		a.fail("%d entries for %d offsets", len(list.parts), len(found))
		return
	}
	for i, at := range slices.Backward(found) {
		e := list.list(i)
		if at <= w.survey.End.Offset {
			w.read = append(w.read, e.entry(at, 0))
		}
		if e.err != nil {
			a.fail("an entry: %v", e.err)
			return
		}
	}
}

// way returns the segments through which chains lead, the highest if there are too many.
func (l *Log) way(chains []chain) (segments []uint64) {
	top, end := chains[0].at, chains[0].stop
	for _, c := range chains {
		top, end = max(top, c.at), min(end, c.stop)
	}
	size := l.config.Limits.Segment
	last, n := uint64((top-1)/size), uint64(end/size)
	n = max(n, last-min(last, uint64(l.bounds.segments-1)))
	for ; n <= last; n++ {
		segments = append(segments, n)
	}
	return segments
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
	} else if len(w.read) == len(s.Offsets) {
		s.Entries = w.read
	}
	return s
}
