package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/inbox"
)

// A place is how far a partition has been read.
type place struct {
	next  int64 // offset of the record to come, or nowhere
	epoch int32 // its leader's when the last record was written, or -1
	read  int64 // what is below, of this epoch or an earlier one, has been read
	lost  bool  // the log has nothing at next
}

// nowhere is the next offset of a place that is still to be found, and counts as lost
// until then. Any part of its log may have been read.
const nowhere = -1

// newPlace returns the place of a partition of which nothing has been read.
func newPlace(next int64) place { return place{next: next, epoch: -1} }

func (p place) isLost() bool { return p.lost }

// A reader reads every partition, each from its place, in sessions: one Kafka client
// each. Before the places say that something has been read, it is in the inbox, or
// was dropped there and reported.
type reader struct {
	topic string // Kafka's topic
	opts  []kgo.Opt
	pub   *publisher // whose link is asked for the ends of the logs
	inbox *inbox.Inbox[herald.Event]
	state *state
	moved chan struct{} // holds a token after places have moved

	// Of the reading goroutine.

	events []herald.Event // read and not yet in the inbox
	size   int            // bytes of their packets' data

	mu      sync.Mutex
	topics  map[string]string // that are subscribed to, each to itself
	layout  layout
	retired map[[16]byte]bool // ids of topics that are no more
	places  []place
	session *session // the last one; nil if it is of another layout
	byName  bool     // packets came without the id of their topic, as before Kafka 3.1
}

func newReader(o *Options, seeds []string, b *Bus) (*reader, error) {
	r := &reader{
		topic: o.Topic,
		opts: o.clientOpts(seeds,
			// No offset is ever chosen by the client.
			kgo.ConsumeResetOffset(kgo.NoResetOffset()),
			kgo.KeepControlRecords(),
			kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		),
		pub:     b.pub,
		inbox:   b.inbox,
		state:   b.state,
		moved:   make(chan struct{}, 1),
		topics:  make(map[string]string),
		retired: make(map[[16]byte]bool),
	}
	some := kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{o.Topic: {0: kgo.NewOffset()}})
	return r, kgo.ValidateOpts(append(r.opts[:len(r.opts):len(r.opts)], some)...)
}

// start sets the places that the first session reads from.
func (r *reader) start(l layout, ends []int64) {
	r.layout = l
	r.places = make([]place, len(ends))
	for i, end := range ends {
		r.places[i] = newPlace(end)
	}
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	for tries := 0; ctx.Err() == nil; tries++ {
		born := time.Now()
		s, err := r.open(ctx)
		if err == nil {
			r.read(s)
			s.client.Close()
		} else {
			r.state.fault(err)
		}
		if time.Since(born) > 2*backoffMax {
			tries = 0
		}
		if tries == 0 {
			continue
		}
		select {
		case <-time.After(backoff(tries)):
		case <-ctx.Done():
		}
	}
}

