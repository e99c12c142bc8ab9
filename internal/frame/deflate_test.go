package frame

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// found returns what an Assembler that may get compressed messages finds in b.
func found(limit int64, b string) (all string) {
	a := Assembler{Parser: Parser{MaxMessage: limit, Deflate: true}}
	for rest := []byte(b); len(rest) > 0; {
		var piece Piece
		var err error
		if piece, rest, err = a.Next(rest); err != nil {
			var e *Error
			errors.As(err, &e)
			return all + fmt.Sprint(e.Code)
		}
		if piece.Kind != 0 {
			all += fmt.Sprintf("%x %q ", piece.Kind, piece.Payload)
		}
	}
	if !a.Idle() {
		all += "more to come"
	}
	return all
}

// A message is compressed if its first frame says so, and its text is not judged. Nothing
// else may have RSV1 (RFC 7692 section 6.1), or another reserved bit.
func TestCompressed(t *testing.T) {
	const packed = Compressed
	for name, test := range map[string]struct{ sent, want string }{
		"text":                  {client(Text|packed, "\xf2\xff"), `c1 "\xc1\x02\xf2\xff" `},
		"binary":                {client(Binary|packed, "\xf2"), `c2 "\xc2\x01\xf2" `},
		"nothing":               {client(Text|packed, ""), `c1 "\xc1\x00" `},
		"and then not":          {client(Text|packed, "\xff") + client(Text, "a"), `c1 "\xc1\x01\xff" 81 "\x81\x01a" `},
		"and then not, broken":  {client(Text|packed, "\xff") + client(Text, "\xff"), `c1 "\xc1\x01\xff" 1007`},
		"fragments":             {client(1|packed, "\xff") + client(Ping, "p") + client(0, "b") + client(end, "c"), `89 "p" c1 "\xc1\x03\xffbc" `},
		"half":                  {client(2|packed, "a"), "more to come"},
		"RSV1 of a middle":      {client(1|packed, "a") + client(0|packed, "b"), "1002"},
		"RSV1 of the last":      {client(1|packed, "a") + client(end|packed, "b"), "1002"},
		"RSV1 of the last only": {client(1, "a") + client(end|packed, "b"), "1002"},
		"RSV1 of a ping":        {client(Ping|packed, ""), "1002"},
		"RSV1 of a close":       {client(Close|packed, ""), "1002"},
		"RSV1 of opcode 3":      {client(0x83|packed, ""), "1002"},
		"RSV2":                  {client(Text|0x20, ""), "1002"},
		"RSV1 and RSV3":         {client(Text|packed|0x10, ""), "1002"},
	} {
		if got := found(0, test.sent); got != test.want {
			t.Errorf("%s: found %s, want %s", name, got, test.want)
		}
	}
	p := Parser{}
	if _, _, err := p.Next([]byte(client(Text|packed, ""))); err != errReserved {
		t.Errorf("nothing was agreed on: %v", err)
	}
}

// A message that is compressed may be longer than its limit by as much as compressing
// makes it longer, and by no more.
func TestMaxCompressed(t *testing.T) {
	for _, limit := range []int64{1, 100, 1000, 1 << 20} {
		most := int(MaxCompressed(limit))
		if least := (3 + 9*int(limit) + 7 + 7) / 8; most < least || most > least+64 {
			t.Errorf("%d bytes take %d at worst, and %d are let in", limit, least, most)
		}
		for n, want := range map[int]string{most: "", most + 1: "1009"} {
			for _, sent := range []string{
				client(Binary|Compressed, strings.Repeat("x", n)),
				client(2|Compressed, strings.Repeat("x", n-1)) + client(end, "x"),
			} {
				if got := found(limit, sent); (want != "" || strings.HasSuffix(got, "1009")) && got != want {
					t.Errorf("%d bytes of at most %d: found %.20s", n, limit, got)
				}
			}
		}
		if got := found(limit, client(Binary, strings.Repeat("x", int(limit)+1))); got != "1009" {
			t.Errorf("%d bytes of at most %d that are not compressed: found %.20s", limit+1, limit, got)
		}
	}
	for _, limit := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64/2 + 1} {
		if MaxCompressed(limit) != math.MaxInt64 {
			t.Errorf("%d: %d", limit, MaxCompressed(limit))
		}
	}
	if n := MaxCompressed(math.MaxInt64 / 2); n < math.MaxInt64/2 || n == math.MaxInt64 {
		t.Errorf("%d for half of all", n)
	}
}
