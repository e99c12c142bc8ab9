package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/heraldgo/herald/internal/batch"
	"github.com/heraldgo/herald/internal/errs"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/store"
)

const (
	maxBatch    = 64 // drafts of one append, or it blocks the server
	maxBytes    = 1 << 20
	topicSize   = maxBytes / 1024 // the least that a topic counts, because a log takes 1,024 of them in a batch
	maxAttempts = 8               // of one batch that named the wrong epoch or segment
)

var errNotTaken = errors.New("the log moved under each attempt")

// Append appends a message to the log of a partition, publishes it, and waits for the
// answer. Drafts of many callers go in one batch, in the order of the calls. The
// Driver uses the draft until Append returns.
//
// If the error wraps errs.Unknown, the message may have been appended. After any
// other error it was not published either. An Unkept draft needs no log: it is
// published alone if the log refuses the batch.
func (d *Driver) Append(ctx context.Context, partition int, draft store.Draft) error {
	err := d.sides[partition].batcher.Do(ctx, draft)
	return errs.OfPublish(ctx, err, d.Health)
}

func (s *side) newBatcher() *batch.Batcher[store.Draft] {
	return batch.New(batch.Config[store.Draft]{
		Commit: s.commit, Size: size, MaxItems: maxBatch, MaxBytes: maxBytes,
	})
}

func size(d store.Draft) int {
	n := len(d.Body)
	for _, topic := range d.Topics {
		n += max(len(topic), topicSize)
	}
	return n
}

// commit appends a batch. The batcher runs one at a time.
func (s *side) commit(drafts []store.Draft) []error {
	ctx, cancel := context.WithTimeout(s.d.ctx, appendTimeout)
	defer cancel()
	for range maxAttempts {
		s.mu.Lock()
		known, segment := s.publisher.Known(), s.publisher.Segment()
		s.mu.Unlock()
		reply, err := s.log.Append(ctx, known, segment, drafts)
		if err != nil {
			return s.refused(ctx, drafts, err)
		}
		s.mu.Lock()
		again := s.publisher.Replied(known, reply)
		s.mu.Unlock()
		s.tellMet(reply.End.Epoch)
		if !again {
			return nil
		}
	}
	return s.refused(ctx, drafts, errNotTaken)
}

// tellMet tells the feed of an epoch that an append has met.
func (s *side) tellMet(epoch history.Epoch) {
	if epoch != s.told {
		s.told = epoch
		s.d.post(func() { s.do(s.feed.Met(epoch)) })
	}
}

// refused returns the errors of a batch that the log may not have taken. If the log
// certainly has not, the drafts that are not to be kept are published alone.
func (s *side) refused(ctx context.Context, drafts []store.Draft, why error) []error {
	var alone error
	if !errors.Is(why, errs.Unknown) {
		why = fmt.Errorf("%w: not kept, and so not sent: %w", errs.BusDown, why)
		if rest := node.Alone(drafts); len(rest) > 0 {
			alone = s.log.Publish(ctx, rest)
		}
	} else {
		alone = why
	}
	results := make([]error, len(drafts))
	for i, d := range drafts {
		if results[i] = why; d.Unkept {
			results[i] = alone
		}
	}
	return results
}

// End returns the ends of the logs. What was appended before the call lies before
// them, and what is appended after End has returned lies behind.
func (d *Driver) End(ctx context.Context) (history.Positions, error) {
	var ends history.Positions
	results := make([]error, len(d.sides))
	var surveys sync.WaitGroup
	for i, s := range d.sides {
		surveys.Go(func() {
			known := s.known()
			survey, err := s.log.Survey(ctx, known, history.Point{}, nil, 0)
			if ends[i], results[i] = survey.End, err; err == nil {
				d.post(func() { s.met(known, survey.End) })
			}
		})
	}
	surveys.Wait()
	if err := cmp.Or(results...); err != nil {
		return history.Positions{}, fmt.Errorf("%w: %w", errs.BusDown, err)
	}
	return ends, nil
}

// Forget makes the log of a partition forget what it keeps for topics. Devices that
// have not had all of that are told that something may be missing.
func (d *Driver) Forget(ctx context.Context, partition int, topics ...string) error {
	s := d.sides[partition]
	if err := s.log.Forget(ctx, s.known(), topics); err != nil {
		return fmt.Errorf("%w: %w", errs.BusDown, err)
	}
	return nil
}
