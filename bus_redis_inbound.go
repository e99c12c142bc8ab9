package herald

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/heraldgo/herald/internal/resp"
)

// A redisInbound takes what comes on one subscribed link. It belongs to the
// link's reader.
type redisInbound struct {
	sub    *redisSubscriber
	buffer int               // bytes to read at once
	topics map[string]string // channel -> topic, of all that is subscribed
	events []Event           // read and not yet in the inbox
}

func newRedisInbound(s *redisSubscriber) *redisInbound {
	in := &redisInbound{sub: s, buffer: readBuffer, topics: make(map[string]string)}
	if s.isPart() {
		in.buffer = partitionBuffer
	}
	return in
}

// maxEvents is how many packets go to the inbox together.
const maxEvents = 256

// message reads the rest of a message. Its topic is that of the
// subscription, so that it costs no memory of its own.
func (in *redisInbound) message(r *resp.Reader) error {
	word, err := r.Peek()
	if err != nil {
		return err
	}
	topic, ok := in.topics[string(word)]
	if !ok { // a server may be late, as miniredis is after an UNSUBSCRIBE
		topic, ok = strings.CutPrefix(string(word), in.sub.way.prefix)
	}
	if !ok {
		return fmt.Errorf("herald: Redis sent a message of %q, which nobody asked for", word)
	}
	probe, moved := string(word) == in.sub.way.probe, string(word) == in.sub.way.moved
	data, err := r.Bulk()
	if err != nil {
		return err
	}
	if probe {
		in.flush()
		in.sub.heard(data)
		return nil
	}
	if moved {
		in.tookMoved(data)
		return nil
	}
	in.events = append(in.events, Event{Kind: EventPacket, Packet: Packet{topic, data}})
	if len(in.events) == maxEvents {
		in.flush()
	}
	return nil
}

// confirmed takes the confirmation of one channel. Redis counts what the
// link is subscribed to, and so do we: whatever cut a subscription off
// without a word shows here.
func (in *redisInbound) confirmed(kind commandKind, channel string, count int64) error {
	if kind == commandSubscribe {
		topic := ""
		if channel != in.sub.way.probe && channel != in.sub.way.moved {
			topic = channel[len(in.sub.way.prefix):]
		}
		in.topics[channel] = topic
	} else {
		delete(in.topics, channel)
	}
	if count != int64(len(in.topics)) {
		return fmt.Errorf("herald: Redis counts %d subscriptions where there were %d", count, len(in.topics))
	}
	return nil
}

// flush moves what has been read to the inbox.
func (in *redisInbound) flush() {
	if len(in.events) == 0 {
		return
	}
	in.sub.inbox.Push(in.events, Event{Kind: EventDown, Since: in.sub.proofs.oldest(), Err: errInboxFull})
	clear(in.events)
	in.events = in.events[:0]
}

// heard takes the payload of a probe.
func (s *redisSubscriber) heard(data []byte) {
	if len(data) != 8 {
		return
	}
	select {
	case <-s.nonces:
	default:
	}
	s.nonces <- binary.BigEndian.Uint64(data) // only the link's reader sends
}
