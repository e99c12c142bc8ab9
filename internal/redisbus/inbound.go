package redisbus

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/heraldgo/herald/internal/resp"
)

// An inbound takes what comes on one subscribed link. It belongs to the
// link's reader.
type inbound struct {
	sub      *subscriber
	buffer   int                 // bytes to read at once
	channels map[string]struct{} // all that is subscribed
	events   []Event             // read and not yet in the inbox
}

func newInbound(s *subscriber) *inbound {
	in := &inbound{sub: s, buffer: readBuffer, channels: make(map[string]struct{})}
	if s.isPart() {
		in.buffer = partitionBuffer
	}
	return in
}

// maxEvents is how many packets go to the inbox together.
const maxEvents = 256

// message reads the rest of a message. A server may be late, as miniredis is
// after an UNSUBSCRIBE, so that it need not be of a channel that is subscribed.
func (in *inbound) message(r *resp.Reader) error {
	word, err := r.Peek()
	if err != nil {
		return err
	}
	probe, moved := string(word) == in.sub.way.probe, in.sub.way.moved != "" && string(word) == in.sub.way.moved
	topic, ok := strings.CutPrefix(string(word), in.sub.way.prefix)
	if !ok && !probe && !moved {
		return fmt.Errorf("herald: Redis sent a message of %q, which nobody asked for", word)
	}
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
	in.events = append(in.events, Event{Kind: KindPacket, Packet: Packet{topic, data}})
	if len(in.events) == maxEvents {
		in.flush()
	}
	return nil
}

// confirmed takes the confirmation of one channel. Redis counts what the
// link is subscribed to, and so do we: whatever cut a subscription off
// without a word shows here.
func (in *inbound) confirmed(kind commandKind, channel string, count int64) error {
	if kind == commandSubscribe {
		in.channels[channel] = struct{}{}
	} else {
		delete(in.channels, channel)
	}
	if count != int64(len(in.channels)) {
		return fmt.Errorf("herald: Redis counts %d subscriptions where there were %d", count, len(in.channels))
	}
	return nil
}

// flush moves what has been read to the inbox.
func (in *inbound) flush() {
	if len(in.events) == 0 {
		return
	}
	in.sub.inbox.Push(in.events, Event{Kind: KindDown, Since: in.sub.proofs.oldest(), Err: errInboxFull})
	clear(in.events)
	in.events = in.events[:0]
}

// heard takes the payload of a probe.
func (s *subscriber) heard(data []byte) {
	if len(data) != 8 {
		return
	}
	s.echo.Hear(binary.BigEndian.Uint64(data))
}
