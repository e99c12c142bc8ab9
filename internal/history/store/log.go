// Package store has the log of a partition as the scripts in Redis keep it. A
// differential test of package redislog holds the scripts to it, and the Bus in
// memory uses it as it is.
//
// A log has two kinds of keys. The table, one sorted set in Redis, has the last
// offset of each topic, the counter, the epoch with the server under which it
// began and its parents, the horizon, what is forgotten, how much is to be kept,
// and which segments there are. A segment, a stream in Redis, has entries. Each key
// is there as a whole, or lost as a whole (evicted, expired, flushed). A call touches
// the table and the segments that its caller names, and is refused before its first
// write if they are not the right ones.
package store

import (
	"maps"
	"slices"

	"github.com/heraldgo/herald/internal/history"
)

// Limits say how much a node wants a log to keep. Times are in milliseconds, by the
// server's clock. They decide when entries are removed, never whether a reader has
// all.
type Limits struct {
	Segment history.Offset // offsets of a segment; all nodes have the same
	Age     int64          // how long entries are kept
	Bytes   int            // of all segments
}

// A Log is the log of one partition. Each method is a script.
type Log struct {
	size     history.Offset // offsets of a segment
	table    *table         // nil: the key is not there
	segments map[uint64][]history.Entry
}

// A table is the key that every call reads.
type table struct {
	epoch   history.Epoch
	parents []history.Point // the epochs before it, oldest first, and where each ended
	server  string          // the replication id under which the epoch began
	agreed  Agreement

	counter history.Offset            // the last offset that was given
	horizon history.Offset            // nothing up to here is kept
	last    map[string]history.Offset // by topic; an offset that is not above the horizon counts for nothing
	forgot  map[string]history.Offset // by topic: what was kept for it up to here is gone
	spans   []span                    // the segments, oldest first
}

// A span is what the table knows of a segment.
type span struct {
	n     uint64
	began int64
	bytes int
}

// A Caller is what goes with each call. Server, From and Now are what the server
// itself says inside the script, by INFO replication, CLUSTER NODES and TIME.
type Caller struct {
	Server string
	From   string // the server from which the log may have been moved, if it is still a master
	Now    int64

	// Known is what the node has been told of the log: the epoch, and the last
	// offset that was acknowledged to it there.
	Known history.Point

	Fresh  history.Epoch // random, and of this call alone: the new epoch, if one has to begin
	Agreed Agreement     // as far as the node knows
}

// New returns an empty Log whose segments have this many offsets.
func New(size history.Offset) *Log {
	return &Log{size: size, segments: make(map[uint64][]history.Entry)}
}

// begin makes sure that the log is in an epoch in which it has lost nothing. Every
// call begins with it.
func (l *Log) begin(c Caller) *table {
	switch t := l.table; {
	case t == nil:
		l.table = &table{
			epoch: c.Fresh, server: c.Server,
			last: make(map[string]history.Offset), forgot: make(map[string]history.Offset),
		}
	case t.server != c.Server && (c.From == "" || t.server != c.From), t.contradicts(c.Known):
		t.fork(c)
	default:
		t.server = c.Server // a log that was moved has everything that the other server took
	}
	l.table.agreed = l.table.agreed.with(c.Agreed)
	return l.table
}

// fork begins the next epoch.
func (t *table) fork(c Caller) {
	t.parents = append(t.parents, t.end())
	t.parents = t.parents[max(0, len(t.parents)-maxParents):]
	t.epoch, t.server = c.Fresh, c.Server
}

// maxParents is how many epochs a log remembers. A prefix of each survives, so none
// of them ended after a later one.
const maxParents = 8

// survived returns up to where the log still has what an epoch had. It does not know
// that of an epoch that is neither its own nor a parent.
func (t *table) survived(epoch history.Epoch) (at history.Offset, ok bool) {
	if epoch == t.epoch {
		return t.counter, true
	}
	for _, parent := range t.parents {
		if parent.Epoch == epoch {
			return parent.Offset, true
		}
	}
	return 0, false
}

