package natsbus

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/pieces"
)

// probeSID is the id of the subscription to the Bus' own subject. Those of
// topics follow.
const probeSID = 1

// An inbound takes what comes on one subscribed link, and knows the topics by
// the ids of their subscriptions.
type inbound struct {
	sub    *subscriber
	events []herald.Event // read and not yet in the inbox; the reader's own
	bytes  int            // their size
	free   []int          // ids to use again; of whoever calls do

	mu     sync.Mutex
	topics []topicOf // by id, from probeSID+1 on
}

// A topicOf is what a subscription is to.
type topicOf struct {
	name string
	on   bool
}

// take returns an id for a subscription to the topic.
func (in *inbound) take(topic string) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n := len(in.free); n > 0 {
		i := in.free[n-1]
		in.free = in.free[:n-1]
		in.topics[i] = topicOf{topic, true}
		return i + probeSID + 1
	}
	in.topics = append(in.topics, topicOf{topic, true})
	return len(in.topics) + probeSID
}

// drop ends the handing over of a subscription's messages.
func (in *inbound) drop(sid int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.topics[sid-probeSID-1] = topicOf{}
}

// release has the id used again: the server has confirmed that it is free.
func (in *inbound) release(sid int) { in.free = append(in.free, sid-probeSID-1) }

// topic returns the topic of a subscription.
func (in *inbound) topic(sid int) (string, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if i := sid - probeSID - 1; i >= 0 && i < len(in.topics) {
		return in.topics[i].name, in.topics[i].on
	}
	return "", false
}

// maxEvents and maxBytes are how much goes to the inbox together, which bounds
// what waits there.
const (
	maxEvents = 256
	maxBytes  = 1 << 20
)

// message reads what follows the line of a message. Its topic is that of the
// subscription, so that it costs no memory of its own.
func (in *inbound) message(r *bufio.Reader, m message, life *atomic.Uint64) error {
	topic, on := in.topic(m.sid)
	if !on && m.sid != probeSID { // its subscription is being ended
		_, err := r.Discard(m.size + len("\r\n"))
		return err
	}
	if _, err := r.Discard(m.headers); err != nil { // nobody but other software sends them
		return err
	}
	data, err := pieces.Read(r, m.size-m.headers, func() { life.Add(1) })
	if err != nil {
		return err
	}
	if end, err := r.Peek(2); err != nil {
		return err
	} else if end[0] != '\r' || end[1] != '\n' {
		return fmt.Errorf("%w: a message ends with %q", errProtocol, end)
	}
	r.Discard(len("\r\n"))
	if m.sid == probeSID {
		in.flush()
		if len(data) == 8 {
			in.sub.echo.Hear(binary.BigEndian.Uint64(data))
		}
		return nil
	}
	in.events = append(in.events, herald.Event{Kind: herald.EventPacket, Packet: herald.Packet{Topic: topic, Data: data}})
	if in.bytes += len(data); len(in.events) == maxEvents || in.bytes >= maxBytes {
		in.flush()
	}
	return nil
}

// flush moves what has been read to the inbox.
func (in *inbound) flush() {
	if len(in.events) == 0 {
		return
	}
	in.sub.inbox.Push(in.events, herald.Event{Kind: herald.EventDown, Since: in.sub.uplink.Proved(), Err: errInboxFull})
	clear(in.events)
	in.events, in.bytes = in.events[:0], 0
}
