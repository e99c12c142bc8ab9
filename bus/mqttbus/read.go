package mqttbus

import (
	"bufio"
	"encoding/binary"
	"fmt"

	"github.com/eclipse/paho.golang/packets"
)

const (
	// readBuffer holds the name of any topic, and some hundred small packets,
	// which then cost one read together.
	readBuffer = 64 << 10

	// answerBuffer is enough for answers.
	answerBuffer = 4 << 10

	// maxControl is the most bytes of a packet other than PUBLISH.
	maxControl = 1 << 20
)

func bufferSize(in *inbound) int {
	if in == nil {
		return answerBuffer
	}
	return readBuffer
}

// A source is what a link's reader reads from.
type source struct{ link *link }

// Read notes the sign of life.
func (s source) Read(b []byte) (int, error) {
	n, err := s.link.conn.Read(b)
	if n > 0 {
		s.link.life.Add(1)
		s.link.quickAck()
	}
	return n, err
}

// read reads packets until the link is dead.
func (l *link) read() {
	defer close(l.ended)
	for {
		err := l.readOne()
		if l.in != nil && (err != nil || l.r.Buffered() == 0) {
			l.in.flush()
		}
		if err != nil {
			l.fail(fmt.Errorf("read from the broker: %w", err))
			return
		}
	}
}

func (l *link) readOne() error {
	h, err := peekHeader(l.r)
	if err != nil {
		return err
	}
	if h.kind == packets.PUBLISH {
		l.r.Discard(h.bytes)
		if l.in == nil {
			return discard(l.r, h.size)
		}
		return l.in.publish(l.r, h)
	}
	if h.size > maxControl {
		return fmt.Errorf("%w: packet %d of %d bytes", errProtocol, h.kind, h.size)
	}
	if h.kind == packets.PUBACK {
		return l.readPuback(h)
	}
	p, err := readPacket(l.r)
	if err != nil {
		return err
	}
	switch c := p.Content.(type) {
	case *packets.Pingresp:
		e := l.exchange()
		if e == nil {
			return fmt.Errorf("%w: PINGRESP to nothing", errProtocol)
		}
		return l.answer(e, len(e.answers), packets.PINGRESP, nil)
	case *packets.Suback:
		return l.answer(l.exchange(), int(c.PacketID), packets.SUBACK, c.Reasons)
	case *packets.Unsuback:
		return l.answer(l.exchange(), int(c.PacketID), packets.UNSUBACK, c.Reasons)
	case *packets.Disconnect:
		return &refusal{"", c.ReasonCode, c.Reason()}
	}
	return fmt.Errorf("%w: packet %d", errProtocol, h.kind)
}

// readPacket has paho read a packet. What a broker sends must not end the
// process, whatever paho makes of it.
func readPacket(r *bufio.Reader) (p *packets.ControlPacket, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: paho panicked at a packet: %v", errProtocol, v)
		}
	}()
	return packets.ReadPacket(r)
}

// readPuback reads the most frequent packets, without their properties (MQTT 5.0,
// section 3.4).
func (l *link) readPuback(h fixedHeader) error {
	if h.size < 2 {
		return fmt.Errorf("%w: PUBACK of %d bytes", errProtocol, h.size)
	}
	n := h.bytes + min(h.size, 3)
	b, err := l.r.Peek(n)
	if err != nil {
		return err
	}
	id := int(binary.BigEndian.Uint16(b[h.bytes:]))
	var code [1]byte
	copy(code[:], b[h.bytes+2:])
	if err := discard(l.r, h.bytes+h.size); err != nil {
		return err
	}
	return l.answer(l.exchange(), id, packets.PUBACK, code[:])
}

// exchange returns the exchange that waits for answers, or nil.
func (l *link) exchange() *exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// answer takes the answer to the packet id.
func (l *link) answer(e *exchange, id int, kind byte, codes []byte) error {
	if e == nil || id < 1 || id > len(e.answers) {
		return fmt.Errorf("%w: packet %d answers nothing", errProtocol, kind)
	}
	a := &e.answers[id-1]
	if a.done || a.kind != kind || kind == packets.SUBACK && len(codes) != len(a.names) {
		return fmt.Errorf("%w: packet %d does not answer ours", errProtocol, kind)
	}
	a.done = true
	switch kind {
	case packets.PUBACK:
		a.code = codes[0]
	case packets.SUBACK, packets.UNSUBACK:
		a.codes = codes
		l.in.changed(a)
	}
	e.left--
	if e.left > 0 {
		return nil
	}
	l.mu.Lock()
	l.current = nil
	l.mu.Unlock()
	if l.in != nil {
		l.in.flush()
	}
	close(e.done)
	return nil
}
