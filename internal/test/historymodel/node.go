package historymodel

import (
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/node"
)

var feedLimits = node.Limits{Held: 6, Recent: 8, Bytes: 1 << 20, Page: 3, Survey: 64}

// A hub is one node.
type hub struct {
	w        *world
	sides    [partitions]*side
	sessions []*session
}

// A side is a node's part in one partition.
type side struct {
	h         *hub
	partition int
	feed      *node.Feed
	publisher node.Publisher

	calls *server // the server where scripts go
	link  *server // the server where the subscriptions are
	up    bool    // the link is up
	deaf  bool    // the link is up, but delivers nothing

	followed map[string]int // the number of sessions, by topic
	wire     []event        // events on their way to the node
	inbox    []event        // events read from the link
	asks     []ask          // questions to be run
	replies  []func()       // answers to be taken

	strays []*message // messages that a replaced master has acknowledged
}

// An event is something that a link delivers.
type event struct {
	kind   eventKind
	packet history.Packet
	end    history.Point
}

type eventKind uint8

const (
	packet eventKind = iota
	fence
	down
	doubtful // down, because it was deaf
	restored
)

// An ask is a question of the node, or of one of its devices, to the log.
type ask struct {
	session *session // nil if it is the node's
	topics  []string
	round   uint64
	from    history.Point
	offsets []history.Offset
	page    int // the number of the offsets that are asked for now
	most    int
	epoch   history.Epoch
	near    bool // the node has the answer itself
}

func newHub(w *world) *hub {
	h := &hub{w: w}
	for i := range h.sides {
		h.sides[i] = &side{
			h: h, partition: i, feed: node.NewFeed(feedLimits),
			calls: w.clusters[i].serving(), followed: make(map[string]int),
		}
	}
	return h
}

func (s *side) cluster() *cluster { return s.h.w.clusters[s.partition] }

// subscribed reports whether a subscription would be confirmed now.
func (s *side) subscribed() bool { return s.up && !s.deaf && !s.link.dead && !s.link.gone }

// publish is PUBLISH on a server.
func (w *world) publish(partition int, on *server, packets []history.Packet) {
	for _, h := range w.hubs {
		s := h.sides[partition]
		if s.link != on || !s.subscribed() {
			continue
		}
		for _, p := range packets {
			if s.followed[p.Topic] > 0 {
				s.wire = append(s.wire, event{kind: packet, packet: p})
			}
		}
	}
}

// cut breaks the link. Only some of the events on their way arrive.
func (s *side) cut(arrives int) {
	if !s.up {
		return
	}
	why := down
	if s.deaf {
		why = doubtful
	}
	s.up, s.deaf = false, false
	s.wire = append(s.wire[:min(arrives, len(s.wire))], event{kind: why})
}

// cutLinks breaks the links to a server.
func (w *world) cutLinks(on *server) {
	for _, h := range w.hubs {
		for _, s := range h.sides {
			if s.link == on {
				s.cut(w.names % 4)
			}
		}
	}
}

// connect makes a new link.
func (s *side) connect() {
	if to := s.cluster().serving(); !s.up && !to.dead && !to.gone {
		s.link, s.calls, s.up = to, to, true
		s.wire = append(s.wire, event{kind: restored})
	}
}

// arrive reads from the link.
func (s *side) arrive() {
	e := s.wire[0]
	s.wire = s.wire[1:]
	s.inbox = append(s.inbox, e)
}

// work handles an event that was read.
func (s *side) work() {
	e := s.inbox[0]
	s.inbox = s.inbox[1:]
	switch e.kind {
	case packet:
		if s.followed[e.packet.Topic] > 0 {
			s.do(s.feed.Take(e.packet))
		}
	case fence:
		s.do(s.feed.Mark(e.end))
	case down:
		s.feed.Down()
	case doubtful:
		s.feed.Down()
		s.do(s.feed.Doubt())
		s.h.w.hit(deafLink)
	case restored:
		s.do(s.feed.Restored())
	}
}

// do carries out a step of the feed.
func (s *side) do(step node.Step) {
	w := s.h.w
	if w.trace != nil && (step.Gap || len(step.Hand) > 0 || step.Fork.Epoch != 0 || step.Mark.Epoch != 0) {
		w.note("%s: gap %v, fork %v, mark %v, hand %v", s.name(), step.Gap, step.Fork, step.Mark, step.Hand)
	}
	for _, c := range slices.Clone(s.h.sessions) {
		if step.Fork.Epoch != 0 {
			c.device.Cross(s.partition, step.Fork)
			w.hit(crossedLive)
		}
		if step.Gap {
			c.queue(c.device.Gap(s.partition))
			w.hit(gapTold)
		}
	}
	for _, p := range step.Hand {
		for _, c := range slices.Clone(s.h.sessions) {
			if !c.topics[p.Topic] {
				continue
			}
			if f, ok := c.device.Take(s.partition, p, c.Open(p.Body)); ok {
				c.queue(f)
			} else if p.Kept && c.device.Live(s.partition) {
				w.hit(belowFloor)
			}
		}
	}
	if step.Mark.Epoch != 0 {
		for _, c := range slices.Clone(s.h.sessions) {
			if f, ok := c.device.Mark(s.partition, step.Mark); ok {
				c.queue(f)
				w.hit(markTold)
			}
		}
	}
	if a := step.Ask; a.Round != 0 {
		s.asks = append(s.asks, ask{
			topics: topicsOf(s.followed), round: a.Round, from: a.From,
			offsets: a.Offsets, page: len(a.Offsets), most: a.Most, epoch: s.feed.At().Epoch,
		})
	}
}

