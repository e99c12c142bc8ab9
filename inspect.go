package herald

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/redisregistry"
)

// An inspector asks other nodes what they know, and answers what they ask. It has no
// goroutine unless there is a question to answer.
type inspector struct {
	hub *Hub

	mu        sync.Mutex
	asked     map[uint64]*question
	incoming  []*envelope // questions that wait for their answers
	answering bool        // a goroutine answers them
}

// A question is one of this node's that waits for answers. Guarded by inspector.mu.
type question struct {
	at      int64 // on clock: when it was asked
	missing map[string]bool
	answers map[string]heardStatement
	done    chan struct{} // closed when none is missing
	err     error         // why nobody waits for the answers any more, unless time is up
}

// A heardStatement is another node's answer as it came.
type heardStatement struct {
	data []byte // an encoded statement
	took time.Duration
}

// Bounds of questions and answers. Questions over maxQuestions are not answered.
const (
	maxQuestions    = 16
	maxStatement    = 512 << 10 // bytes
	maxInspected    = 100       // connections of a node
	maxInspectGroup = 100       // groups of a connection
	slowest         = 10        // connections of a report
)

func newInspector(h *Hub) *inspector { return &inspector{hub: h, asked: make(map[uint64]*question)} }

// A statement is a node's answer, in JSON. A later version of herald may add fields,
// which this one skips.
type statement struct {
	Health []string        `json:",omitempty"`
	Stats  *Stats          `json:",omitempty"`
	Conns  []connStatement `json:",omitempty"`
	Left   int             `json:",omitempty"` // connections that it had no room for

	took time.Duration
}

// A connStatement is a ConnReport whose names may have any bytes.
type connStatement struct {
	ID     string
	User   []byte
	Body   []byte // as in the Registry
	Since  time.Time
	Groups [][]byte
	Stats  ConnStats
}

// A NodeReport is what a node says of itself.
type NodeReport struct {
	Node    string        // its id
	Err     error         // why it has said nothing; then all that follows is zero
	Took    time.Duration // from the question to the answer
	Health  []string      // why [Hub.Health] returns an error there, one reason each; none if it does not
	Stats   Stats
	Slowest []ConnReport // those of its connections whose oldest message has waited longest; ten at most
}

// A ConnReport is what a node says of one of its connections.
type ConnReport struct {
	Session Session
	Groups  []string // in no order; a hundred at most
	Stats   ConnStats
}

// Reports asks every living node for a report of itself. It waits until all have
// answered or ctx is done, but for SendTimeout at most. The reports are in the order of
// the nodes' ids. If a node gives no answer, or is of an older version of herald that
// does not know the question, its report has an error. The report of this node is
// always there. Without the Registry, Reports asks the nodes that are known already.
//
// Each node looks at all of its connections for this, so do not call Reports for every
// message.
func (h *Hub) Reports(ctx context.Context) []NodeReport {
	answers, problems := h.inspector.ask(ctx, Target{})
	var reports []NodeReport
	for node, a := range answers {
		reports = append(reports, NodeReport{Node: node, Took: a.took, Health: a.Health, Stats: *cmp.Or(a.Stats, &Stats{}), Slowest: a.reports(node)})
	}
	for node, err := range problems {
		reports = append(reports, NodeReport{Node: node, Err: err})
	}
	slices.SortFunc(reports, func(a, b NodeReport) int { return cmp.Compare(a.Node, b.Node) })
	return reports
}

// Inspect asks all living nodes for the target's connections, and what state they are
// in. It waits as Reports does. The connections are those that a Send would reach,
// whatever the Registry lists, the oldest first. Each node names a hundred at most. If
// a node gives no answer or has more connections, the error is a *PartialError, and
// Inspect also returns what it has heard.
func (h *Hub) Inspect(ctx context.Context, t Target) ([]ConnReport, error) {
	if err := cmp.Or(t.check(), t.checkNames(t.ids, nil)); err != nil {
		return nil, err
	}
	if t.nobody() {
		return nil, nil
	}
	answers, problems := h.inspector.ask(ctx, t)
	var conns []ConnReport
	for node, a := range answers {
		conns = append(conns, a.reports(node)...)
		if a.Left > 0 {
			problems[node] = fmt.Errorf("%w: node %s has %d more connections of the target", ErrLimit, node, a.Left)
		}
	}
	slices.SortFunc(conns, func(a, b ConnReport) int { return compareSessions(a.Session, b.Session) })
	if len(problems) == 0 {
		return conns, nil
	}
	missing := slices.Sorted(maps.Keys(problems))
	return conns, &PartialError{Missing: missing, Err: problems[missing[0]]}
}

// reports returns the connections of the node's answer. A node is believed about its own
// connections only.
func (a *statement) reports(node string) (reports []ConnReport) {
	for _, c := range a.Conns {
		s, ok := decodeSession(redisregistry.Session{ID: c.ID, Node: node, User: string(c.User), Since: c.Since, Body: string(c.Body)})
		if of, _ := cutID(c.ID); !ok || of != node {
			continue
		}
		r := ConnReport{Session: s, Stats: c.Stats}
		for _, g := range c.Groups {
			r.Groups = append(r.Groups, string(g))
		}
		reports = append(reports, r)
	}
	return reports
}

var (
	errNoAnswer  = errors.New("no answer")
	errOlderNode = errors.New("it is of an older version of herald, which does not know the question")
	errUnlisted  = errors.New("the Registry does not list it, so it is not known whether it understands the question")
)

