package frame

import (
	"cmp"
	"encoding/binary"
	"math"
)

// The opcodes of RFC 6455 section 5.2.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

const (
	final    = 0x80 // of a frame's first byte
	reserved = 0x70
	opcode   = 0x0f
	masked   = 0x80 // of its second byte
	length   = 0x7f
)

// A Parser takes apart what a client sends (RFC 6455), however it is cut into pieces.
// It neither reads nor keeps the bytes: its caller gives them to Next, and gets
// slices of them back. The zero Parser is ready to use and has no limit. Only one
// goroutine at a time may use it.
//
// It is as strict as the RFC with one exception: a length may be written in more
// bytes than it needs (section 5.2), which harms nobody.
type Parser struct {
	MaxMessage int64 // bytes of a message; 0 is no limit
	Deflate    bool  // messages may be compressed (RFC 7692): their limit is MaxCompressed, and text is not checked

	// The header that is coming in.

	head [MaxClientHeader]byte
	have uint8 // how many bytes of it have come

	// The frame whose payload is coming in.

	inside  bool
	short   bool   // see Piece
	mask    uint32 // for the next byte
	left    int64  // bytes of the payload that are still to come
	control []byte // the part of a control frame's payload that has come; nil if none

	// The message that is coming in.

	kind byte // Text or Binary, and Compressed; 0 if there is none
	size int64
	text text

	err *Error
}

// A Piece is what Next has found: a part of a message, or a control frame.
type Piece struct {
	Kind    byte   // Text or Binary, and Compressed; Ping, Pong or Close; 0 if nothing is complete yet
	Last    bool   // it ends its message; a control frame is one piece
	Short   bool   // it ends a fragment, other than its message's last, that is shorter than ShortFragment
	Payload []byte // unmasked; that of a control frame is valid until the next call of Next
}

// ShortFragment is the least size, in bytes, that a fragment should have. A shorter
// one costs about as much as a message.
const ShortFragment = 16

// Next takes the next piece off b, unmasks its payload in place, and returns it with
// the rest of b. If its Kind is 0 there is no rest, and Next needs the bytes that the
// client sends next. An error is an *Error, and final: Next returns it from then on.
// Next must not get what follows a close frame.
func (p *Parser) Next(b []byte) (piece Piece, rest []byte, err error) {
	if p.err == nil && !p.inside {
		b = p.header(b)
	}
	switch {
	case p.err != nil:
		return Piece{}, nil, p.err
	case !p.inside, p.left > 0 && len(b) == 0:
		return Piece{}, nil, nil
	}
	n := min(p.left, int64(len(b)))
	payload, rest := b[:n:n], b[n:]
	p.mask = unmask(payload, p.mask)
	p.left -= n
	p.inside = p.left > 0
	if p.head[0]&opcode >= opClose {
		piece = p.controlPiece(payload)
	} else {
		piece = p.messagePiece(payload)
	}
	if p.err != nil {
		return Piece{}, nil, p.err
	}
	return piece, rest, nil
}

// Idle reports whether no frame and no message is incomplete.
func (p *Parser) Idle() bool { return p.have == 0 && !p.inside && p.kind == 0 }

// Left returns how many of the next bytes are known to belong to the payload of a
// message.
func (p *Parser) Left() int64 {
	if !p.inside || p.head[0]&opcode >= opClose {
		return 0
	}
	return p.left
}

// most returns how many bytes the incoming message has at most.
func (p *Parser) most() int64 {
	if p.head[0]&final != 0 {
		return p.size
	}
	return p.limit()
}

// limit returns how many bytes the incoming message may have.
func (p *Parser) limit() int64 {
	limit := cmp.Or(p.MaxMessage, math.MaxInt64)
	if p.kind&Compressed != 0 {
		limit = MaxCompressed(limit)
	}
	return limit
}

// MaxCompressed returns how many bytes a message of at most n bytes may have while it is
// compressed. What has no repetitions becomes longer by an eighth at worst: if each byte
// takes the nine bits that the longest fixed codes have (RFC 1951 section 3.2.6).
func MaxCompressed(n int64) int64 {
	const blocks = 64 // bytes for the beginnings of blocks
	if n > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return n + n/8 + blocks
}

// header takes a header, or what b has of it, off b. It is judged as it comes.
func (p *Parser) header(b []byte) (rest []byte) {
	for ; p.have < 2; p.have++ {
		if len(b) == 0 {
			return nil
		}
		p.head[p.have] = b[0]
		b = b[1:]
		if p.have == 0 {
			p.err = p.checkFirst(p.head[0])
		} else if p.head[1]&masked == 0 {
			p.err = errUnmasked
		}
		if p.err != nil {
			return nil
		}
	}
	size := maskedHeaderSize(p.head[1])
	n := copy(p.head[p.have:size], b)
	if p.have += uint8(n); p.have < size {
		return nil
	}
	p.begin()
	return b[n:]
}

// checkFirst judges the first byte of a frame.
func (p *Parser) checkFirst(b byte) *Error {
	op := b & opcode
	if bits := b & reserved; bits != 0 {
		if begins := op == opText || op == opBinary; bits != Compressed || !begins || !p.Deflate {
			return errReserved
		}
	}
	switch {
	case op == opContinuation && p.kind == 0:
		return errContinuation
	case op == opText && p.kind != 0, op == opBinary && p.kind != 0:
		return errInterrupted
	case op > opBinary && op < opClose, op > opPong:
		return errOpcode
	case op >= opClose && b&final == 0:
		return errFragmented
	}
	return nil
}

// maskedHeaderSize returns how many bytes the header of a masked frame has, given its
// second byte.
func maskedHeaderSize(second byte) uint8 {
	switch second & length {
	case 126:
		return 8
	case 127:
		return MaxClientHeader
	}
	return 6
}

// begin begins the payload of the frame whose header is in p.head.
func (p *Parser) begin() {
	size := uint64(p.head[1] & length)
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(p.head[2:]))
	case 127:
		size = binary.BigEndian.Uint64(p.head[2:])
	}
	p.mask = binary.LittleEndian.Uint32(p.head[p.have-4:])
	p.have = 0
	p.inside = true
	first := p.head[0]
	switch op := first & opcode; {
	case size > math.MaxInt64:
		p.err = errLength
	case op >= opClose:
		if size > maxControl {
			p.err = errControlSize
		}
	default:
		if op != opContinuation {
			p.kind, p.size = final|first&Compressed|op, 0
		}
		if int64(size) > p.limit()-p.size {
			p.err = errTooBig
		}
		p.size += int64(size)
		p.short = first&final == 0 && size < ShortFragment
	}
	p.left = int64(size)
}

// controlPiece returns a control frame once it is whole.
func (p *Parser) controlPiece(payload []byte) Piece {
	if p.inside || p.control != nil {
		p.control = append(p.control, payload...)
		payload = p.control
	}
	if p.inside {
		return Piece{}
	}
	p.control = nil
	kind := p.head[0]
	if kind == Close {
		p.err = checkClose(payload)
	}
	return Piece{Kind: kind, Last: true, Payload: payload}
}

// messagePiece returns the part of the message that has come.
func (p *Parser) messagePiece(payload []byte) Piece {
	last := !p.inside && p.head[0]&final != 0
	if p.kind == Text && !p.text.take(payload, last) {
		p.err = errText
	}
	piece := Piece{Kind: p.kind, Last: last, Short: p.short && !p.inside, Payload: payload}
	if last {
		p.kind = 0
	}
	return piece
}
