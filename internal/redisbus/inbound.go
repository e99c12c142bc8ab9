package redisbus

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/heraldgo/herald/internal/resp"
)

// An inbound takes the messages and confirmations of one link. It belongs to the
// trunk's reader.
type inbound struct {
	sub      *subscriber
	trunk    *trunk
	channels map[string]struct{} // those that are subscribed
	held     atomic.Int64        // len(channels), for other goroutines
}

func newInbound(s *subscriber, t *trunk) *inbound {
	return &inbound{sub: s, trunk: t, channels: make(map[string]struct{})}
}

// message reads the rest of a message. Its channel may be unsubscribed already:
// servers may be late, as miniredis is after an UNSUBSCRIBE.
func (in *inbound) message(word []byte, r *resp.Reader) error {
	probe, moved := string(word) == in.sub.way.probe, in.sub.way.moved != "" && string(word) == in.sub.way.moved
	topic, ok := strings.CutPrefix(string(word), in.sub.way.prefix)
	if !ok && !probe && !moved {
		return fmt.Errorf("herald: Redis sent a message of %q, which nobody asked for", word)
	}
	data, lent, err := r.BulkLent()
	if err != nil {
		return err
	}
	if probe {
		in.trunk.intake.flush()
		in.sub.heard(data)
		return nil
	}
	if moved {
		in.tookMoved(data)
		return nil
	}
	in.trunk.intake.take(Event{Kind: KindPacket, Packet: Packet{topic, data}, Loan: lent})
	return nil
}

// confirmed takes the confirmation of one channel, with Redis' count of the trunk's
// subscriptions. If that differs from ours, a subscription has ended without a word.
func (in *inbound) confirmed(kind commandKind, channel string, count int64) error {
	in.trunk.count -= len(in.channels)
	if kind == commandSubscribe {
		in.channels[channel] = struct{}{}
	} else {
		delete(in.channels, channel)
	}
	in.trunk.count += len(in.channels)
	in.held.Store(int64(len(in.channels)))
	if count != int64(in.trunk.count) {
		return fmt.Errorf("herald: Redis counts %d subscriptions, not %d", count, in.trunk.count)
	}
	return nil
}

// heard takes the payload of a probe.
func (s *subscriber) heard(data []byte) {
	if len(data) != 8 {
		return
	}
	s.echo.Hear(binary.BigEndian.Uint64(data))
}
