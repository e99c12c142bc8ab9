package main

import (
	"bytes"
	"time"
	"unsafe"
)

// A message begins with mark, its number and the time at which it was due, in
// hexadecimal digits, which every contestant's encoding leaves as they are. So one
// receiver can find the messages in whatever a contestant wraps them in.
const (
	mark       = "~h:"
	numberLen  = 8
	timeLen    = 16
	payloadMin = len(mark) + numberLen + timeLen
)

// A payload is a message as bytes and as a string, which are the same memory:
// each contestant takes what its API asks for, and none is charged for a
// conversion, nor for the garbage of whoever makes the messages.
type payload struct {
	bytes []byte
	text  string
}

// newPayload returns size bytes for makePayload.
func newPayload(size int) []byte {
	return bytes.Repeat([]byte{'x'}, max(size, payloadMin))
}

// makePayload writes a message over b, which newPayload made, and which may be
// used again when the message has been sent.
func makePayload(b []byte, number int, at time.Time) payload {
	appendHead(b[:0], number, at.UnixNano())
	return asPayload(b)
}

func asPayload(b []byte) payload { return payload{b, unsafe.String(unsafe.SliceData(b), len(b))} }

// appendHead appends what a message begins with.
func appendHead(b []byte, number int, at int64) []byte {
	b = append(b, mark...)
	b = appendHex(b, uint64(number), numberLen)
	return appendHex(b, uint64(at), timeLen)
}

func appendHex(b []byte, v uint64, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		b = append(b, "0123456789abcdef"[v>>(4*i)&15])
	}
	return b
}

// findMessages calls each for every message in b, which is one frame's payload.
func findMessages(b []byte, each func(number int, at int64)) {
	for {
		i := bytes.Index(b, []byte(mark))
		if i < 0 || len(b) < i+payloadMin {
			return
		}
		b = b[i+len(mark):]
		number, ok1 := parseHex(b[:numberLen])
		at, ok2 := parseHex(b[numberLen : numberLen+timeLen])
		if ok1 && ok2 {
			each(int(number), int64(at))
		}
		b = b[numberLen+timeLen:]
	}
}

func parseHex(b []byte) (uint64, bool) {
	var v uint64
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}
