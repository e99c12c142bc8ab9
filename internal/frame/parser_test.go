package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// client returns a frame as a client sends it: masked (RFC 6455 section 5.3), with
// the shortest header.
func client(first byte, payload string) string {
	header := AppendHeader(nil, first, len(payload))
	header[1] |= masked
	mask := []byte{0x12, 0x34, 0xff, 0x00}
	b := append(header, mask...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// parse gives b to a Parser, cut at the places, and returns what it finds: whole
// messages, control frames and the error.
func parse(t *testing.T, limit int64, b string, cuts ...int) (found []string) {
	t.Helper()
	p := Parser{MaxMessage: limit}
	var message []byte
	short := 0
	cuts = append(slices.Clone(cuts), len(b))
	for from := 0; len(cuts) > 0; cuts = cuts[1:] {
		part := []byte(b[from:cuts[0]])
		from = cuts[0]
		for len(part) > 0 {
			piece, rest, err := p.Next(part)
			if err != nil {
				var e *Error
				if _, _, again := p.Next([]byte("more")); again != err || !errors.As(err, &e) {
					t.Fatalf("%v, and then %v", err, again)
				}
				return append(found, fmt.Sprint(e.Code, " ", e))
			}
			if len(rest) >= len(part) || piece.Kind == 0 && len(rest) > 0 {
				t.Fatalf("%+v has left %d of %d bytes", piece, len(rest), len(part))
			}
			part = rest
			if piece.Short {
				short++
			}
			switch piece.Kind {
			case Ping, Pong, Close:
				found = append(found, fmt.Sprintf("%x %s", piece.Kind, piece.Payload))
			case Text, Binary:
				if message = append(message, piece.Payload...); piece.Last {
					found = append(found, fmt.Sprintf("%x %s, %d short", piece.Kind, message, short))
					message, short = nil, 0
				}
			}
		}
	}
	if idle := p.Idle(); !idle {
		found = append(found, "more to come")
	}
	return found
}

const end = byte(0x80) // a continuation that is final

var streams = []struct {
	name string
	sent string
	want string // what is found, joined by a line
}{
	{"nothing", "", ""},
	{"text", client(Text, "hello"), "81 hello, 0 short"},
	{"two messages", client(Text, "a") + client(Binary, "\xff"), "81 a, 0 short\n82 \xff, 0 short"},
	{"empty messages", client(Text, "") + client(Binary, ""), "81 , 0 short\n82 , 0 short"},
	{"16 bits of length", client(Binary, strings.Repeat("x", 126)), "82 " + strings.Repeat("x", 126) + ", 0 short"},
	{"a length longer than it need be", "\x82\xfe\x00\x01\x00\x00\x00\x00a\x82\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00b", "82 a, 0 short\n82 b, 0 short"},
	{"fragments", client(1, "a") + client(0, strings.Repeat("b", 16)) + client(0, "") + client(0, strings.Repeat("c", 15)) + client(end, "d"),
		"81 a" + strings.Repeat("b", 16) + strings.Repeat("c", 15) + "d, 3 short"},
	{"control frames between fragments", client(2, "a") + client(Ping, "1") + client(0, "b") + client(Pong, "2") + client(end, ""),
		"89 1\n8a 2\n82 ab, 2 short"},
	{"pings", client(Ping, "") + client(Ping, strings.Repeat("p", 125)) + client(Pong, "x"), "89 \n89 " + strings.Repeat("p", 125) + "\n8a x"},
	{"UTF-8 cut by fragments", client(1, "\xf0") + client(0, "\x9f") + client(Ping, "\xff") + client(0, "") + client(end, "\x98\x80€"), "89 \xff\n81 😀€, 3 short"},
	{"half a header", client(Ping, "")[:3], "more to come"},
	{"half a control frame", client(Ping, "abc")[:8], "more to come"},
	{"half a message", client(1, "a") + client(Ping, ""), "89 \nmore to come"},
	{"close", client(Close, ""), "88 "},
	{"close with a reason", client(Close, "\x03\xe8bye €"), "88 \x03\xe8bye €"},

	{"reserved bit", client(Text|0x40, ""), "1002 frame has a reserved bit"},
	{"reserved bit of a control frame", client(Ping|0x10, ""), "1002 frame has a reserved bit"},
	{"reserved opcode", client(0x83, ""), "1002 frame has a reserved opcode"},
	{"last reserved opcode", client(0x87, ""), "1002 frame has a reserved opcode"},
	{"reserved control opcode", client(0x8b, ""), "1002 frame has a reserved opcode"},
	{"last reserved control opcode", client(0x8f, ""), "1002 frame has a reserved opcode"},
	{"not masked", "\x81\x01a", "1002 frame is not masked"},
	{"64 bits of length", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "1002 frame has a length above 63 bits"},
	{"continuation alone", client(Text, "a") + client(0, ""), "81 a, 0 short\n1002 continuation frame without a message"},
	{"last continuation alone", client(end, "a"), "1002 continuation frame without a message"},
	{"text in a message", client(2, "a") + client(Text, "b"), "1002 message inside another"},
	{"binary in a message", client(1, "a") + client(2, "b"), "1002 message inside another"},
	{"fragmented ping", client(9, ""), "1002 control frame is fragmented"},
	{"fragmented close", client(8, ""), "1002 control frame is fragmented"},
	{"long ping", client(Ping, strings.Repeat("p", 126)), "1002 control frame has more than 125 bytes"},
	{"close of one byte", client(Close, "\x03"), "1002 close frame has 1 byte"},
	{"close code", client(Close, "\x03\xed"), "1002 close frame has a code that is not allowed"},
	{"close reason", client(Close, "\x03\xe8\xff"), "1007 close reason is not UTF-8"},
	{"close reason that is cut", client(Close, "\x03\xe8\xe2\x82"), "1007 close reason is not UTF-8"},
	{"not UTF-8", client(Text, "a\xffb"), "1007 text is not UTF-8"},
	{"half a character", client(1, "a\xe2") + client(end, "\x82"), "1007 text is not UTF-8"},
	{"surrogate", client(1, "\xed") + client(end, "\xa0\x80"), "1007 text is not UTF-8"},
	{"not UTF-8 after a good message", client(Text, "é") + client(Text, "\xa9"), "81 é, 0 short\n1007 text is not UTF-8"},
}

// However what a client sends is cut, the same comes of it.
func TestParser(t *testing.T) {
	for _, test := range streams {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(parse(t, 0, test.sent), "\n"); got != test.want {
				t.Fatalf("got %q, want %q", got, test.want)
			}
			var all []int
			for i := range len(test.sent) {
				all = append(all, i)
				for j := i; j <= len(test.sent); j += 7 {
					if got := strings.Join(parse(t, 0, test.sent, i, j), "\n"); got != test.want {
						t.Fatalf("cut at %d and %d: got %q, want %q", i, j, got, test.want)
					}
				}
			}
			if got := strings.Join(parse(t, 0, test.sent, all...), "\n"); got != test.want {
				t.Fatalf("byte by byte: got %q, want %q", got, test.want)
			}
		})
	}
}