// find gives each lost place a new one: the start of the log if its beginning was
// removed behind us, or else its end, because what is there may have been read.
func (r *reader) find(ctx context.Context) error {
	r.mu.Lock()
	places, layout := slices.Clone(r.places), r.layout
	r.mu.Unlock()
	if !slices.ContainsFunc(places, place.isLost) {
		return nil
	}
	client := r.pub.current().client
	starts, failed := listOffsets(ctx, client, r.topic, len(places), atEarliest)
	if len(failed) > 0 {
		return partitionsError(r.topic, failed)
	}
	ends, failed := listOffsets(ctx, client, r.topic, len(places), atLatest)
	if len(failed) > 0 {
		return partitionsError(r.topic, failed)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.layout != layout { // these are not its ends
		return nil
	}
	for i := range r.places {
		switch p := &r.places[i]; {
		case !p.lost:
		case p.next != nowhere && p.next < starts[i]:
			*p = newPlace(starts[i])
		default:
			*p = newPlace(ends[i])
		}
	}
	return nil
}

// restart ends the present session, so that another one begins.
func (r *reader) restart(why error) {
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	if s != nil {
		s.end(why)
	}
}

// A change is what compare found.
type change uint8

const (
	unchanged change = iota
	grown            // there are more partitions
	recreated        // it is another topic of the same name
)

// compare says what has changed if l is what the cluster says of the topic.
// A broker may be late and tell of what was before, which is an error.
func (r *reader) compare(l layout) (change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, none := r.layout, [16]byte{}
	switch {
	case r.retired[l.id]:
		return unchanged, fmt.Errorf("topic %s: Kafka tells of one that is no more", r.topic)
	case l.id != none && old.id != none && l.id != old.id:
		return recreated, nil
	case l.partitions < old.partitions:
		return unchanged, fmt.Errorf("topic %s: Kafka tells of %d partitions, of which there were %d", r.topic, l.partitions, old.partitions)
	case l.partitions > old.partitions:
		return grown, nil
	}
	return unchanged, nil
}

// adopt turns to a topic that has changed. An added partition is new from its
// beginning on, and so is another topic of the same name, because take has refused
// what came of it. If fetches name topics and give no ids, take could not, and what
// is there may have been read.
func (r *reader) adopt(l layout, what change) {
	r.mu.Lock()
	added := newPlace(0)
	if what == recreated {
		r.retired[r.layout.id] = true
		r.places = nil
		if r.byName {
			added.next, added.lost = nowhere, true
		}
	}
	for len(r.places) < l.partitions {
		r.places = append(r.places, added)
	}
	r.layout = l
	s := r.session
	r.session = nil
	r.mu.Unlock()
	if s != nil {
		s.end(errLayout)
	}
}

// read takes what the session brings until its context ends.
func (r *reader) read(s *session) {
	for {
		fetches := s.client.PollFetches(s.ctx)
		if s.ctx.Err() != nil {
			return
		}
		for _, fetch := range fetches {
			for _, topic := range fetch.Topics {
				for _, p := range topic.Partitions {
					r.take(s, topic.TopicID, kgo.FetchTopicPartition{Topic: topic.Topic, FetchPartition: p})
				}
			}
		}
		r.flush()
	}
}

// take takes what came of one partition. id is that of its topic, or zero if the
// fetch did not tell.
func (r *reader) take(s *session, id [16]byte, fetched kgo.FetchTopicPartition) {
	if fetched.Partition < 0 { // no partition's, but one of the client's own errors
		r.failed(s, -1, fetched.Err)
		return
	}
	r.mu.Lock()
	if r.session != s || fetched.Topic != r.topic || int(fetched.Partition) >= len(r.places) {
		r.mu.Unlock()
		return
	}
	// A session finds the topic by its name, maybe before survey has seen that
	// it is another one now, or through a broker that has not.
	none := [16]byte{}
	other := id != none && r.layout.id != none && id != r.layout.id
	r.byName = r.byName || id == none && len(fetched.Records) > 0
	at := r.places[fetched.Partition]
	r.mu.Unlock()
	if other {
		s.state.fault(errRecreated)
		s.end(errRecreated)
		return
	}

	for _, record := range fetched.Records {
		if record.Offset < at.read && record.LeaderEpoch <= at.epoch {
			at.next = max(at.next, record.Offset+1)
			continue
		}
		if record.Offset != at.next {
			// A later leader has cut the log off and goes on from there; or
			// records are missing.
			r.flush()
			s.state.fault(fmt.Errorf("partition %d of topic %s: offset %d comes after %d", record.Partition, r.topic, record.Offset, at.next-1))
		}
		at.next, at.read, at.epoch = record.Offset+1, record.Offset+1, record.LeaderEpoch
		if len(record.Headers) == 0 && !record.Attrs.IsControl() {
			r.keep(record)
		}
	}
	r.flush()
	r.mu.Lock()
	if r.session == s {
		r.places[fetched.Partition] = at
	}
	r.mu.Unlock()
	select {
	case r.moved <- struct{}{}:
	default:
	}
	if fetched.Err != nil {
		r.failed(s, int(fetched.Partition), fetched.Err)
	}
}

// maxEvents is how many packets go to the inbox together.
const maxEvents = 256

// keep keeps a packet for the inbox if its topic is subscribed to.
func (r *reader) keep(record *kgo.Record) {
	r.mu.Lock()
	topic, ok := r.topics[string(record.Key)]
	r.mu.Unlock()
	if !ok {
		return
	}
	r.events = append(r.events, herald.Event{Kind: herald.EventPacket, Packet: herald.Packet{Topic: topic, Data: record.Value}})
	r.size += len(record.Value)
	if len(r.events) == maxEvents {
		r.flush()
	}
}

// flush moves what has been kept to the inbox. The packets are copied, because
// otherwise each would keep in memory all that was fetched with it.
func (r *reader) flush() {
	if len(r.events) == 0 {
		return
	}
	data := make([]byte, 0, r.size)
	for i := range r.events {
		from := len(data)
		data = append(data, r.events[i].Packet.Data...)
		r.events[i].Packet.Data = data[from:len(data):len(data)]
	}
	r.inbox.Push(r.events, herald.Event{Kind: herald.EventDown, Since: r.state.since(), Err: errInboxFull})
	clear(r.events)
	r.events, r.size = r.events[:0], 0
}

// failed takes an error that came instead of records of a partition; -1 is
// none of them, or all.
func (r *reader) failed(s *session, partition int, err error) {
	if errors.Is(err, kgo.ErrClientClosed) || s.ctx.Err() != nil {
		return
	}
	err = fmt.Errorf("partition %d of topic %s: %w", partition, r.topic, err)
	s.state.fault(err)
	if cut, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
		r.mu.Lock()
		if r.session == s {
			r.places[partition].next = cut.ResetTo
		}
		r.mu.Unlock()
		return
	}
	// An error of Kafka's is about the partition; any other is about what is
	// in the log, and would come again and again.
	_, told := errors.AsType[*kerr.Error](err)
	if partition >= 0 && (!told || errors.Is(err, kerr.OffsetOutOfRange) || errors.Is(err, kerr.CorruptMessage)) {
		r.lose(s, partition)
	}
	s.end(err)
}

// lose notes that there is nothing at a partition's place.
func (r *reader) lose(s *session, partition int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session == s {
		r.places[partition].lost = true
	}
}

// await waits until all that is below ends has been read. Negative ends are
// not known, and not waited for.
func (r *reader) await(ctx context.Context, ends []int64) error {
	for {
		behind := r.behind(ends)
		if behind < 0 {
			return nil
		}
		select {
		case <-r.moved:
		case <-ctx.Done():
			return fmt.Errorf("partition %d of topic %s: %w", behind, r.topic, errDeaf)
		}
	}
}

// behind returns a partition that has not been read to its end, or -1. A partition
// whose log ends before its place has been read.
func (r *reader) behind(ends []int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, end := range ends {
		if end >= 0 && (i >= len(r.places) || r.places[i].next < end) {
			return i
		}
	}
	return -1
}

// subscribe adds topics, or removes them.
func (r *reader) subscribe(topics []string, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, topic := range topics {
		if on {
			r.topics[topic] = topic
		} else {
			delete(r.topics, topic)
		}
	}
}
