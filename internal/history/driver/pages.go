package driver

import (
	"context"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

const (
	maxRead    = 512         // entries of one read
	forgetting = time.Second // the least time between two occasions on which much that was read ahead is forgotten
	entryCost  = 192         // bytes of memory that an entry takes without its body
)

// reads are the pages that a partition is to read, one batch at a time.
type reads struct {
	ready []*question
	busy  bool
}

// read reads the pages that several devices wait for, each entry once. It also reads
// ahead what they will ask for next: a page may be so small that reading page by page
// would not catch up with a flood.
func (s *side) read() {
	batch, offsets := s.batch()
	if len(batch) == 0 {
		return
	}
	s.reads.busy = true
	more := s.more(batch, offsets)
	known, epoch := s.known(), batch[0].ask.From.Epoch
	s.d.callFor(readTimeout, func(ctx context.Context) func() {
		x, ok, err := s.log.Read(ctx, known, epoch, offsets, more)
		return func() {
			s.reads.busy = false
			s.heard(err)
			for _, q := range batch {
				q.read(x, ok, err)
			}
			s.d.turns()
		}
	})
}

// batch takes the questions that are read together from ready, and returns the
// offsets of their pages.
func (s *side) batch() (batch []*question, offsets []history.Offset) {
	for ; len(s.reads.ready) > 0; s.reads.ready = s.reads.ready[1:] {
		q := s.reads.ready[0]
		if !q.counts() {
			continue
		}
		if len(batch) > 0 && (q.ask.From.Epoch != batch[0].ask.From.Epoch || len(offsets)+q.ask.Page > maxRead) {
			break // the others wait, so that no batch looks at thousands
		}
		q.stage = running
		batch, offsets = append(batch, q), append(offsets, q.ask.Offsets[:q.ask.Page]...)
	}
	slices.Sort(offsets)
	return batch, slices.Compact(offsets)
}

// more returns what a batch reads ahead: nothing while half of the budget is taken.
func (s *side) more(batch []*question, offsets []history.Offset) (more []history.Offset) {
	if r := &s.d.replays; r.bytes+r.ahead >= r.most/2 {
		return nil
	}
	for _, q := range batch {
		next := q.ask.Offsets[q.ask.Page:]
		more = append(more, next[:max(0, min(len(next), maxRead-len(offsets)-len(more)))]...)
	}
	slices.Sort(more)
	return slices.DeleteFunc(slices.Compact(more), func(at history.Offset) bool {
		_, ok := slices.BinarySearch(offsets, at)
		return ok
	})
}

// read takes what was read for a batch that has this question.
func (q *question) read(x history.Excerpt, ok bool, err error) {
	switch {
	case !q.counts():
	case err != nil:
		q.answered(err, true, nil)
	case !ok:
		q.answered(nil, false, func() device.Step { return q.device.Entries(q.side.partition, q.ask.Round, nil, false) })
	default:
		q.hold(x.For(q.ask.Offsets))
		q.answered(nil, true, q.fromNear)
	}
}

// page returns the entries of the page, and what was read behind it, if the whole
// page was read already.
func (q *question) page() (entries []history.Entry, rest history.Excerpt, ok bool) {
	return q.ahead.Page(q.ask.Offsets[:q.ask.Page])
}

// isNear reports whether the node has the answer.
func (q *question) isNear() bool {
	_, _, ok := q.page()
	return ok || q.ask.Near
}

// hold keeps what was read, instead of what was held before.
func (q *question) hold(x history.Excerpt) {
	cost := 0
	for _, e := range x.Entries {
		cost += len(e.Body) + entryCost
	}
	q.d.replays.ahead += cost - q.aheadCost
	q.ahead, q.aheadCost = x, cost
}

// fromNear answers a page that the node has.
func (q *question) fromNear() device.Step {
	if q.ask.Near {
		return q.device.Follow(q.side.partition, q.ask.Round)
	}
	entries, rest, _ := q.page()
	defer clear(entries) // otherwise they would stay in memory as long as the rest
	q.hold(rest)
	return q.device.Entries(q.side.partition, q.ask.Round, entries, true)
}

// forget gives up what was read ahead if that and the pages take the whole budget. If
// it takes half of it alone, some of it may be for clients that read slowly, while
// nothing is read ahead for others. So that is given up too, from time to time.
func (d *Driver) forget() {
	r := &d.replays
	much := r.ahead >= r.most/2 && time.Since(r.forgot) >= forgetting
	if r.ahead == 0 || r.bytes+r.ahead < r.most && !much {
		return
	}
	r.forgot = time.Now()
	for s := range d.sessions {
		for _, q := range s.open {
			q.hold(history.Excerpt{})
		}
	}
}