// contradicts reports whether the log may lack something that was acknowledged to a
// node.
func (t *table) contradicts(known history.Point) bool {
	at, ok := t.survived(known.Epoch)
	return known.Offset > 0 && (!ok || known.Offset > at)
}

// sealed reports whether the epoch has no entry yet. Its first entry begins a segment,
// so that all entries of one segment were born in one epoch.
func (t *table) sealed() bool {
	n := len(t.parents)
	return n > 0 && t.parents[n-1].Offset == t.counter
}

func (t *table) end() history.Point { return history.Point{Epoch: t.epoch, Offset: t.counter} }

// A Draft is a message to be appended.
type Draft struct {
	Topics []string
	Body   []byte
	Unkept bool // published, in its place, and not kept
}

// An Outcome is how an append ended.
type Outcome uint8

const (
	Taken        Outcome = iota + 1
	WrongEpoch           // the caller did not know the log's epoch
	WrongSegment         // the caller did not name the segment that the batch goes to
)

// A Reply answers an append.
type Reply struct {
	Outcome Outcome
	End     history.Point // of the log, now
	Segment uint64        // if WrongSegment: the one to name

	// Published goes out in the same step, in this order: for each message, one
	// packet to each of its topics.
	Published []history.Packet
}

// Append appends a batch, all of it or nothing. Its entries lie in one segment, which
// the caller has to name. A segment that is too full for the batch ends.
func (l *Log) Append(c Caller, segment uint64, batch []Draft) Reply {
	t := l.begin(c)
	if c.Known.Epoch != t.epoch {
		return Reply{Outcome: WrongEpoch, End: t.end()}
	}
	if kept, bytes := count(batch); kept > 0 {
		n, fresh := l.next(history.Offset(kept), c.Now)
		if n != segment {
			return Reply{Outcome: WrongSegment, End: t.end(), Segment: n}
		}
		if fresh {
			l.enter(n, c.Now)
		}
		t.spans[len(t.spans)-1].bytes += bytes
	}
	reply := Reply{Outcome: Taken}
	for _, d := range batch {
		var links []history.Link
		if !d.Unkept {
			links = l.add(segment, d)
		}
		for i, topic := range d.Topics {
			p := history.Packet{Topic: topic, Body: d.Body, Kept: !d.Unkept, At: t.end()}
			if p.Kept {
				p.Born, p.Prev = t.epoch, links[i].Prev
			}
			reply.Published = append(reply.Published, p)
		}
	}
	reply.End = t.end()
	return reply
}

func count(batch []Draft) (kept, bytes int) {
	for _, d := range batch {
		if !d.Unkept {
			kept++
			bytes += len(d.Body)
		}
	}
	return kept, bytes
}

// add gives a message an offset and links it into the chains of its topics.
func (l *Log) add(segment uint64, d Draft) []history.Link {
	t := l.table
	t.counter++
	e := history.Entry{Offset: t.counter, Born: t.epoch, Body: d.Body, Links: make([]history.Link, len(d.Topics))}
	for i, topic := range d.Topics {
		e.Links[i] = history.Link{Topic: topic, Prev: max(t.last[topic], t.horizon)}
		t.last[topic] = t.counter
	}
	l.segments[segment] = append(l.segments[segment], e)
	return e.Links
}

// Clone returns a copy, like that of a replica or a snapshot.
func (l *Log) Clone() *Log {
	c := &Log{size: l.size, segments: make(map[uint64][]history.Entry, len(l.segments))}
	for n, entries := range l.segments {
		c.segments[n] = slices.Clone(entries)
	}
	if l.table != nil {
		t := *l.table
		t.parents = slices.Clone(t.parents)
		t.last, t.forgot, t.spans = maps.Clone(t.last), maps.Clone(t.forgot), slices.Clone(t.spans)
		c.table = &t
	}
	return c
}
