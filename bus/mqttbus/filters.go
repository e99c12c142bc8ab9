package mqttbus

import (
	"bytes"
	"fmt"

	"github.com/eclipse/paho.golang/packets"
)

const (
	// maxNames is how many topics one SUBSCRIBE names, and maxFilters how
	// many bytes it has.
	maxNames   = 500
	maxFilters = 32 << 10

	// maxExchange is how many topics go out before their answers are awaited.
	maxExchange = 16 * maxNames
)

// tell subscribes link to topics, or unsubscribes it, and returns the reason
// code for each. The error says that the link died.
func (s *subscriber) tell(link *link, kind byte, topics, names []string) (codes []byte, err error) {
	for len(names) > 0 && err == nil {
		n := min(len(names), maxExchange)
		var some []byte
		some, err = s.tellSome(link, kind, topics[:n], names[:n])
		codes = append(codes, some...)
		topics, names = topics[n:], names[n:]
	}
	return codes, err
}

func (s *subscriber) tellSome(link *link, kind byte, topics, names []string) (codes []byte, err error) {
	var out bytes.Buffer
	var answers []answer
	limit := min(maxFilters, link.limits.packet) - filterHeader
	for at := 0; at < len(names); {
		n, size := 0, 0
		for at+n < len(names) && n < maxNames {
			size += filterSize(names[at+n])
			if n > 0 && size > limit {
				break
			}
			n++
		}
		a := answer{kind: packets.SUBACK, topics: topics[at : at+n], names: names[at : at+n]}
		if kind == packets.UNSUBSCRIBE {
			a.kind = packets.UNSUBACK
		}
		if n == 1 && size > limit {
			a.done, a.codes = true, []byte{packets.DisconnectPacketTooLarge}
		}
		answers = append(answers, a)
		if !a.done {
			s.encode(&out, kind, uint16(len(answers)), a.names)
		}
		at += n
	}
	if out.Len() > 0 {
		if _, err := link.do(out.Bytes(), answers); err != nil {
			return nil, err
		}
	}
	for _, a := range answers {
		codes = append(codes, a.codes...)
	}
	return codes, nil
}

// filterHeader is the most bytes that a SUBSCRIBE has besides its filters (MQTT 5.0,
// section 3.8): fixed header, packet identifier, no properties.
const filterHeader = 1 + 4 + 2 + 1

// filterSize is what a name takes in a SUBSCRIBE: its length, and its options.
func filterSize(name string) int { return 2 + len(name) + 1 }

// encode appends a SUBSCRIBE or an UNSUBSCRIBE.
func (s *subscriber) encode(out *bytes.Buffer, kind byte, id uint16, names []string) {
	if kind == packets.UNSUBSCRIBE {
		p := packets.Unsubscribe{PacketID: id, Topics: names, Properties: &packets.Properties{}}
		p.WriteTo(out)
		return
	}
	// Retained messages are nothing of ours: none are to be sent (section
	// 3.8.3.1). No Local stays off, for our own packets must come back.
	p := packets.Subscribe{PacketID: id, Subscriptions: make([]packets.SubOptions, len(names)), Properties: &packets.Properties{}}
	for i, name := range names {
		p.Subscriptions[i] = packets.SubOptions{Topic: name, QoS: s.qos, RetainHandling: 2}
	}
	p.WriteTo(out)
}

// refusedChange is the error if the broker refused one topic.
func refusedChange(kind byte, topic string, code byte) error {
	r := &refusal{what: "SUBSCRIBE", code: code}
	if kind == packets.UNSUBSCRIBE {
		r.what = "UNSUBSCRIBE"
	}
	if code == packets.DisconnectPacketTooLarge {
		return fmt.Errorf("topic %q: its name is too long for this broker: %w", topic, r)
	}
	suback := packets.Suback{Reasons: []byte{code}}
	r.reason = suback.Reason(0)
	return fmt.Errorf("topic %q: %w", topic, r)
}
