package mqttbus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/eclipse/paho.golang/packets"
)

// maxRemaining is the largest Remaining Length (MQTT 5.0, section 1.5.5).
const maxRemaining = 268_435_455

// errProtocol says that the broker sent what MQTT 5 does not allow.
var errProtocol = errors.New("mqttbus: breach of the protocol")

// A stamp begins the payload of every packet of ours: who published it, and which was
// that publisher's packet to the same topic before it. So a subscriber sees what is
// missing, and what comes twice.
type stamp struct {
	publisher uint64 // random, one for each Bus
	number    uint64 // the packet's, rising within the publisher
	previous  uint64 // number of the last packet that was taken, to this topic; 0: not known
}

const (
	stampSize    = 25
	stampVersion = 1
)

func (s stamp) put(b []byte) {
	_ = b[:stampSize]
	b[0] = stampVersion
	binary.BigEndian.PutUint64(b[1:], s.publisher)
	binary.BigEndian.PutUint64(b[9:], s.number)
	binary.BigEndian.PutUint64(b[17:], s.previous)
}

// parseStamp answers false if b does not begin with a stamp.
func parseStamp(b []byte) (stamp, bool) {
	if len(b) < stampSize || b[0] != stampVersion {
		return stamp{}, false
	}
	return stamp{
		publisher: binary.BigEndian.Uint64(b[1:]),
		number:    binary.BigEndian.Uint64(b[9:]),
		previous:  binary.BigEndian.Uint64(b[17:]),
	}, true
}

// A fixedHeader begins every MQTT packet (MQTT 5.0, section 2.1).
type fixedHeader struct {
	kind  byte // packets.PUBLISH, …
	flags byte
	size  int // Remaining Length
	bytes int // the size of the header itself
}

// peekHeader decodes the next packet's header and leaves it where it is.
func peekHeader(r *bufio.Reader) (fixedHeader, error) {
	size, n, err := peekVarint(r, 1)
	if err != nil {
		return fixedHeader{}, err
	}
	b, err := r.Peek(1)
	if err != nil {
		return fixedHeader{}, err
	}
	return fixedHeader{kind: b[0] >> 4, flags: b[0] & 15, size: size, bytes: 1 + n}, nil
}

// peekVarint decodes the Variable Byte Integer (MQTT 5.0, section 1.5.5) that
// lies at bytes ahead. It has n bytes.
func peekVarint(r *bufio.Reader, at int) (value, n int, err error) {
	for n = 1; n <= 4; n++ {
		b, err := r.Peek(at + n)
		if err != nil {
			return 0, 0, err
		}
		if b[at+n-1] < 0x80 {
			v, _ := binary.Uvarint(b[at:])
			return int(v), n, nil
		}
	}
	return 0, 0, fmt.Errorf("%w: a length of more than 4 bytes", errProtocol)
}

// publishSize returns the size of a PUBLISH without its fixed header, and with.
func publishSize(qos byte, name, payload int) (remaining, whole int) {
	remaining = 2 + name + 1 + payload
	if qos > 0 {
		remaining += 2
	}
	whole = 1 + remaining
	for n := remaining; ; n >>= 7 {
		whole++
		if n < 0x80 {
			return remaining, whole
		}
	}
}

// appendPublish appends a PUBLISH (MQTT 5.0, section 3.3) up to its payload.
// The packet identifier, at the offset id if QoS is 1, is left zero.
func appendPublish(b []byte, qos byte, name []byte, payload int) (bytes []byte, id int) {
	remaining, _ := publishSize(qos, len(name), payload)
	b = append(b, packets.PUBLISH<<4|qos<<1)
	b = binary.AppendUvarint(b, uint64(remaining))
	b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
	b = append(b, name...)
	id = len(b)
	if qos > 0 {
		b = append(b, 0, 0)
	}
	return append(b, 0), id // no properties
}

// ping is PINGREQ (MQTT 5.0, section 3.12).
var ping = []byte{packets.PINGREQ << 4, 0}

// A refusal is a reason code of the broker that says no.
type refusal struct {
	what   string // CONNECT, PUBLISH, …; "": the whole connection, with a DISCONNECT
	code   byte
	reason string // the standard's text
}

// Error names the packet, the code and its meaning.
func (r *refusal) Error() string {
	what := "answers " + r.what
	if r.what == "" {
		what = "disconnects"
	}
	if r.reason == "" {
		return fmt.Sprintf("mqttbus: the broker %s with 0x%02x", what, r.code)
	}
	return fmt.Sprintf("mqttbus: the broker %s with 0x%02x: %s", what, r.code, r.reason)
}

// isOurFault reports whether the broker ended the connection for something that
// we sent (MQTT 5.0, section 3.14.2.1), and would do so again.
func (r *refusal) isOurFault() bool {
	switch r.code {
	case packets.DisconnectMalformedPacket, packets.DisconnectProtocolError, packets.DisconnectImplementationSpecificError,
		packets.DisconnectNotAuthorized, packets.DisconnectTopicFilterInvalid, packets.DisconnectPacketTooLarge,
		packets.DisconnectQuotaExceeded, packets.DisconnectQoSNotSupported:
		return r.what == ""
	}
	return false
}

// denied reports whether permissions are the reason.
func (r *refusal) denied() bool { return r.code == packets.SubackNotauthorized }
