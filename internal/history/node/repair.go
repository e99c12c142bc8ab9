package node

import "github.com/heraldgo/herald/internal/history"

// ask begins to fill what is missing: a new round.
func (f *Feed) ask(s *Step) {
	f.state, f.spilt = asked, false
	f.round++
	s.Ask = Ask{Round: f.round, From: f.at, Most: f.limits.Survey}
}

// Surveyed takes the answer to a survey.
func (f *Feed) Surveyed(round uint64, survey history.Survey) Step {
	var s Step
	if f.state != asked || round != f.round {
		return s
	}
	switch {
	case f.at.Epoch == 0: // nothing was followed before
		survey.Whole, survey.Offsets = true, nil
		f.enter(history.Fork{Epoch: survey.End.Epoch, At: survey.End.Offset}, survey.End.Offset)
	case survey.End.Epoch != f.at.Epoch:
		s.Fork = survey.Fork
		if s.Fork.Parent != f.at.Epoch {
			// Nobody can tell what survived. But everything of the new epoch has come
			// since, or will come, even if the survey has seen it.
			if first, ok := f.firstHeld(func(e history.Epoch) bool { return e == s.Fork.Epoch }); ok {
				s.Fork.At = min(s.Fork.At, first.Offset-1)
				survey.From, survey.End.Offset = s.Fork.At, s.Fork.At
			}
		}
		f.enter(s.Fork, survey.From)
	default:
		f.at.Offset = max(f.at.Offset, survey.From) // the horizon may have come nearer
	}
	s.Gap = f.doubt || !survey.Whole
	f.doubt = false
	f.backlog = history.Backlog{Survey: survey}
	f.read(&s)
	return s
}

// firstHeld returns the point of the first held packet that is kept and whose epoch
// counts.
func (f *Feed) firstHeld(counts func(history.Epoch) bool) (at history.Point, ok bool) {
	for _, p := range f.held {
		if p.Kept && counts(p.At.Epoch) {
			return p.At, true
		}
	}
	return at, false
}

// enter goes on in another epoch, behind from.
func (f *Feed) enter(fork history.Fork, from history.Offset) {
	f.trail.Leave(history.Point{Epoch: f.at.Epoch, Offset: f.recent.last()})
	f.at = history.Point{Epoch: fork.Epoch, Offset: from}
	f.chains.cross(from, fork.At)
	f.recent.begin(from)
}

// read asks for the next page, or ends the repair if there is none.
func (f *Feed) read(s *Step) {
	page := f.backlog.Page(f.limits.Page)
	if len(page) == 0 {
		f.merge(s, nil, f.backlog.End.Offset)
		f.flow(s)
		return
	}
	f.state = reading
	f.round++
	s.Ask = Ask{Round: f.round, From: f.at, Offsets: page}
}

// Entries takes what was read. ok is false if it could not be read because the log is
// in another epoch.
func (f *Feed) Entries(round uint64, entries []history.Entry, ok bool) Step {
	var s Step
	if f.state != reading || round != f.round {
		return s
	}
	if !ok {
		f.ask(&s)
		return s
	}
	through, whole := f.backlog.Took(entries)
	s.Gap = !whole // before what lies behind it
	f.merge(&s, entries, through)
	f.read(&s)
	return s
}

// merge hands on, in order, the entries and the held packets up to an offset. What
// comes twice is handed on once.
func (f *Feed) merge(s *Step, entries []history.Entry, through history.Offset) {
	for _, e := range entries {
		f.release(s, e.Offset-1)
		before := f.trail.Passed(history.Point{Epoch: e.Born, Offset: e.Offset})
		for _, link := range e.Links {
			p := history.Packet{
				Topic: link.Topic, Body: e.Body, Kept: true,
				At: history.Point{Epoch: f.at.Epoch, Offset: e.Offset}, Born: e.Born, Prev: link.Prev,
			}
			if !before && !f.chains.had(p) {
				f.hand(s, p)
			}
		}
	}
	f.release(s, through)
	f.reach(through)
}

// release hands on the held packets up to an offset. It drops those that are kept and
// of another epoch: the log has them, or nobody does.
func (f *Feed) release(s *Step, through history.Offset) {
	for len(f.held) > 0 {
		p := f.held[0]
		present := p.At.Epoch == f.at.Epoch
		if present && p.At.Offset > through {
			return
		}
		f.unhold()
		if !p.Kept || present && !f.chains.had(p) {
			f.hand(s, p)
		}
	}
}

// flow ends the repair: the held packets go on as if they came now.
func (f *Feed) flow(s *Step) {
	f.state = flowing
	if f.spilt {
		f.ask(s)
		return
	}
	for len(f.held) > 0 {
		if !f.pass(s, f.held[0]) {
			f.ask(s)
			return
		}
		f.unhold()
	}
	f.held = nil
}

// GaveUp says that the log does not answer. What is missing is told, and the held
// packets go on: they must not wait for an answer that may never come.
func (f *Feed) GaveUp(round uint64) Step {
	var s Step
	if !f.Repairing() || round != f.round {
		return s
	}
	s.Gap = true
	f.doubt = false
	// A packet of an epoch that was left comes from a master that was replaced.
	fresh := func(e history.Epoch) bool { return !f.trail.Passed(history.Point{Epoch: e}) }
	if at, ok := f.firstHeld(fresh); ok {
		at.Offset--
		if at.Epoch != f.at.Epoch {
			s.Fork = history.Fork{Epoch: at.Epoch, At: at.Offset}
			f.enter(s.Fork, at.Offset)
		} else if at.Offset > f.at.Offset {
			f.reach(at.Offset)
		}
	}
	f.flow(&s)
	return s
}
