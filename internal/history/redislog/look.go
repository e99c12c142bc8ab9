package redislog

import (
	"context"
	"slices"
	"sync"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/store"
)

// A view is what the table says when it is asked where to go on: of each topic its last
// offset, and up to where it is forgotten. There are no cuts if none is forgotten.
type view struct {
	store.View
	ends, cuts []history.Offset
}

// look runs the script that looks into the table. If it gets a guess, the script may walk
// the chains as well. Then the rest of its answer is a step.
func (l *Log) look(ctx context.Context, known, from history.Point, topics []string, guess way, entries int) (view, answer, error) {
	args := append(l.args(known, 8+len(guess.segments)+len(topics)), hex(from.Epoch), uint64(from.Offset),
		l.bounds.chains, uint64(l.config.Limits.Segment), entries, l.bounds.bytes, l.bounds.whole)
	keys, args := l.name(guess, args)
	for _, topic := range topics {
		args = append(args, topic)
	}
	a, err := l.run(ctx, lookScript, keys, args, 8)
	if err != nil {
		return view{}, answer{}, err
	}
	v := view{store.View{End: a.end, Horizon: history.Offset(a.number(common))}, a.numbers(common + 2), a.numbers(common + 3)}
	if s, ok := a.part(common + 1).(string); !ok || s != "" {
		v.Survived, v.Knows = history.Offset(a.number(common+1)), true
	}
	if len(v.ends) != len(topics) || len(v.cuts) != 0 && len(v.cuts) != len(topics) {
		a.fail("%d and %d offsets for %d topics", len(v.ends), len(v.cuts), len(topics))
	}
	if v.Horizon > v.End.Offset || v.Knows && v.Survived > v.End.Offset {
		a.fail("a log that ends at %d, and begins at %d or %d", v.End.Offset, v.Horizon, v.Survived)
	}
	return v, a, a.err
}

// looks are those that do not walk. Of each kind one is under way at a time, and whoever
// asks meanwhile shares the next one.
type looks struct {
	mu   sync.Mutex
	last map[kind]*look // that is not over
}

// Looks of a kind say the same, but for the topics.
type kind struct {
	known history.Epoch // by the readers
	from  history.Epoch // that they come from
}

// A look is run by the first of those who share it.
type look struct {
	over chan struct{} // closed when there is a view, or err
	view view
	err  error
	late bool // the time of the one who ran it was over

	// Guarded by looks.mu until it has begun.

	begun  bool
	known  history.Point // the most that one of them knows
	topics []string
}

// lookTogether looks into the table together with others.
func (l *Log) lookTogether(ctx context.Context, known history.Point, from history.Epoch, topics []string) (view, error) {
	k := kind{known.Epoch, from}
	for {
		v, late, err := l.share(ctx, k, known, topics)
		if !late || ctx.Err() != nil {
			return v, err
		}
	}
}

// share joins the next look of a kind, or runs it. late says that the look failed because
// the time of another one was over.
func (l *Log) share(ctx context.Context, k kind, known history.Point, topics []string) (v view, late bool, err error) {
	s := &l.looks
	s.mu.Lock()
	last := s.last[k]
	if last != nil && !last.begun && len(last.topics)+len(topics) <= l.bounds.asked {
		first := len(last.topics)
		last.topics = append(last.topics, topics...)
		last.known.Offset = max(last.known.Offset, known.Offset)
		s.mu.Unlock()
		if err := last.wait(ctx); err != nil {
			return view{}, false, err
		}
		v, err := last.part(first, len(topics))
		return v, last.late, err
	}
	own := &look{over: make(chan struct{}), known: known, topics: slices.Clone(topics)}
	if s.last == nil {
		s.last = make(map[kind]*look)
	}
	s.last[k] = own
	s.mu.Unlock()

	if last != nil {
		last.wait(ctx)
	}
	s.mu.Lock()
	own.begun = true
	s.mu.Unlock()
	own.view, _, own.err = l.look(ctx, own.known, history.Point{Epoch: k.from}, own.topics, way{}, 0)
	own.late = own.err != nil && ctx.Err() != nil
	s.mu.Lock()
	if s.last[k] == own {
		delete(s.last, k)
	}
	s.mu.Unlock()
	close(own.over)
	v, err = own.part(0, len(topics))
	return v, false, err
}

func (k *look) wait(ctx context.Context) error {
	select {
	case <-k.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// part returns what the look has found out for some of its topics.
func (k *look) part(first, n int) (view, error) {
	v := k.view
	if k.err == nil {
		v.ends = v.ends[first : first+n]
		if len(v.cuts) > 0 {
			v.cuts = v.cuts[first : first+n]
		}
	}
	return v, k.err
}
