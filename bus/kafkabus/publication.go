package kafkabus

import (
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald"
)

// A publication is the packets of one call that go out together.
type publication struct {
	records []kgo.Record
	data    []byte // keys and values
	link    *link
	wrote   uint64 // the link's, before the first record was handed over
	lost    uint64

	// Of the link's promises, which come one after the other.

	promise func(*kgo.Record, error) // p.settle
	waiting int
	failed  int
	unsure  bool  // not all that failed were refused
	idle    bool  // the link was, when the last one failed
	err     error // the first failure
	done    chan struct{}
}

// Bounds of what goes out together, and of what is kept for another use.
const (
	maxPublishItems = 1024
	maxPublishBytes = 1 << 20
	keepItems       = 64
	keepBytes       = 64 << 10
)

var publications = sync.Pool{New: func() any {
	p := &publication{done: make(chan struct{}, 1)}
	p.promise = p.settle
	return p
}}

// fill copies packets into p, as many as go out together, and returns the
// rest. Once a call has returned, kgo may still hold its records.
func (p *publication) fill(topic string, packets []herald.Packet) (rest []herald.Packet) {
	size, n := 0, 0
	for n < len(packets) && n < maxPublishItems {
		s := len(packets[n].Topic) + len(packets[n].Data)
		if n > 0 && size+s > maxPublishBytes {
			break
		}
		size += s
		n++
	}
	if cap(p.data) < size || p.data == nil {
		p.data = make([]byte, 0, max(size, 1)) // not nil: a record's key is never nil
	}
	if cap(p.records) < n {
		p.records = make([]kgo.Record, n)
	}
	p.records, p.data = p.records[:n], p.data[:0]
	for i, packet := range packets[:n] {
		from := len(p.data)
		p.data = append(p.data, packet.Topic...)
		to := len(p.data)
		p.data = append(p.data, packet.Data...)
		p.records[i] = kgo.Record{Topic: topic, Key: p.data[from:to:to], Value: p.data[to:len(p.data):len(p.data)]}
	}
	return packets[n:]
}

// settle takes the outcome of one record.
func (p *publication) settle(_ *kgo.Record, err error) {
	if err != nil {
		if p.failed == 0 {
			p.err = err
		}
		p.failed++
		p.unsure = p.unsure || !isRefusal(err)
		p.link.note(err)
		p.idle = p.link.idle(p.wrote)
	}
	if p.waiting--; p.waiting == 0 {
		p.done <- struct{}{}
	}
}

// outcome says what became of the records, all of which are settled.
func (p *publication) outcome() error {
	switch {
	case p.failed == 0:
		return nil
	case errors.Is(p.err, kgo.ErrClientClosed):
		p.err = fmt.Errorf("the link was dropped: %w", p.err)
	}
	switch {
	case p.failed < len(p.records):
		return fmt.Errorf("%w: %d of %d packets failed: %w", herald.ErrUnknown, p.failed, len(p.records), p.err)
	case !p.unsure && p.link.lost.Load() == p.lost:
		// Every request was answered, and this was the answer.
		return fmt.Errorf("refused by Kafka: %w", p.err)
	case p.idle:
		// None of the client's requests went out meanwhile, so none of these records
		// did.
		return fmt.Errorf("%w: %w", herald.ErrBusDown, p.err)
	}
	return fmt.Errorf("%w: %w", herald.ErrUnknown, p.err)
}

// isRefusal reports whether err says for certain that Kafka has not taken a
// record, provided that it was sent once.
func isRefusal(err error) bool {
	for _, refusal := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.PolicyViolation,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// recycle keeps p's memory for another publication. kgo must be done with it.
func (p *publication) recycle() {
	p.link, p.err = nil, nil
	clear(p.records)
	if cap(p.records) <= keepItems && cap(p.data) <= keepBytes {
		publications.Put(p)
	}
}

// probeHeader marks a record that carries no packet. Packets have no headers.
const probeHeader = "herald-probe"

// A partitioner sends a packet where the hash of its topic says, as Kafka's own
// default partitioner does, and a probe to the partition that it names.
type partitioner struct{}

var byKey = kgo.StickyKeyPartitioner(nil).ForTopic("")

func (p partitioner) ForTopic(string) kgo.TopicPartitioner { return p }

// RequiresConsistency returns true, because partitions without a leader count too.
func (partitioner) RequiresConsistency(*kgo.Record) bool { return true }

// Partition returns a record's partition. It may be called at any time, because with
// a key nothing else matters.
func (partitioner) Partition(r *kgo.Record, n int) int {
	if len(r.Headers) > 0 {
		return int(r.Partition) % n
	}
	return byKey.Partition(r, n)
}
