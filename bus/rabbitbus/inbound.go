package rabbitbus

import (
	"bytes"
	"errors"
	"time"

	"github.com/heraldgo/herald"
)

// An inbound takes what comes on one link. It belongs to the link's reader.
type inbound struct {
	sub    *subscriber
	events []herald.Event // from the message at hand

	// What was heard of each publisher: lately, and the time before. Those
	// that are silent for longer are forgotten.

	heard  map[uint64]mark
	before map[uint64]mark
	turned time.Time // when heard became before
}

// A mark is the last message that was heard of a publisher.
type mark struct {
	seq    uint64
	proved time.Time // the subscriber's last proof then: a message lost after this one is younger
}

const (
	forgetAfter = time.Minute
	maxMarks    = 1 << 14
)

// errHole is why packets were lost although the link was up.
var errHole = errors.New("rabbitbus: RabbitMQ left out messages that it had taken")

// message takes one message of RabbitMQ.
func (in *inbound) message(body []byte) {
	in.sub.life.Add(1)
	h, packets, err := parseHeader(body)
	if err != nil {
		in.gap(in.sub.uplink.Proved(), err)
		return
	}
	in.follow(h)
	if err := in.collect(packets); err != nil {
		in.gap(in.sub.uplink.Proved(), err)
	}
	if len(in.events) > 0 {
		in.sub.inbox.Push(in.events, herald.Event{Kind: herald.EventDown, Since: in.sub.uplink.Proved(), Err: errInboxFull})
		clear(in.events)
		in.events = in.events[:0]
	}
	if h.id == in.sub.own {
		in.sub.echo.Hear(h.seq)
	}
}

// gap reports a loss that is over.
func (in *inbound) gap(since time.Time, why error) {
	in.sub.inbox.Down(herald.Event{Kind: herald.EventDown, Since: since, Err: why})
	in.sub.inbox.Restore()
}

// follow notes the number of a message, and reports what is missing before it.
func (in *inbound) follow(h header) {
	now := time.Now()
	if now.Sub(in.turned) > forgetAfter || len(in.heard) >= maxMarks {
		in.before, in.heard, in.turned = in.heard, make(map[uint64]mark), now
	}
	last, ok := in.heard[h.id]
	if !ok {
		last, ok = in.before[h.id]
	}
	if ok && last.seq < h.prev {
		in.gap(last.proved, errHole)
	}
	in.heard[h.id] = mark{seq: max(h.seq, last.seq), proved: in.sub.uplink.Proved()}
}

// collect turns the packets of subscribed topics into events.
func (in *inbound) collect(packets []byte) error {
	size := len(packets)
	in.sub.mu.Lock()
	defer in.sub.mu.Unlock()
	for len(packets) > 0 {
		topic, data, rest, err := nextPacket(packets)
		if err != nil {
			return err
		}
		packets = rest
		subscribed, ok := in.sub.topics[string(topic)]
		if !ok {
			continue
		}
		if len(data) < size/2 {
			data = bytes.Clone(data) // or it would keep all the others in memory
		}
		in.events = append(in.events, herald.Event{Kind: herald.EventPacket, Packet: herald.Packet{Topic: subscribed, Data: data}})
	}
	return nil
}
