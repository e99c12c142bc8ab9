// Package historymodel tests the rules of History (internal/history) in a small
// world: two partitions, each on a master and a replica, three nodes, two devices,
// and all the faults that the rules are for. A run is a list of actions, which a
// seed determines. Nothing in it is concurrent, so that it repeats exactly. Any
// part of a run is a run too, so that a finding can be shrunk.
//
// At the end all faults are over. By then each device must have got every message
// that was kept for it, once and in order, unless it was told after the
// acknowledgement of the message that something may be missing.
//
// HERALD_HISTORY_RUNS is the number of runs of TestModel and TestCalm. With
// HERALD_HISTORY_SEED they make only the run of that seed, which a finding names.
package historymodel

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/node"
	"github.com/heraldgo/herald/internal/history/store"
)

const (
	partitions = 2
	nodes      = 3
	devices    = 2
)

// Each topic is in the partition that its last character names.
var topics = [...]string{"a0", "b0", "c1", "d0", "e1"}

func partitionOf(topic string) int { return int(topic[len(topic)-1] - '0') }

// A world is one run.
type world struct {
	agreed   []store.Agreement // the latest last
	clusters [partitions]*cluster
	hubs     [nodes]*hub
	phones   [devices]*phone
	messages []*message

	step   int
	now    int64
	epochs int // the number of epochs offered
	names  int
	tolds  int // how often a device was told

	hits    *counts
	finding string
	trace   io.Writer // nil if nobody looks
}

// A message is one Send.
type message struct {
	n      int
	topics []string
	letter device.Letter
	unkept bool
}

// copies reports whether a device may get the message more than once. An offset
// tells copies apart only within a partition, and only messages that are kept have
// one.
func (m *message) copies() bool {
	return len(m.topics) > 1 && (m.unkept || slices.ContainsFunc(m.topics, func(t string) bool {
		return partitionOf(t) != partitionOf(m.topics[0])
	}))
}

func newWorld(p plan, hits *counts) *world {
	w := &world{hits: hits, now: 10_000}
	w.agree(p.bytes)
	for i := range w.clusters {
		w.clusters[i] = newCluster(w)
	}
	for i := range w.hubs {
		w.hubs[i] = newHub(w)
	}
	for i := range w.phones {
		ph := &phone{
			w: w, oldest: i == 0 && !p.calm, had: make(map[int]*session), due: make(map[int]*[partitions]debt),
			groups: make(map[string]bool),
		}
		for j, topic := range topics {
			if p.groups[i]&(1<<j) != 0 {
				ph.groups[topic] = true
			}
		}
		w.phones[i] = ph
	}
	return w
}

// fail records a fault, if it is the first.
func (w *world) fail(format string, args ...any) {
	if w.finding == "" {
		w.finding = fmt.Sprintf("step %d: ", w.step) + fmt.Sprintf(format, args...)
	}
}

// note writes an event to the trace, if there is one.
func (w *world) note(format string, args ...any) { fmt.Fprintf(w.trace, "\t\t"+format+"\n", args...) }

func (w *world) message(body []byte) *message {
	return w.messages[binary.BigEndian.Uint32(body)]
}

// A flavour says what is special about a Send.
type flavour struct {
	unkept   bool
	except   bool // the last connection of the phone, or the one before it, is excepted
	unknown  bool // the answer is lost
	many     int  // messages in the batch
	size     int
	topics   int // the first topic, and how many more follow
	more     int
	phoneNum int
}

// send sends messages from a node, in one batch for each partition.
func (w *world) send(h *hub, fl flavour) {
	var sent []*message
	for i := range fl.many {
		m := &message{n: len(w.messages), unkept: fl.unkept && i == 0}
		for j := range fl.more + 1 {
			m.topics = append(m.topics, topics[(fl.topics+i+j)%len(topics)])
		}
		if m.copies() {
			m.letter.ID = fmt.Sprint("m", m.n)
		}
		if conns := w.phones[fl.phoneNum].conns; fl.except && len(conns) > 0 {
			m.letter.Except = conns[max(0, len(conns)-2):][:1]
			w.hit(excepted)
		}
		w.messages = append(w.messages, m)
		sent = append(sent, m)
	}
	for i, s := range h.sides {
		s.send(draftsFor(i, sent, fl.size), fl.unknown)
	}
}