// What is wrong is found at the first byte that cannot be right.
func TestParserFailsEarly(t *testing.T) {
	var p Parser
	for name, test := range map[string]struct {
		limit int64
		sent  string
	}{
		"reserved bit":      {0, "\xc1"},
		"opcode":            {0, "\x83"},
		"continuation":      {0, "\x80"},
		"fragmented ping":   {0, "\x09"},
		"unmasked":          {0, "\x81\x00"},
		"size":              {9, "\x82\x8a\x00\x00\x00\x00"},
		"size of fragments": {9, client(2, "12345") + "\x80\x85\x00\x00\x00\x00"},
		"text":              {0, "\x81\x89\x00\x00\x00\x00\xff"},
		"end of a text":     {0, "\x81\x81\x00\x00\x00\x00\xe2"},
		"above U+10FFFF":    {0, client(1, "a\xf4") + "\x80\x83\x00\x00\x00\x00\x90"},
	} {
		p = Parser{MaxMessage: test.limit}
		for i := range len(test.sent) {
			_, _, err := p.Next([]byte{test.sent[i]})
			if last := i == len(test.sent)-1; last != (err != nil) {
				t.Errorf("%s: after %d of %d bytes: %v", name, i+1, len(test.sent), err)
			}
		}
	}
}

// A message has MaxMessage bytes at most, in whatever fragments.
func TestParserMaxMessage(t *testing.T) {
	for _, test := range []struct {
		sent string
		want string
	}{
		{client(Binary, "123456789"), "82 123456789, 0 short"},
		{client(Binary, "1234567890"), "1009 message is too big"},
		{client(2, "12345") + client(Ping, "12345") + client(end, "6789") + client(Binary, "123456789"), "89 12345\n82 123456789, 1 short\n82 123456789, 0 short"},
		{client(2, "12345") + client(end, "67890"), "1009 message is too big"},
		{client(2, "1") + "\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", "1009 message is too big"},
	} {
		if got := strings.Join(parse(t, 9, test.sent), "\n"); got != test.want {
			t.Errorf("%q: got %q, want %q", test.sent, got, test.want)
		}
	}
	largest := "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"
	if got := parse(t, 0, largest); got[0] != "more to come" {
		t.Errorf("the largest frame, without a limit: %q", got)
	}
	if got := parse(t, 0, client(2, "1")+strings.Replace(largest, "\x82", "\x80", 1)); got[0] != "1009 message is too big" {
		t.Errorf("a message of more than 63 bits: %q", got)
	}
}

