package autobahn

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// kosme is a Greek word of five characters and eleven bytes.
	kosme = "κ\u1f79σμε"
	// beyond would be UTF-8 for the number after the last code point.
	beyond = "\xf4\x90\x80\x80"
	// greeting has characters of one and of two bytes.
	greeting = "Hello-µ@ßöäüàá-UTF-8!!"
)

// utf8Cases returns section 6. Text that is UTF-8 is echoed. Other text fails the
// connection with 1007 as soon as it is known not to be (RFC 6455 section 8.1).
func utf8Cases() []testcase {
	const header = 6        // of a masked frame with less than 126 bytes
	known := len(kosme) + 1 // bytes before the one that makes it invalid
	surrogate := text(kosme + "\xed\xa0\x80edited")
	outside := text(kosme + beyond + "edited")
	tests := []testcase{
		// Fragments without payload.
		honest("6.1.1", echoed(text(""))),
		honest("6.1.2", send(begun(text("")), more(""), last("")).want(text(""))),
		honest("6.1.3", send(begun(text("")), more("middle"), last("")).want(text("middle"))),

		// Characters across fragments.
		honest("6.2.1", echoed(text(greeting))),
		honest("6.2.2", send(fragments(text(greeting), strings.Index(greeting, "ü"))...).want(text(greeting))),
		honest("6.2.3", send(fragments(text(greeting), 1)...).want(text(greeting))),
		honest("6.2.4", send(fragments(text(kosme), 1)...).want(text(kosme))),
		broken("6.3.1", invalidPayload, send(surrogate)),
		broken("6.3.2", invalidPayload, send(fragments(surrogate, 1)...)),

		// Bytes behind the invalid one are never sent. A pong proves that those
		// before it were accepted; within a frame nothing can.
		broken("6.4.1", invalidPayload,
			send(begun(text(kosme)), ping("")).want(pong("")),
			send(more(beyond))),
		broken("6.4.2", invalidPayload,
			send(begun(text(kosme+beyond[:1])), ping("")).want(pong("")),
			send(more(beyond[1:2]))),
		broken("6.4.3", invalidPayload, send(outside).chopped(header+len(kosme)).upTo(header+len(kosme+beyond))),
		broken("6.4.4", invalidPayload, send(outside).chopped(header+known).upTo(header+known+1)),
	}
	for i, group := range sequences() {
		for j, s := range group {
			number := fmt.Sprintf("6.%d.%d", 5+i, 1+j)
			if utf8.ValidString(s) {
				tests = append(tests, honest(number, echoed(text(s))))
			} else {
				tests = append(tests, broken(number, invalidPayload, send(text(s))))
			}
		}
	}
	return tests
}

// sequences returns those of Markus Kuhn's test of UTF-8 decoders, from 6.5 on. In
// the groups 6.5, 6.7, 6.9, 6.22 and 6.23 all are valid, in 6.6 and 6.11 some.
func sequences() [][]string {
	short := []string{ // sequences whose last byte is missing
		"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80",
		"\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf",
	}
	var prefixes, continuations []string
	for n := range len(kosme) {
		prefixes = append(prefixes, kosme[:n+1])
	}
	for n := range 6 {
		continuations = append(continuations, strings.Repeat("\x80\xbf", 3)[:n+1])
	}
	return [][]string{
		/*  5 */ {"hello$world", "hello¢world", "hello€world", "hello\U00024b62world", kosme},
		/*  6 */ prefixes,
		/*  7, first of a length */ {"\x00", "\u0080", "\u0800", "\U00010000"},
		/*  8 */ {"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80"},
		/*  9, last of a length */ {"\x7f", "\u07ff", "\uffff", "\U0010ffff"},
		/* 10 */ {"\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf"},
		/* 11, other limits */ {"\ud7ff", "\ue000", "\ufffd", "\U0010ffff", beyond},
		/* 12, continuations alone */ slices.Concat([]string{"\x80"}, []string{"\xbf"}, continuations[1:], []string{span(0x80, 0xbf, "")}),
		/* 13, starts alone */ {span(0xc0, 0xdf, " "), span(0xe0, 0xef, " "), span(0xf0, 0xf7, " "), span(0xf8, 0xfb, " "), span(0xfc, 0xfd, " ")},
		/* 14 */ short,
		/* 15 */ {strings.Join(short, "")},
		/* 16, impossible */ {"\xfe", "\xff", "\xfe\xfe\xff\xff"},
		/* 17, too long for "/" */ {"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf"},
		/* 18, the last that are too long */ {"\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf"},
		/* 19, too long for NUL */ {"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80"},
		/* 20, surrogates */ {"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf"},
		/* 21, in pairs */ {
			"\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf",
			"\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf",
		},
		/* 22 */ nonCharacters(),
		/* 23, specials */ {"\ufff9", "\ufffa", "\ufffb", "\ufffc", "\ufffd", "\ufffe", "\uffff"},
	}
}

// span returns the bytes from first to last, each followed by after.
func span(first, last int, after string) string {
	var b strings.Builder
	for c := first; c <= last; c++ {
		b.WriteByte(byte(c))
		b.WriteString(after)
	}
	return b.String()
}

// nonCharacters returns the last two code points of each of the seventeen planes.
func nonCharacters() (s []string) {
	for plane := range rune(17) {
		s = append(s, string(plane<<16|0xfffe), string(plane<<16|0xffff))
	}
	return s
}
