// Package watching tells who is in a group, and then who comes and goes, from a
// list that the Registry has numbered and the changes that follow it.
package watching

import "github.com/heraldgo/herald/internal/redisregistry"

type (
	// A Session is a Session as the Registry in Redis encodes it.
	Session = redisregistry.Session

	// A Change is herald.Change.
	Change = redisregistry.Change
)

// A view is what is known of a topic: a list with a number, and changes that came
// before others with lower numbers. What comes twice, or late, counts once.
type view struct {
	listed bool // there has been a list
	number int64
	there  map[string]Session // by id
	early  map[int64]Change   // by number

	asked bool     // a list is under way
	heard []Change // what came since it was asked for, and may be newer than the list
}

// maxEarly is how many changes may wait for those that precede them, and how many for
// a list. More are dropped, and come with the next list: a hole, or a list that was
// not taken, makes the topic ask for one.
const maxEarly = 1024

func newView() *view {
	return &view{there: make(map[string]Session), early: make(map[int64]Change)}
}

// ask notes that a list is asked for.
func (v *view) ask() { v.asked, v.heard = true, nil }

// change takes a change, and tells of every change that is next in order now.
func (v *view) change(c Change, tell func(s Session, left bool)) {
	if v.asked && len(v.heard) <= maxEarly {
		v.heard = append(v.heard, c)
	}
	if v.listed && c.Number <= v.number {
		return
	}
	if len(v.early) < maxEarly {
		v.early[c.Number] = c
	}
	v.settle(tell)
}

// settle applies the changes that follow the last one.
func (v *view) settle(tell func(s Session, left bool)) {
	for v.listed {
		c, ok := v.early[v.number+1]
		if !ok {
			return
		}
		v.number++
		delete(v.early, v.number)
		s, there := v.there[c.Session.ID]
		switch {
		case c.Left && there:
			delete(v.there, s.ID)
			tell(s, true)
		case !c.Left && !there:
			v.there[c.Session.ID] = c.Session
			tell(c.Session, false)
		}
	}
}

// list takes the list that was asked for, and tells how it differs from before.
// Changes that were heard before it was asked for are in it. Those that were heard
// since are applied to it. If these were too many to remember, list changes nothing
// and returns false: another list has to come.
func (v *view) list(number int64, sessions []Session, tell func(s Session, left bool)) (taken bool) {
	heard := v.heard
	v.asked, v.heard = false, nil
	if len(heard) > maxEarly {
		return false
	}
	there := make(map[string]Session, len(sessions))
	for _, s := range sessions {
		there[s.ID] = s
	}
	next := view{listed: true, number: number, there: there, early: make(map[int64]Change)}
	for _, c := range heard {
		next.change(c, func(Session, bool) {})
	}
	for id, s := range v.there {
		if _, ok := next.there[id]; !ok {
			tell(s, true)
		}
	}
	for id, s := range next.there {
		if _, ok := v.there[id]; !ok {
			tell(s, false)
		}
	}
	*v = next
	return true
}

// hole reports whether changes wait for others that precede them.
func (v *view) hole() bool { return len(v.early) > 0 }

// news are what a caller has not been told yet. A session that came and left
// meanwhile is not among them, so there are no more than the caller knows, and is to
// know.
type news map[string]newsOf

type newsOf struct {
	session Session
	left    bool
}

func (n news) note(s Session, left bool) {
	if _, ok := n[s.ID]; ok { // it undoes what was noted
		delete(n, s.ID)
		return
	}
	n[s.ID] = newsOf{s, left}
}
