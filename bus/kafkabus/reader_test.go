package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/heraldgo/herald"
)

// What a reader makes of what a log may bring: each record is offset:epoch
// for a packet, with a '-' before it for one that carries none.
func TestReaderTakes(t *testing.T) {
	const at, epoch = 10, 5
	for name, test := range map[string]struct {
		records string
		topic   byte // its id, which was 1 when the reader last looked; 0 is not told
		err     error
		want    string // packets, and down
		next    int64
		ends    bool // the session
	}{
		"in order":                 {records: "10:5 11:5 12:6", want: "10:5 11:5 12:6", next: 13},
		"without packets":          {records: "-10:5 11:5 -12:5", want: "11:5", next: 13},
		"read before":              {records: "8:5 9:4 10:5", want: "10:5", next: 11},
		"some are missing":         {records: "10:5 12:5", want: "10:5 down 12:5", next: 13},
		"the first are missing":    {records: "14:5", want: "down 14:5", next: 15},
		"cut off by a later epoch": {records: "10:5 7:6 8:6", want: "10:5 down 7:6 8:6", next: 9},
		"cut off, told":            {err: &kgo.ErrDataLoss{ResetTo: 7}, want: "down", next: 7},
		"out of range":             {err: kerr.OffsetOutOfRange, want: "down", next: at, ends: true},
		"denied":                   {records: "10:5", err: kerr.TopicAuthorizationFailed, want: "10:5 down", next: 11, ends: true},
		"not to be read":           {records: "10:5", err: errors.New("unable to decompress"), want: "10:5 down", next: 11, ends: true},
		"closed":                   {err: kgo.ErrClientClosed, next: at},
		"of the topic":             {records: "10:5 11:5", topic: 1, want: "10:5 11:5", next: 12},
		"of another topic":         {records: "10:5 11:5", topic: 2, want: "down", next: at, ends: true},
		"another topic's error":    {err: kerr.OffsetOutOfRange, topic: 2, want: "down", next: at, ends: true},
	} {
		t.Run(name, func(t *testing.T) {
			in := newInbox()
			r := &reader{topic: "herald", inbox: in, moved: make(chan struct{}, 1), topics: map[string]string{"topic": "topic"},
				state: &state{inbox: in, wake: make(chan struct{}, 1)}}
			r.layout = layout{[16]byte{1}, 1}
			r.places = []place{{next: at, read: at, epoch: epoch}}
			s := &session{state: r.state}
			s.ctx, s.end = context.WithCancelCause(t.Context())
			r.session = s

			r.take(s, [16]byte{test.topic}, fetched(t, test.records, test.err))
			var got []string
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			for e, err := in.Receive(ended); err == nil; e, err = in.Receive(ended) {
				if e.Kind == herald.EventDown {
					got = append(got, "down")
				} else {
					got = append(got, string(e.Packet.Data))
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if next := r.places[0].next; next != test.next {
				t.Errorf("the next is %d, want %d", next, test.next)
			}
			if (s.ctx.Err() != nil) != test.ends {
				t.Errorf("the session: %v", s.ctx.Err())
			}
		})
	}
}

func fetched(t *testing.T, records string, err error) kgo.FetchTopicPartition {
	p := kgo.FetchTopicPartition{Topic: "herald"}
	p.Err = err
	for word := range strings.FieldsSeq(records) {
		r := &kgo.Record{Topic: "herald", Key: []byte("topic"), Value: []byte(word)}
		if word[0] == '-' {
			r.Headers = []kgo.RecordHeader{{Key: probeHeader}}
		}
		if _, err := fmt.Sscanf(strings.TrimPrefix(word, "-"), "%d:%d", &r.Offset, &r.LeaderEpoch); err != nil {
			t.Fatal(err)
		}
		p.Records = append(p.Records, r)
	}
	return p
}

// A broker that is late is not believed.
func TestReaderCompares(t *testing.T) {
	id := func(b byte) (id [16]byte) { id[0] = b; return id }
	r := &reader{topic: "herald", retired: map[[16]byte]bool{}}
	r.start(layout{id(1), 3}, make([]int64, 3))
	for i, step := range []struct {
		layout
		want change
		fail bool
	}{
		{layout{id(1), 3}, unchanged, false},
		{layout{id(1), 5}, grown, false},
		{layout{id(1), 3}, unchanged, true},
		{layout{id(0), 5}, unchanged, false},
		{layout{id(2), 2}, recreated, false},
		{layout{id(1), 5}, unchanged, true},
		{layout{id(2), 2}, unchanged, false},
	} {
		what, err := r.compare(step.layout)
		if what != step.want || (err != nil) != step.fail {
			t.Errorf("step %d: %v, %v", i, what, err)
		}
		if what != unchanged {
			r.adopt(step.layout, what)
			if len(r.places) != step.partitions {
				t.Errorf("step %d: %d places", i, len(r.places))
			}
		}
	} // If fetches do not tell which topic is read, it is not read anew.
	r.byName = true
	r.adopt(layout{id(3), 2}, recreated)
	if offsets, err := r.set(&session{}); err == nil || r.session != nil {
		t.Errorf("a session begins at %v", offsets)
	}
	if got := r.behind([]int64{-1, 0}); got != 1 {
		t.Errorf("partition %d is behind, want 1", got)
	}
}
