package herald

import (
	"slices"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/places"
)

// A memoryStore is what the handles share. Times are in microseconds.
type memoryStore struct {
	epoch time.Time // carries the monotonic clock

	mu         sync.Mutex
	generation int64                             // the last one
	clock      int64                             // the latest Since that was given
	leases     map[string]*memoryLease           // by node: the present ones
	dying      map[Lease]*memoryLease            // those that are being swept
	topics     map[string]map[string]memoryValue // by topic and connection
	gone       map[string]int64                  // users, and when the last session went
	marks      map[string]memoryMark             // by topic: those that are watched
	made       []Change                          // by the call that is running
}

// A memoryMark says that a topic is watched.
type memoryMark struct {
	number int64 // of its last change
	until  int64
}

type memoryLease struct {
	node   Node
	places map[places.Place]struct{}
}

type memoryValue struct {
	session Session
	lease   Lease
	online  bool // what its Add answered
}

// now returns a time that steps of the wall clock do not move.
func (s *memoryStore) now() int64 { return s.epoch.Add(time.Since(s.epoch)).UnixMicro() }

// current returns the lease, or nil if it is lost.
func (s *memoryStore) current(lease Lease) *memoryLease {
	if l := s.leases[lease.Node]; l != nil && l.node.Generation == lease.Generation {
		return l
	}
	return nil
}

// live reports whether the lease is not lost and has not run out.
func (s *memoryStore) live(lease Lease, now int64) bool {
	l := s.current(lease)
	return l != nil && now < l.node.Renewed.Add(l.node.TTL).UnixMicro()
}

// known returns the lease, dying or not, or nil if it is forgotten.
func (s *memoryStore) known(lease Lease) *memoryLease {
	if l := s.current(lease); l != nil {
		return l
	}
	return s.dying[lease]
}

func (s *memoryStore) add(l *memoryLease, e Entry) (added Added) {
	value := memoryValue{session: cloneSession(e.Session), lease: l.node.Lease()}
	value.session.Node = l.node.ID
	if e.UserTopic != "" {
		added = s.presence(&value, s.topics[e.UserTopic], e.Older)
	} else {
		s.stamp(&value.session)
	}
	added.Since = value.session.Since
	for _, p := range e.places() {
		if s.topics[p.Topic] == nil {
			s.topics[p.Topic] = make(map[string]memoryValue)
		}
		if old, ok := s.topics[p.Topic][p.ID]; !ok || old.lease != value.lease {
			s.change(Change{Topic: p.Topic, Session: cloneSession(value.session)})
		}
		s.topics[p.Topic][p.ID] = value
		l.places[p] = struct{}{}
	}
	return added
}

// stamp gives a Session a Since, later than all that were given, if it has
// none.
func (s *memoryStore) stamp(session *Session) {
	since := session.Since.UnixMicro()
	if session.Since.IsZero() {
		since = max(s.now(), s.clock+1)
	}
	s.clock = max(s.clock, since)
	session.Since = time.UnixMicro(since)
}

// presence sets Since and online of a value that is about to come under its user's topic,
// and returns which sessions are older.
func (s *memoryStore) presence(value *memoryValue, there map[string]memoryValue, most int) Added {
	session := &value.session
	own, again := there[session.ID]
	first := session.Since.IsZero()
	if first {
		session.Since = own.session.Since // a repeated Add keeps its Since
	}
	s.stamp(session)
	_, going := s.gone[session.User]
	delete(s.gone, session.User)
	if again {
		value.online = own.online && (own.lease == value.lease || first)
	} else {
		value.online = len(there) == 0 && !going
	}
	added := Added{Online: value.online}
	if most <= 0 {
		return added
	}
	now := s.now()
	for id, v := range there {
		if id != session.ID && v.session.Since.Before(session.Since) && s.live(v.lease, now) {
			added.Older = append(added.Older, cloneSession(v.session))
		}
	}
	slices.SortFunc(added.Older, compareSessions)
	added.OlderTotal = len(added.Older)
	added.Older = added.Older[:min(most, len(added.Older))]
	return added
}

// remove takes away what lies at p, if anything.
func (s *memoryStore) remove(p places.Place) {
	there := s.topics[p.Topic]
	v, ok := there[p.ID]
	if !ok {
		return
	}
	s.change(Change{Topic: p.Topic, Session: Session{ID: p.ID}, Left: true})
	delete(there, p.ID)
	if l := s.known(v.lease); l != nil {
		delete(l.places, p)
	}
	if len(there) == 0 {
		delete(s.topics, p.Topic)
		if p.User {
			s.gone[v.session.User] = s.now()
		}
	}
}

// change gives a change its number, if its topic is watched.
func (s *memoryStore) change(c Change) {
	m, ok := s.marks[c.Topic]
	if !ok || s.now() >= m.until {
		return
	}
	m.number++
	s.marks[c.Topic] = m
	c.Number = m.number
	s.made = append(s.made, c)
}

// eachLive calls f for what lies under each topic and lives. It needs a lease that
// has not run out, or the zero Lease.
func (s *memoryStore) eachLive(lease Lease, topics []string, f func(i int, v memoryValue)) error {
	now := s.now()
	if lease != (Lease{}) && !s.live(lease, now) {
		return ErrLeaseLost
	}
	for i, topic := range topics {
		for _, v := range s.topics[topic] {
			if s.live(v.lease, now) {
				f(i, v)
			}
		}
	}
	return nil
}
