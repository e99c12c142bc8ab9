package frame

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// unmask unmasks b in place (RFC 6455 section 5.3), and returns the mask for
// what follows b. The mask's first byte is its lowest.
func unmask(b []byte, mask uint32) uint32 {
	long := uint64(mask)<<32 | uint64(mask)
	for ; len(b) >= 32; b = b[32:] {
		p := (*[32]byte)(b)
		xor(p[0:8], long)
		xor(p[8:16], long)
		xor(p[16:24], long)
		xor(p[24:32], long)
	}
	for ; len(b) >= 8; b = b[8:] {
		xor(b, long)
	}
	for i := range b {
		b[i] ^= byte(mask)
		mask = bits.RotateLeft32(mask, -8)
	}
	return mask
}

func xor(b []byte, long uint64) {
	binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^long)
}

// A text checks that the bytes that it takes, piece by piece, are UTF-8. The zero
// text has taken nothing.
type text struct {
	cut [utf8.UTFMax]byte // the beginning of a character that is not complete
	n   uint8             // bytes of cut
}

// take returns false as soon as no further bytes could make the text UTF-8. If last,
// b ends the text, and the next one begins.
func (t *text) take(b []byte, last bool) bool {
	for t.n > 0 && len(b) > 0 {
		t.cut[t.n] = b[0]
		t.n++
		b = b[1:]
		if begun := t.cut[:t.n]; utf8.FullRune(begun) {
			if !utf8.Valid(begun) {
				return false
			}
			t.n = 0
		}
	}
	if !last {
		whole := len(b) - partial(b)
		t.n += uint8(copy(t.cut[t.n:], b[whole:]))
		b = b[:whole]
	}
	return utf8.Valid(b) && (!last || t.n == 0)
}

// partial returns how many bytes at the end of b begin an incomplete character.
func partial(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if end := b[len(b)-n:]; utf8.RuneStart(end[0]) {
			if utf8.FullRune(end) {
				return 0
			}
			return n
		}
	}
	return 0
}

// checkClose judges the payload of a close frame (RFC 6455 sections 5.5.1 and
// 7.4).
func checkClose(payload []byte) *Error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 {
		return errCloseSize
	}
	code := binary.BigEndian.Uint16(payload)
	switch {
	case code >= 3000 && code <= 4999: // of libraries and applications
	case code < 1000, code > 1014, code >= 1004 && code <= 1006: // 1012 to 1014 came after the RFC
		return errCloseCode
	}
	if !utf8.Valid(payload[2:]) {
		return errCloseReason
	}
	return nil
}
