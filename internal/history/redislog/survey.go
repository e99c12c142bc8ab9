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

// errBegan says that an epoch has begun between two steps, which count only in the
// same one. tries is how often such steps are tried at most.
var errBegan = errors.New("the log has begun another epoch")

const tries = 3

// Survey says what was kept for the topics since from, as store.Log does. It takes
// several steps. Meanwhile the log may go on: what comes after the first step lies
// behind the end that is returned, and what is removed counts as missing.
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
	var segments []uint64
	if len(topics) <= l.bounds.asked {
		segments = l.guess(from)
	}
	for first := true; first || len(topics) > 0; first = false {
		n := min(len(topics), l.bounds.asked)
		if err := w.look(ctx, from, topics[:n], segments, first); err != nil {
			return history.Survey{}, err
		}
		topics = topics[n:]
	}
	if err := w.descend(ctx); err != nil {
		return history.Survey{}, err
	}
	return w.result(), nil
}

// guess returns the segments that probably have everything that was kept since from.
// On a Cluster it returns none: while a slot moves, a script that names a missing key
// is refused (TRYAGAIN).
func (l *Log) guess(from history.Point) []uint64 {
	l.mu.Lock()
	end := l.end
	l.mu.Unlock()
	if l.config.Cluster || end.Epoch != from.Epoch || end.Offset <= from.Offset {
		return nil
	}
	return l.way([]chain{{at: end.Offset + 1, stop: from.Offset}})
}

// A walk is a survey that is under way.
type walk struct {
	log    *Log
	known  history.Point
	most   int
	survey history.Survey
	cut    history.Offset  // if not 0, there were more than most: all up to here are left out
	chains []chain         // of the topics that have something
	begun  *step           // the first step, if a look walked the chains
	read   []history.Entry // the entries, if one step was enough
}

// A chain is a topic, where it is, and where it ends.
type chain struct {
	topic    string
	at, stop history.Offset
}

// A step is the result of walking chains some way.
type step struct {
	found []history.Offset // offsets whose entries are there, falling
	left  []chain          // the chains that are not at their ends
	whole bool             // no chain broke
	moved bool
	read  []history.Entry // all of them, if they are few
}

// look asks for the ends of chains. What it finds in another epoch, or after the
// horizon has passed the beginning of the survey, does not tell what was there. If it
// gets segments, it may walk the chains as well.
func (w *walk) look(ctx context.Context, from history.Point, topics []string, segments []uint64, first bool) error {
	l, entries := w.log, min(w.most+1, w.log.bounds.walked)
	args := append(l.args(w.known, 7+len(segments)+len(topics)),
		hex(from.Epoch), uint64(from.Offset), l.bounds.chains, uint64(l.config.Limits.Segment), entries, l.bounds.bytes, l.bounds.whole)
	keys, args := l.name(segments, args)
	for _, topic := range topics {
		args = append(args, topic)
	}
	a, err := l.run(ctx, lookScript, keys, args, 8)
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
	if len(a.list(common+5).parts) > 0 {
		w.begun = a.step(common+4, w.chains, entries)
	}
	return a.err
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
	for first := true; len(chains) > 0 && room > 0; first = false {
		s, err := w.step(ctx, chains, min(room, w.log.bounds.walked))
		if err != nil {
			return err
		}
		w.read = nil
		if first && len(chains) == len(w.chains) && len(s.left) == 0 {
			w.read = s.read
		}
		if !s.whole {
			w.survey.Whole = false
		}
		for _, at := range s.found {
			if at <= w.survey.End.Offset { // otherwise it came after the first step
				seen = append(seen, at)
				room--
			}
		}
		chains = s.left
	}
	if len(seen) > w.most {
		w.cut = max(w.cut, seen[w.most]) // they fall
		seen = seen[:w.most]
	}
	w.survey.Offsets = append(w.survey.Offsets, seen...)
	return nil
}

// step walks chains some way, unless look has done so.
func (w *walk) step(ctx context.Context, chains []chain, entries int) (*step, error) {
	if begun := w.begun; begun != nil {
		w.begun = nil
		return begun, nil
	}
	l, segments := w.log, w.log.way(chains)
	args := append(l.args(w.known, 4+len(segments)+3*len(chains)),
		uint64(l.config.Limits.Segment), entries, l.bounds.bytes, l.bounds.whole)
	keys, args := l.name(segments, args)
	for _, c := range chains {
		args = append(args, uint64(c.at), uint64(c.stop), c.topic)
	}
	a, err := l.run(ctx, walkScript, keys, args, 4)
	if err != nil {
		return nil, err
	}
	if a.end.Epoch != w.survey.End.Epoch {
		return nil, errBegan
	}
	s := a.step(common, chains, entries)
	if !s.moved {
		a.fail("chains that stand still")
	}
	return s, a.err
}

// step returns the step that four parts of an answer, from first on, describe.
func (a *answer) step(first int, chains []chain, entries int) *step {
	s := &step{found: a.numbers(first), whole: a.number(first+2) == 1}
	places := a.numbers(first + 1)
	if len(places) != len(chains) || len(s.found) > entries {
		a.fail("%d places for %d chains, and %d offsets", len(places), len(chains), len(s.found))
		return s
	}
	if !slices.IsSortedFunc(s.found, func(a, b history.Offset) int { return cmp.Compare(b, a) }) {
		a.fail("offsets that do not fall")
	}
	for i, at := range places {
		if at > chains[i].at {
			a.fail("a chain that goes up from %d to %d", chains[i].at, at)
		}
		s.moved = s.moved || at != chains[i].at
		if at > 0 {
			s.left = append(s.left, chain{chains[i].topic, at, chains[i].stop})
		}
	}
	read := a.list(first + 3)
	if len(read.parts) == 0 {
		return s
	}
	if len(read.parts) != 3*len(s.found) {
		a.fail("%d parts of entries for %d offsets", len(read.parts), len(s.found))
		return s
	}
	for i, at := range slices.Backward(s.found) {
		s.read = append(s.read, read.entry(at, 3*i))
	}
	if read.err != nil {
		a.fail("an entry: %v", read.err)
	}
	return s
}

// name returns the keys of a script that walks, and adds to args the number of each
// segment.
func (l *Log) name(segments []uint64, args []any) (keys []string, _ []any) {
	keys = append(keys, l.table())
	for _, n := range segments {
		keys, args = append(keys, l.segment(n)), append(args, n)
	}
	return keys, args
}

// way returns the segments through which chains lead: the highest ones, if there are
// too many.
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
