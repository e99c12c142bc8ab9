package driver

import (
	"context"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/rate"
)

// maxSurveys is how many surveys of devices may be under way.
const maxSurveys = 8

// A stage of a question: see the diagram in doc.go.
type stage uint8

const (
	waiting stage = iota
	ready
	running
	paused
)

// A question is what a device asks of a log. It counts as long as it is among the
// open ones of its session.
type question struct {
	*Session
	side  *side
	ask   device.Ask
	stage stage
	asked time.Time // since when it is ready
	told  bool      // the client was told that there is no answer
	until time.Time // if paused

	ahead     history.Excerpt // what was read already, beginning with the page
	aheadCost int
}

// replays are what the questions of all partitions share.
type replays struct {
	surveys []*question // ready
	near    []*question // ready, and the node has their answers
	running int         // surveys under way
	paused  []*question // in the order of their times

	rate   int // surveys a second
	burst  int // and at once
	bucket rate.Bucket

	bytes  int       // of the pages that wait in queues
	ahead  int       // bytes of what was read ahead
	most   int       // the most of both together
	forgot time.Time // when what was read ahead was forgotten last
}

func (q *question) counts() bool { return q.open[q.side.partition] == q }

// step does what the device says, and returns the device's new question, if it asks
// one.
func (s *Session) step(partition int, step device.Step) (q *question) {
	for _, f := range step.Frames {
		s.conn.Replay(f)
		s.bytes += len(f.Body)
		s.d.replays.bytes += len(f.Body)
	}
	if step.Ask.Round != 0 {
		q = s.ask(partition, step.Ask)
	}
	if len(s.open) == 0 {
		s.release() // it is live, and its queue is like any other
	}
	return q
}

// ask replaces the open question, if there is one, by a new one.
func (s *Session) ask(partition int, ask device.Ask) *question {
	if s.open == nil {
		s.open = make(map[int]*question)
	}
	if old := s.open[partition]; old != nil {
		old.hold(history.Excerpt{})
	}
	q := &question{Session: s, side: s.d.sides[partition], ask: ask}
	s.open[partition] = q
	return q
}

// isPage reports whether the question is for a page, and not for a survey.
func (q *question) isPage() bool { return q.ask.Near || len(q.ask.Offsets) > 0 }

// proceed makes waiting questions ready if there is room. Of the pages it takes one
// at a time, because there may be no room for two.
func (s *Session) proceed() {
	s.waits.Store(len(s.open) > 0) // before it looks: Drained may come in between
	if len(s.open) == 0 || !s.conn.Room() {
		return
	}
	s.release()
	var page *question
	reads := false
	for _, q := range s.open {
		switch {
		case q.stage != waiting:
			reads = reads || q.isPage() && q.stage != paused
		case !q.isPage():
			q.ready()
			s.d.replays.surveys = append(s.d.replays.surveys, q)
		case page == nil || q.before(page):
			page = q
		}
	}
	if page != nil && !reads {
		page.ready()
		to := &page.side.reads.ready
		if page.isNear() {
			to = &page.d.replays.near
		}
		*to = append(*to, page)
	}
}

// before reports whether a page comes before another one. A question without an answer
// for long comes last. Otherwise the partitions take turns: if one were read to its
// end first, its messages would be long past, and forgotten, when their copies come
// in the next.
func (q *question) before(other *question) bool {
	if q.told != other.told {
		return other.told
	}
	return q.ask.Round < other.ask.Round
}

func (q *question) ready() {
	q.stage = ready
	if q.asked.IsZero() {
		q.asked = time.Now()
	}
}

// release gives back what the session's pages have taken of the budget.
func (s *Session) release() {
	s.d.replays.bytes -= s.bytes
	s.bytes = 0
}

// turns puts the questions to the logs whose turn it is.
func (d *Driver) turns() {
	r := &d.replays
	for len(r.surveys) > 0 && r.running < maxSurveys {
		if q := r.surveys[0]; q.counts() {
			if !r.bucket.Spend(clock.Now(), 1, int64(r.rate), int64(r.burst)) {
				d.alarm.by(time.Now().Add(time.Second / time.Duration(r.rate)))
				break
			}
			d.survey(q)
		}
		r.surveys = r.surveys[1:]
	}
	d.forget()
	for len(r.near) > 0 && r.bytes < r.most {
		q := r.near[0]
		r.near = r.near[1:]
		if q.isNear() {
			q.answered(nil, true, q.fromNear)
		} else { // what was read ahead was forgotten
			q.side.reads.ready = append(q.side.reads.ready, q)
		}
	}
	for _, s := range d.sides {
		if len(s.reads.ready) > 0 && !s.reads.busy && r.bytes < r.most {
			s.read()
		}
	}
}

// tellLate tells clients that something may be missing if their turn has not come for
// long: others may hold the whole budget, and read slowly.
func (d *Driver) tellLate() {
	for _, q := range slices.Concat(d.replays.surveys, d.replays.near) {
		q.tellLate()
	}
	for _, s := range d.sides {
		for _, q := range s.reads.ready {
			q.tellLate()
		}
	}
}

// tellLate tells the client so, once, if the question counts and has had no answer
// for long.
func (q *question) tellLate() {
	if q.counts() && !q.told && time.Since(q.asked) >= giveUp {
		q.told = true
		q.conn.Queue(q.device.Gap(q.side.partition))
	}
}

// survey makes the survey that a device asks for.
func (d *Driver) survey(q *question) {
	q.stage = running
	d.replays.running++
	s, known, topics := q.side, q.side.known(), q.conn.Topics(q.side.partition)
	d.call(func(ctx context.Context) func() {
		survey, err := s.log.Survey(ctx, known, q.ask.From, topics, q.ask.Most)
		x := history.Excerpt{Offsets: survey.Offsets, Entries: survey.Entries}
		survey.Entries = nil
		return func() {
			d.replays.running--
			s.heard(err)
			if err == nil {
				s.met(known, survey.End)
			}
			q.answered(err, len(survey.Offsets) == 0, func() device.Step {
				if len(x.Entries) > 0 {
					q.hold(x)
				}
				return q.device.Surveyed(s.partition, q.ask.Round, survey)
			})
			d.turns()
		}
	})
}

// answered takes the answer to the question, or the error instead of it. If the
// answer fills the queue and another one has taken the room, the question waits
// again.
func (q *question) answered(err error, fills bool, step func() device.Step) {
	if !q.counts() {
		return
	}
	switch {
	case err != nil:
		q.tellLate()
		q.pause()
	case fills && !q.conn.Room():
		q.stage, q.asked = waiting, time.Time{}
	default:
		answer := step()
		ahead := q.ahead
		q.hold(history.Excerpt{})
		delete(q.open, q.side.partition)
		switch next := q.step(q.side.partition, answer); {
		case next == nil:
		case len(next.ask.Offsets) > 0:
			next.hold(ahead)
		case next.ask.From == q.ask.From:
			next.pause() // nothing new: the node's feed is behind
		}
	}
	q.proceed()
}

// pause puts the question again after a pause.
func (q *question) pause() {
	q.stage, q.until = paused, time.Now().Add(pause)
	q.d.replays.paused = append(q.d.replays.paused, q)
	q.d.alarm.by(q.until)
}

// resume puts the questions again whose pause is over.
func (d *Driver) resume(now time.Time) {
	r := &d.replays
	for len(r.paused) > 0 {
		q := r.paused[0]
		if now.Before(q.until) {
			d.alarm.by(q.until)
			return
		}
		r.paused = r.paused[1:]
		if q.stage = waiting; q.counts() {
			q.proceed()
		}
	}
}
