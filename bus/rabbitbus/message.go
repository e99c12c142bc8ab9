package rabbitbus

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/heraldgo/herald"
)

// A message of RabbitMQ carries the packets of one or more calls of Publish:
//
//	version  1 byte, 1
//	id       8 bytes, the publisher: a random number
//	prev     8 bytes, the number of the message of this publisher that comes before it
//	seq      8 bytes, its own number
//	packets  each: length of the topic, topic, length of the data, data
//
// Numbers are big-endian, lengths uvarints. A node that has heard the publisher
// before, but not the message before this one, has lost that. A message without
// packets is a probe.
const (
	version    = 1
	headerSize = 1 + 3*8
)

type header struct{ id, prev, seq uint64 }

// put writes the header to the first bytes of b.
func (h header) put(b []byte) {
	b[0] = version
	binary.BigEndian.PutUint64(b[1:], h.id)
	binary.BigEndian.PutUint64(b[9:], h.prev)
	binary.BigEndian.PutUint64(b[17:], h.seq)
}

// errAlien is the reason of a gap, because nobody knows what was in the message.
var errAlien = errors.New("rabbitbus: there was a message on the exchange that this version does not understand")

// parseHeader returns the header of a message, and its packets.
func parseHeader(b []byte) (header, []byte, error) {
	if len(b) < headerSize || b[0] != version {
		return header{}, nil, errAlien
	}
	return header{
		id:   binary.BigEndian.Uint64(b[1:]),
		prev: binary.BigEndian.Uint64(b[9:]),
		seq:  binary.BigEndian.Uint64(b[17:]),
	}, b[headerSize:], nil
}

// nextPacket returns the first packet of b, whose slices are b's, and the rest.
func nextPacket(b []byte) (topic, data, rest []byte, err error) {
	if topic, rest, err = nextField(b); err == nil {
		data, rest, err = nextField(rest)
	}
	return topic, data, rest, err
}

func nextField(b []byte) (field, rest []byte, err error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, errAlien
	}
	end := size + int(n)
	return b[size:end:end], b[end:], nil
}

// A publication is what one call publishes, encoded by the caller, so that
// nothing of the caller's is used once a call has been given up.
type publication struct {
	bytes []byte // room for a header, then packets
	seq   uint64 // its message's, once that has been taken
}

var publications = sync.Pool{New: func() any { return new(publication) }}

const (
	// keepPublication is the most bytes whose memory is used again.
	keepPublication = 64 << 10

	// maxPublication is how much of a large call goes out as one. A larger
	// packet goes alone.
	maxPublication = 256 << 10
)

func newPublication() *publication {
	p := publications.Get().(*publication)
	if cap(p.bytes) < headerSize {
		p.bytes = make([]byte, headerSize, 512)
	}
	*p = publication{bytes: p.bytes[:headerSize]}
	return p
}

// fits reports whether there is room for another packet.
func (p *publication) fits(packet herald.Packet) bool {
	return len(p.bytes) == headerSize ||
		len(p.bytes)+len(packet.Topic)+len(packet.Data)+2*binary.MaxVarintLen32 <= maxPublication
}

func (p *publication) add(packet herald.Packet) {
	p.bytes = binary.AppendUvarint(p.bytes, uint64(len(packet.Topic)))
	p.bytes = append(p.bytes, packet.Topic...)
	p.bytes = binary.AppendUvarint(p.bytes, uint64(len(packet.Data)))
	p.bytes = append(p.bytes, packet.Data...)
}

// free lets the memory be used again.
func (p *publication) free() {
	if cap(p.bytes) <= keepPublication {
		publications.Put(p)
	}
}