// Left tells how much of what comes is one message's for sure.
func TestParserLeft(t *testing.T) {
	var p Parser
	for _, test := range []struct {
		sent string
		want int64
	}{
		{"", 0}, {"\x02", 0}, {"\x85\x00\x00\x00\x00", 5}, {"12", 3}, {"345", 0},
		{client(Ping, "12")[:7], 0}, {"2", 0}, {client(end, "123456789")[:8], 7}, {"3456789", 0}, {client(Close, "\x03\xe8")[:7], 0},
	} {
		if p.Next([]byte(test.sent)); p.Left() != test.want {
			t.Errorf("after %q: %d, want %d", test.sent, p.Left(), test.want)
		}
	}
}

func TestCloseCodes(t *testing.T) {
	for code := range math.MaxUint16 + 1 {
		want := code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
		if err := checkClose(binary.BigEndian.AppendUint16(nil, uint16(code))); (err == nil) != want {
			t.Errorf("code %d: %v", code, err)
		}
	}
}

func TestUnmask(t *testing.T) {
	key := [4]byte{1, 20, 0xff, 0}
	for n := range 100 {
		plain := bytes.Repeat([]byte("abcdefg"), 20)[:n]
		for cut := range n + 1 {
			b := bytes.Clone(plain)
			for i := range b {
				b[i] ^= key[i%4]
			}
			mask := unmask(b[:cut], binary.LittleEndian.Uint32(key[:]))
			unmask(b[cut:], mask)
			if !bytes.Equal(b, plain) {
				t.Fatalf("%d bytes, cut at %d: %q", n, cut, b)
			}
		}
	}
}

// A text is refused at the first byte after which nothing could make it UTF-8, and
// not before.
func TestTextFailsEarly(t *testing.T) {
	edges := []byte{'a', 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xee, 0xf0, 0xf1, 0xf4, 0xf5, 0xff}
	// completable reports whether a text could begin with b.
	var completable func(b []byte, more int) bool
	completable = func(b []byte, more int) bool {
		if utf8.Valid(b) {
			return true
		}
		return more > 0 && slices.ContainsFunc(edges[1:7], func(c byte) bool { return completable(append(b[:len(b):len(b)], c), more-1) })
	}
	var try func(b []byte, so text)
	try = func(b []byte, so text) {
		for _, c := range edges {
			more := append(b[:len(b):len(b)], c)
			one := so
			ok, want := one.take([]byte{c}, false), completable(more, 3)
			if ok != want {
				t.Fatalf("% x: %v, want %v", more, ok, want)
			}
			var whole text
			if whole.take(more, false) != want {
				t.Fatalf("% x at once: %v, want %v", more, !want, want)
			}
			whole = text{}
			if whole.take(more, true) != utf8.Valid(more) {
				t.Fatalf("% x alone: %v", more, !utf8.Valid(more))
			}
			if ok && len(more) < utf8.UTFMax {
				try(more, one)
			}
		}
	}
	try(nil, text{})
}

// Parts of a message and whole control frames take no memory.
func TestParserAllocates(t *testing.T) {
	var p Parser
	sent := []byte(client(1, "some") + client(Ping, "ping") + client(end, "text"))
	b := make([]byte, len(sent))
	n := testing.AllocsPerRun(100, func() {
		rest := b[:copy(b, sent)]
		for range 3 {
			_, rest, _ = p.Next(rest)
		}
		if len(rest) > 0 || !p.Idle() {
			t.Fatalf("%d bytes are left", len(rest))
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// However bytes are cut, the same comes of them.
func FuzzParser(f *testing.F) {
	for _, test := range streams {
		f.Add([]byte(test.sent), uint16(0), uint16(3))
		f.Add([]byte(test.sent), uint16(9), uint16(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, limit, step uint16) {
		var cuts []int
		for i := int(step); i < len(b) && step > 0; i += int(step) {
			cuts = append(cuts, i)
		}
		whole, cut := parse(t, int64(limit), string(b)), parse(t, int64(limit), string(b), cuts...)
		if !slices.Equal(whole, cut) {
			t.Fatalf("whole: %q\ncut: %q", whole, cut)
		}
	})
}