// answers reports whether the node's scripts run now. A server that the slot has
// left names the new one.
func (s *side) answers() bool {
	if s.calls.gone {
		s.calls = s.cluster().serving()
	}
	return s.cluster().answers(s.calls)
}

// redirect moves the node from a server that is no longer the master to the one
// that is.
func (s *side) redirect() {
	if !s.calls.stale || s.link != s.calls {
		s.calls = s.cluster().serving()
	}
}

// fence makes the log publish its end to the node.
func (s *side) fence() {
	if !s.answers() {
		return
	}
	known := s.publisher.Known()
	end := s.calls.log.Fence(s.h.w.caller(s.calls, known))
	s.met(known, end)
	if s.link == s.calls && s.subscribed() && !s.fenced() {
		s.wire = append(s.wire, event{kind: fence, end: end})
	}
}

// fenced reports whether a fence is on its way.
func (s *side) fenced() bool {
	is := func(e event) bool { return e.kind == fence }
	return slices.ContainsFunc(s.wire, is) || slices.ContainsFunc(s.inbox, is)
}

// met notes the log's epoch.
func (s *side) met(known, end history.Point) {
	if end.Epoch != s.publisher.Known().Epoch {
		s.strays = nil
	}
	s.publisher.Met(known, end)
	s.do(s.feed.Met(end.Epoch))
}

// run runs the script of a question.
func (s *side) run() {
	a := s.asks[0]
	entries, rest, known := a.known(s.partition)
	if !a.near && !known && !s.answers() {
		return
	}
	if a.session != nil && !a.session.room() {
		s.asks = append(s.asks[1:], a)
		return
	}
	s.asks = s.asks[1:]
	if a.near {
		s.h.w.hit(followed)
		s.reply(a, nil, func(d *device.Device) device.Step { return d.Follow(s.partition, a.round) })
		return
	}
	if known {
		s.h.w.hit(readAhead)
		a.session.ahead[s.partition] = rest
		s.reply(a, nil, func(d *device.Device) device.Step { return d.Entries(s.partition, a.round, entries, true) })
		return
	}
	log, caller := s.calls.log, s.h.w.caller(s.calls, s.publisher.Known())
	if len(a.offsets) > 0 {
		x := history.Excerpt{Offsets: a.offsets[:min(len(a.offsets), a.page+maxAhead)]}
		var ok bool
		if x.Entries, ok = log.Read(caller, a.epoch, x.Offsets); !ok {
			s.h.w.hit(readOtherEpoch)
		} else if len(x.Entries) < len(x.Offsets) {
			s.h.w.hit(readMissing)
		}
		s.reply(a, func() node.Step { return s.feed.Entries(a.round, x.Entries, ok) }, func(d *device.Device) device.Step {
			if !ok {
				return d.Entries(s.partition, a.round, nil, false)
			}
			entries, rest, _ := x.Page(a.offsets[:a.page])
			a.session.ahead[s.partition] = rest
			return d.Entries(s.partition, a.round, entries, true)
		})
		return
	}
	survey := log.Survey(caller, a.from, a.topics, a.most)
	s.met(caller.Known, survey.End)
	s.cluster().serves(s.calls, a.topics, survey)
	s.h.w.hitSurvey(a, survey)
	if s.h.w.trace != nil {
		s.h.w.note("%s surveys %v since %v: up to %v, from %d, whole %v, fork %v: %v", s.whose(a), a.topics, a.from, survey.End, survey.From, survey.Whole, survey.Fork, survey.Offsets)
	}
	s.reply(a, func() node.Step { return s.feed.Surveyed(a.round, survey) },
		func(d *device.Device) device.Step { return d.Surveyed(s.partition, a.round, survey) })
}

// known returns the part of the answer that the question's session has read ahead,
// if that suffices.
func (a ask) known(partition int) (entries []history.Entry, rest history.Excerpt, ok bool) {
	if a.session == nil {
		return nil, rest, false
	}
	return a.session.ahead[partition].Page(a.offsets[:a.page])
}

// whose names the owner of a question.
func (s *side) whose(a ask) string {
	if a.session != nil {
		return a.session.phone.name()
	}
	return s.name()
}

func (s *side) name() string {
	return fmt.Sprintf("node %d.%d", slices.Index(s.h.w.hubs[:], s.h), s.partition)
}

// reply queues an answer, which the owner of the question takes later.
func (s *side) reply(a ask, feed func() node.Step, of func(*device.Device) device.Step) {
	s.replies = append(s.replies, func() {
		if a.session == nil {
			s.do(feed())
		} else if !a.session.dead {
			a.session.do(s.partition, of(a.session.device))
		}
	})
}

// hear takes the oldest answer.
func (s *side) hear() {
	r := s.replies[0]
	s.replies = s.replies[1:]
	r()
}

// giveUp drops the node's question without an answer.
func (s *side) giveUp() {
	i := slices.IndexFunc(s.asks, func(a ask) bool { return a.session == nil })
	if i < 0 {
		return
	}
	round := s.asks[i].round
	s.asks = slices.Delete(s.asks, i, i+1)
	s.do(s.feed.GaveUp(round))
	s.h.w.hit(gaveUp)
}

// follow counts a session that belongs to a topic.
func (s *side) follow(topic string) {
	s.followed[topic]++
	if s.followed[topic] == 1 {
		s.do(s.feed.Follow(topic))
	}
}

func (s *side) unfollow(topic string) {
	if s.followed[topic]--; s.followed[topic] == 0 {
		delete(s.followed, topic)
		s.feed.Unfollow(topic)
	}
}

func topicsOf(m map[string]int) []string {
	topics := make([]string, 0, len(m))
	for topic := range m {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	return topics
}
