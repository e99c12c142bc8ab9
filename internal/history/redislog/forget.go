package redislog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// Forget forgets what is kept for topics, as store.Log does. Nothing of it is found
// from the first step on. Then the entries are removed, those with the lowest offsets
// first. If that fails, the chains still lead to the rest, and Forget may be called
// again.
func (l *Log) Forget(ctx context.Context, known history.Point, topics []string) error {
	for some := range slices.Chunk(topics, l.bounds.asked/2) {
		err := errBegan
		for range tries {
			if err = l.forget(ctx, known, some); !errors.Is(err, errBegan) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("forget in the log: %w", err)
		}
	}
	return nil
}

func (l *Log) forget(ctx context.Context, known history.Point, topics []string) error {
	args := l.args(known, len(topics))
	for _, topic := range topics {
		args = append(args, topic)
	}
	a, err := l.run(ctx, forgetScript, []string{l.table()}, args, 2)
	if err != nil {
		return err
	}
	horizon, ends := history.Offset(a.number(common)), a.numbers(common+1)
	if len(ends) != len(topics) {
		a.fail("%d offsets for %d topics", len(ends), len(topics))
	}
	if a.err != nil {
		return a.err
	}
	w := walk{log: l, known: history.Point{Epoch: a.end.Epoch}, most: math.MaxInt - 1}
	w.survey.End = a.end
	for i, at := range ends {
		if at > horizon {
			w.chains = append(w.chains, chain{topics[i], at, horizon})
		}
	}
	if err := w.descend(ctx); err != nil {
		return err
	}
	return l.erase(ctx, w.known, w.result().Offsets)
}

// erase removes those of the entries at the offsets whose topics are all forgotten.
func (l *Log) erase(ctx context.Context, known history.Point, offsets []history.Offset) error {
	for page := range slices.Chunk(offsets, l.bounds.read) {
		keys, args := l.places(l.args(known, 2*len(page)), page)
		a, err := l.run(ctx, eraseScript, keys, args, 0)
		if err != nil {
			return err
		}
		if a.end.Epoch != known.Epoch {
			return errBegan
		}
	}
	return nil
}
