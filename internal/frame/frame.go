// Package frame has the frames of the WebSocket protocol (RFC 6455 section 5). It
// makes and inspects those of a server, which are final and not masked, and has the
// Parser of what a client sends.
package frame

import (
	"encoding/binary"
	"unicode/utf8"
)

// The first bytes of the frames that a server sends (RFC 6455 section 5.2).
const (
	Text   = 0x81
	Binary = 0x82
	Close  = 0x88
	Ping   = 0x89
	Pong   = 0x8a
)

// Compressed is the bit RSV1, which the first byte of a compressed message has in
// addition to Text or Binary (RFC 7692 section 6).
const Compressed = 0x40

// The largest headers, in bytes.
const (
	MaxHeader       = 10            // of a frame that is not masked
	MaxClientHeader = MaxHeader + 4 // of a client's frame, with its mask
)

// maxControl is the most bytes that the payload of a control frame may have (RFC 6455
// section 5.5).
const maxControl = 125

// AppendHeader appends the header of a frame whose payload has n bytes.
func AppendHeader(b []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(b, first, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
	}
}

// HeaderSize returns how many bytes AppendHeader appends.
func HeaderSize(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	}
	return MaxHeader
}

// Payload returns the payload of b, if b is one whole unmasked frame
// with the shortest header that its length allows.
func Payload(b []byte) (payload []byte, ok bool) {
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

// Finish returns the frame of a message whose payload is in b behind MaxHeader bytes.
// The frame uses b's memory, unless too much of it would be left unused.
func Finish(b []byte, first byte) []byte {
	size := len(b) - MaxHeader
	whole := b[MaxHeader-HeaderSize(size):]
	if cap(b) > len(b)+len(b)/4 {
		whole = append(make([]byte, 0, len(whole)), whole...)
	}
	AppendHeader(whole[:0], first, size)
	return whole[:len(whole):len(whole)]
}

// Valid reports whether b is one whole frame with a message that a server may send:
// final, text or binary, not masked, with the shortest header that its length allows,
// and, if it is text, in UTF-8.
func Valid(b []byte) bool {
	payload, ok := Payload(b)
	return ok && (b[0] == Binary || b[0] == Text && utf8.Valid(payload))
}