// ask asks the nodes that live about the target, or about themselves if it is the zero
// Target. It returns what they have answered, and why others have not.
func (s *inspector) ask(ctx context.Context, t Target) (answers map[string]statement, problems map[string]error) {
	h := s.hub
	ctx, cancel := h.config.timeout(ctx)
	defer cancel()
	e := envelope{kind: kindQuestion, sender: h.id, id: h.calls.nextID.Add(1), filter: t.filter(), target: t.kind, ids: t.ids}
	q := &question{at: clock.Now(), missing: make(map[string]bool), answers: make(map[string]heardStatement), done: make(chan struct{})}
	answers, problems = map[string]statement{h.id: s.answer(&e)}, make(map[string]error)
	var packets []Packet
	data := e.encode()
	for node, version := range h.presence.versions(ctx) {
		switch {
		case node == h.id || t.kind == targetConnection && !t.namesNode(node):
		case version == 0:
			problems[node] = errUnlisted
		case version < int(kindQuestion.version()):
			problems[node] = errOlderNode
		default:
			q.missing[node] = true
			packets = append(packets, Packet{nodeTopic(node), data})
		}
	}
	if len(packets) > 0 {
		s.wait(ctx, e.id, q, packets)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for node := range q.missing {
		problems[node] = cmp.Or(q.err, errNoAnswer)
	}
	for node, heard := range q.answers {
		a := statement{took: heard.took}
		if err := json.Unmarshal(heard.data, &a); err != nil {
			problems[node] = fmt.Errorf("its answer cannot be understood: %w", err)
			continue
		}
		answers[node] = a
	}
	return answers, problems
}

// wait publishes a question and waits for its answers.
func (s *inspector) wait(ctx context.Context, id uint64, q *question, packets []Packet) {
	s.mu.Lock()
	s.asked[id] = q
	s.mu.Unlock()
	err := s.hub.publish(ctx, packets...)
	if err == nil {
		select {
		case <-q.done:
		case <-ctx.Done():
		case <-s.hub.stopped:
			err = ErrClosed
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked, id)
	q.err = err
}

// namesNode reports whether one of the target's connections is of the node.
func (t *Target) namesNode(node string) bool {
	return slices.ContainsFunc(t.ids, func(id string) bool {
		of, _ := cutID(id)
		return of == node
	})
}

// hear takes another node's answer.
func (s *inspector) hear(e *envelope) {
	s.hub.heartbeat.answered(e.sender)
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.asked[e.id]
	if q == nil || !q.missing[e.sender] {
		return
	}
	q.answers[e.sender] = heardStatement{e.statement, time.Duration(clock.Now() - q.at)}
	if delete(q.missing, e.sender); len(q.missing) == 0 {
		close(q.done)
	}
}

// push takes another node's question, which is answered outside the receiving goroutine.
func (s *inspector) push(e *envelope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.incoming) >= maxQuestions {
		return // whoever asks is told that there was no answer
	}
	q := *e
	s.incoming = append(s.incoming, &q)
	if !s.answering {
		s.answering = true
		s.hub.last.Go(s.run)
	}
}

// run answers questions until none is left.
func (s *inspector) run() {
	for {
		s.mu.Lock()
		if s.answering = len(s.incoming) > 0; !s.answering {
			s.incoming = nil
			s.mu.Unlock()
			return
		}
		e := s.incoming[0]
		s.incoming = s.incoming[1:]
		s.mu.Unlock()
		a := s.answer(e)
		to := envelope{kind: kindStatement, sender: s.hub.id, id: e.id, statement: a.encode()}
		ctx, cancel := s.hub.config.timeout(context.Background())
		s.hub.publish(ctx, Packet{nodeTopic(e.sender), to.encode()}) // if it fails there is no answer
		cancel()
	}
}

// encode returns the statement in JSON. If it is too long, it leaves out connections.
func (a *statement) encode() []byte {
	for {
		b, err := json.Marshal(a)
		if err != nil { // none of these types can fail
			panic(err)
		}
		if len(b) <= maxStatement || len(a.Conns) == 0 {
			return b
		}
		half := len(a.Conns) / 2
		a.Left += len(a.Conns) - half
		a.Conns = a.Conns[:half]
	}
}

// answer returns what this node knows.
func (s *inspector) answer(e *envelope) (a statement) {
	h := s.hub
	var conns []*Conn
	if e.target == 0 {
		stats := h.Stats()
		a.Stats = &stats
		if err := h.Health(); err != nil {
			a.Health = strings.Split(err.Error(), "\n")
		}
		conns = h.slowest()
	} else {
		conns, _ = h.calls.concerned(incomingCall{call: call{target: e.target, ids: e.ids}, filter: e.filter})
		slices.SortFunc(conns, func(a, b *Conn) int { return cmp.Compare(a.counter, b.counter) })
		if n := len(conns); n > maxInspected {
			conns, a.Left = conns[:maxInspected], n-maxInspected
		}
	}
	for _, c := range conns {
		session := encodeSession(c.Session())
		o := connStatement{ID: session.ID, User: []byte(session.User), Body: []byte(session.Body), Since: session.Since, Stats: c.Stats()}
		groups := c.Groups()
		for _, g := range groups[:min(len(groups), maxInspectGroup)] {
			o.Groups = append(o.Groups, []byte(g))
		}
		a.Conns = append(a.Conns, o)
	}
	return a
}

// slowest returns the connections whose oldest message has waited longest.
func (h *Hub) slowest() []*Conn {
	waits := make(map[*Conn]time.Duration)
	for c := range h.Conns() {
		if s := c.Stats(); s.Queued > 0 {
			waits[c] = s.Oldest
		}
	}
	conns := slices.SortedFunc(maps.Keys(waits), func(a, b *Conn) int {
		return cmp.Or(cmp.Compare(waits[b], waits[a]), cmp.Compare(a.counter, b.counter))
	})
	return conns[:min(len(conns), slowest)]
}
