package redislog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/history"
)

// errBegan says that an epoch has begun between two steps, which count only in the
// same one. tries is how often such steps are tried at most.
var errBegan = errors.New("the log has begun another epoch")

const tries = 3

// Survey says what was kept for the topics since from, as store.Log does. It takes
// several steps. Meanwhile the log may go on: what comes after the first step lies
// behind the end that is returned, and what is removed counts as missing, unless the node
// has a copy of it.
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
	var guess way
	if len(topics) <= l.bounds.asked {
		guess = l.guess(from)
	}
	for first := true; first || len(topics) > 0; first = false {
		n := min(len(topics), l.bounds.asked)
		if err := w.look(ctx, from, topics[:n], guess, first); err != nil {
			return history.Survey{}, err
		}
		topics = topics[n:]
	}
	w.copy(ctx)
	if err := w.descend(ctx); err != nil {
		return history.Survey{}, err
	}
	return w.result(), nil
}

// guess returns the way that probably has everything that was kept since from. It returns
// none if the node has a copy of some of that, or is about to make one. On a Cluster it
// returns none either: while a slot moves, a script that names a missing key is refused
// (TRYAGAIN).
func (l *Log) guess(from history.Point) way {
	l.mu.Lock()
	end := l.end
	l.mu.Unlock()
	if l.config.Cluster || end.Epoch != from.Epoch || end.Offset <= from.Offset {
		return way{}
	}
	if l.copies.due(end, end.Offset, from.Offset) || l.copies.top(end.Epoch, end.Offset+1, from.Offset) > from.Offset {
		return way{}
	}
	return l.way(end.Epoch, []chain{{at: end.Offset + 1, stop: from.Offset}})
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
	read   []history.Entry // the entries
	bytes  int             // of read
	unread bool            // read does not have all entries
}

// A chain is a topic, where it is, and where it ends.
type chain struct {
	topic    string
	at, stop history.Offset
}

// A way is where a script walks: through these segments, and down to bottom.
type way struct {
	segments []uint64
	bottom   history.Offset
}

// A step is the result of walking chains some way.
type step struct {
	found []history.Offset // offsets whose entries are there, falling
	left  []chain          // the chains that are not at their ends
	whole bool             // no chain broke
	moved bool
	read  []history.Entry // all of them, if they are few or the node has copies of them
}

// look asks for the ends of chains. What it finds in another epoch, or after the
// horizon has passed the beginning of the survey, does not tell what was there. If it
// gets a guess, it may walk the chains as well.
func (w *walk) look(ctx context.Context, from history.Point, topics []string, guess way, first bool) error {
	l, entries := w.log, min(w.most+1, w.log.bounds.walked)
	var v view
	var a answer
	var err error
	if len(guess.segments) > 0 {
		v, a, err = l.look(ctx, w.known, from, topics, guess, entries)
	} else {
		v, err = l.lookTogether(ctx, w.known, from.Epoch, topics)
	}
	if err != nil {
		return err
	}
	s := &w.survey
	switch {
	case first:
		s.End = v.End
		s.From, s.Whole, s.Fork = v.Start(from)
		w.known = history.Point{Epoch: s.End.Epoch}
	case v.End.Epoch != s.End.Epoch:
		return errBegan
	case v.Horizon > s.From:
		s.Whole = false
	}
	for i, at := range v.ends {
		stop := s.From
		if len(v.cuts) > 0 && v.cuts[i] > stop {
			stop, s.Whole = v.cuts[i], false
		}
		if at > stop {
			w.chains = append(w.chains, chain{topics[i], at, stop})
		}
	}
	if len(guess.segments) > 0 && len(a.list(common+5).parts) > 0 {
		w.begun = a.step(common+4, w.chains, entries)
	}
	if a.err == nil && w.begun != nil {
		l.copies.looked(s.End.Epoch, w.begun.found)
	}
	return a.err
}

// copy copies the segments that should be, of those through which the chains lead. If that
// fails, the survey does without.
func (w *walk) copy(ctx context.Context) {
	if w.begun != nil || len(w.chains) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, copyingFor)
	defer cancel()
	top, stop := ends(w.chains)
	for {
		s, after := w.log.copies.begin(w.survey.End, top, stop)
		if s == nil {
			return
		}
		err := w.log.scan(ctx, w.survey.End.Epoch, s, after)
		w.log.copies.end()
		if err != nil {
			return
		}
	}
}

// copyingFor is how much of its time a survey spends on copies.
const copyingFor = 500 * time.Millisecond

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
		s, err := w.step(ctx, chains, min(room, w.log.bounds.walked))
		if err != nil {
			return err
		}
		w.took(s)
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

// took takes the entries that a step has read, unless they become many.
func (w *walk) took(s *step) {
	for _, e := range s.read {
		w.bytes += len(e.Body)
	}
	if len(s.read) < len(s.found) || w.bytes > w.log.bounds.bytes {
		w.unread = true
	}
	if !w.unread {
		w.read = append(w.read, s.read...)
	}
}

// step walks chains some way, unless look has done so: in the copies, or by a script down
// to the next copy.
func (w *walk) step(ctx context.Context, chains []chain, entries int) (*step, error) {
	if begun := w.begun; begun != nil {
		w.begun = nil
		return begun, nil
	}
	l := w.log
	if s := l.copies.walk(w.survey.End.Epoch, chains, entries); s != nil {
		return s, nil
	}
	through := l.way(w.survey.End.Epoch, chains)
	args := append(l.args(w.known, 5+len(through.segments)+3*len(chains)),
		uint64(l.config.Limits.Segment), entries, l.bounds.bytes, l.bounds.whole)
	keys, args := l.name(through, args)
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
	if a.err == nil {
		l.copies.looked(w.survey.End.Epoch, s.found)
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

// name returns the keys of a script that walks, and adds to args the bottom and the number
// of each segment.
func (l *Log) name(w way, args []any) (keys []string, _ []any) {
	keys, args = append(keys, l.table()), append(args, uint64(w.bottom))
	for _, n := range w.segments {
		keys, args = append(keys, l.segment(n)), append(args, n)
	}
	return keys, args
}

// way returns the way of chains down to the next copy: the highest segments, if there are
// too many.
func (l *Log) way(epoch history.Epoch, chains []chain) way {
	top, stop := ends(chains)
	w := way{bottom: l.copies.top(epoch, top, stop)}
	size := l.config.Limits.Segment
	last, n := uint64((top-1)/size), uint64(w.bottom/size)
	n = max(n, last-min(last, uint64(l.bounds.segments-1)))
	for ; n <= last; n++ {
		w.segments = append(w.segments, n)
	}
	return w
}

// ends returns where the highest of chains is, and where the last one ends.
func ends(chains []chain) (top, stop history.Offset) {
	top, stop = chains[0].at, chains[0].stop
	for _, c := range chains {
		top, stop = max(top, c.at), min(stop, c.stop)
	}
	return top, stop
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
	} else if !w.unread {
		s.Entries = w.entries()
	}
	return s
}

// entries returns what was read up to the end of the survey, each entry once.
func (w *walk) entries() []history.Entry {
	slices.SortFunc(w.read, func(a, b history.Entry) int { return cmp.Compare(a.Offset, b.Offset) })
	n, _ := slices.BinarySearchFunc(w.read, w.survey.End.Offset+1, func(e history.Entry, at history.Offset) int {
		return cmp.Compare(e.Offset, at)
	})
	return slices.CompactFunc(w.read[:n], func(a, b history.Entry) bool { return a.Offset == b.Offset })
}