// A letterDraft is a draft, and the message that it is of.
type letterDraft struct {
	store.Draft
	m *message
}

func draftsFor(partition int, sent []*message, size int) []letterDraft {
	var drafts []letterDraft
	for _, m := range sent {
		d := letterDraft{m: m}
		for _, topic := range m.topics {
			if partitionOf(topic) == partition {
				d.Topics = append(d.Topics, topic)
			}
		}
		if d.Body = binary.BigEndian.AppendUint32(make([]byte, 0, 4+size), uint32(m.n)); len(d.Topics) > 0 {
			d.Body = append(d.Body, make([]byte, size)...)
			d.Unkept = m.unkept
			drafts = append(drafts, d)
		}
	}
	return drafts
}

// send appends a batch. If the log refuses it, messages that are not kept go alone.
func (s *side) send(sent []letterDraft, unknown bool) {
	w := s.h.w
	if len(sent) == 0 || !s.answers() {
		return
	}
	var drafts []store.Draft
	for _, d := range sent {
		drafts = append(drafts, d.Draft)
	}
	if s.cluster().full {
		s.refused(sent, drafts)
		return
	}
	for range 8 {
		caller := w.caller(s.calls, s.publisher.Known())
		reply := s.calls.log.Append(caller, s.publisher.Segment(), drafts)
		w.hitReply(reply)
		w.publish(s.partition, s.calls, reply.Published)
		if reply.End.Epoch != caller.Known.Epoch {
			s.strays = nil
		}
		if unknown && reply.Outcome == store.Taken {
			w.hit(answerLost)
			return
		}
		if !s.publisher.Replied(caller.Known, reply) {
			s.acknowledged(sent, reply.End)
			return
		}
	}
	w.fail("an append was refused eight times")
}

// refused publishes the messages that may go without being kept.
func (s *side) refused(sent []letterDraft, drafts []store.Draft) {
	w := s.h.w
	w.hit(storeFull)
	for _, d := range node.Alone(drafts) {
		for _, topic := range d.Topics {
			w.publish(s.partition, s.calls, []history.Packet{{Topic: topic, Body: d.Body}})
		}
		i := slices.IndexFunc(sent, func(o letterDraft) bool { return &o.Body[0] == &d.Body[0] })
		s.acknowledged(sent[i:i+1], history.Point{})
	}
}

// acknowledged records that Send returned nil, and with that what is due to the
// devices. The kept messages are at the end of the log.
func (s *side) acknowledged(sent []letterDraft, end history.Point) {
	w := s.h.w
	kept := slices.DeleteFunc(slices.Clone(sent), func(d letterDraft) bool { return d.m.unkept })
	for i, d := range kept {
		if s.calls.stale {
			s.strays = append(s.strays, d.m)
		}
		for _, p := range w.phones {
			if !p.owed(d.m) {
				continue
			}
			owed := debt{step: w.step, at: history.Point{
				Epoch: end.Epoch, Offset: end.Offset - history.Offset(len(kept)-1-i),
			}}
			for _, topic := range d.Topics {
				if p.groups[topic] {
					owed.by |= only(topic)
				}
			}
			if p.due[d.m.n] == nil {
				p.due[d.m.n] = new([partitions]debt)
			}
			p.due[d.m.n][s.partition] = owed
		}
	}
}

// owed reports whether the phone must still get the message, because of its topics.
func (p *phone) owed(m *message) bool {
	return p.covered && !p.liar && p.had[m.n] == nil &&
		!slices.ContainsFunc(m.letter.Except, func(id string) bool { return slices.Contains(p.conns, id) })
}

// kill ends a node with its devices' connections, and starts another. Nobody knows
// any more what a replaced master has acknowledged to it.
func (w *world) kill(i int) {
	h := w.hubs[i]
	for _, c := range slices.Clone(h.sessions) {
		c.phone.cut()
	}
	for part, s := range h.sides {
		for _, m := range s.strays {
			for _, p := range w.phones {
				if due := p.due[m.n]; due != nil {
					due[part] = debt{}
				}
			}
		}
	}
	w.hubs[i] = newHub(w)
	w.hit(nodeKilled)
}
