package herald

import "encoding/binary"

// The first bytes of the frames that a server sends (RFC 6455 section 5.2):
// all are final, none is masked.
const (
	finalText   = 0x81
	finalBinary = 0x82
	finalClose  = 0x88
	finalPing   = 0x89
	finalPong   = 0x8a
)

const (
	maxFrameHeader = 10  // of a frame that is not masked
	maxControl     = 125 // bytes of a control frame's payload (RFC 6455 section 5.5)
	maskSize       = 4   // of a client's frame
	maskedHeader   = 6   // of a client's control frame: two bytes and the mask
)

var pingFrame = []byte{finalPing, 0}

// appendFrameHeader appends the header of a frame whose payload has n bytes.
func appendFrameHeader(b []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(b, first, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
	}
}

// frame returns the frame that carries the message to a client.
func (m Message) frame() []byte {
	return m.appendFrame(make([]byte, 0, maxFrameHeader+m.len()))
}

func (m Message) appendFrame(b []byte) []byte {
	first := byte(finalBinary)
	if m.text {
		first = finalText
	}
	b = appendFrameHeader(b, first, m.len())
	return append(append(b, m.data...), m.words...)
}

// closeFrame returns a close frame. The code and reason have been checked.
func closeFrame(code StatusCode, reason string) []byte {
	b := make([]byte, 0, 4+len(reason))
	b = appendFrameHeader(b, finalClose, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}

// framePayload returns the payload of b, where b is one whole unmasked frame
// with the shortest header that its length allows.
func framePayload(b []byte) (payload []byte, ok bool) {
	if len(b) < 2 {
		return nil, false
	}
	n, header := uint64(b[1]), 2
	switch {
	case n == 126 && len(b) >= 4:
		n, header = uint64(binary.BigEndian.Uint16(b[2:])), 4
		ok = n >= 126
	case n == 127 && len(b) >= 10:
		n, header = binary.BigEndian.Uint64(b[2:]), 10
		ok = n >= 1<<16
	default:
		ok = n < 126
	}
	if !ok || n != uint64(len(b)-header) {
		return nil, false
	}
	return b[header:], true
}

// parseClose returns the code and reason of a close frame's payload, which
// the WebSocket library has checked.
func parseClose(payload []byte) *CloseError {
	if len(payload) < 2 {
		return &CloseError{Code: statusNone}
	}
	return &CloseError{Code: StatusCode(binary.BigEndian.Uint16(payload)), Reason: string(payload[2:])}
}

// statusNone stands for a close frame without a code (RFC 6455 section 7.1.5).
const statusNone StatusCode = 1005

// cutControl returns the ping or pong of a client's that b begins with, where
// it is there as a whole and nothing is wrong with it.
func cutControl(b []byte) (frame []byte, ok bool) {
	if len(b) < maskedHeader || b[0] != finalPing && b[0] != finalPong || b[1]&0x80 == 0 {
		return nil, false
	}
	n := int(b[1] & 0x7f)
	if n > maxControl || len(b) < maskedHeader+n {
		return nil, false
	}
	return b[:maskedHeader+n], true
}

// pongFor answers a ping that cutControl returned.
func pongFor(ping []byte) []byte {
	mask := ping[2:maskedHeader]
	pong := append([]byte{finalPong, byte(len(ping) - maskedHeader)}, ping[maskedHeader:]...)
	for i := range pong[2:] {
		pong[2+i] ^= mask[i%len(mask)]
	}
	return pong
}
