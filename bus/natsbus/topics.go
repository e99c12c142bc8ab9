package natsbus

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/heraldgo/herald"
)

// Limits on names. A server takes control lines of 4,096 bytes unless it is
// configured otherwise; the longest is the subject, a space and a number.
const (
	maxPrefix  = 200
	maxSubject = 4096 - 32
)

// appendSubject appends the subject of a topic: the prefix, which ends with a dot,
// and the topic as one token. Bytes that mean something in a subject ('.', '*', '>'
// and white space), that are invisible or not UTF-8, and '%' itself become %XX. An
// empty topic is a bare '%'. All else stays, so names are readable, and each topic
// has a subject of its own.
func appendSubject(b []byte, prefix, topic string) []byte {
	b = append(b, prefix...)
	if topic == "" {
		return append(b, '%')
	}
	for i := 0; i < len(topic); {
		if c := topic[i]; c < utf8.RuneSelf {
			if plain(c) {
				b = append(b, c)
			} else {
				b = appendEscaped(b, c)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(topic[i:])
		if size > 1 && unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			b = append(b, topic[i:i+size]...)
		} else {
			for _, c := range []byte(topic[i : i+size]) {
				b = appendEscaped(b, c)
			}
		}
		i += size
	}
	return b
}

// plain reports whether an ASCII character may stand in a token as it is.
func plain(c byte) bool {
	return c > ' ' && c < 0x7f && c != '.' && c != '*' && c != '>' && c != '%'
}

func appendEscaped(b []byte, c byte) []byte {
	const digits = "0123456789ABCDEF"
	return append(b, '%', digits[c>>4], digits[c&15])
}

// checkTopic returns an error if the topic has no subject. Topics of 200
// bytes, the longest that a Hub has, always have one.
func checkTopic(prefix, topic string) error {
	if len(prefix)+3*len(topic) <= maxSubject {
		return nil
	}
	if n := len(appendSubject(nil, prefix, topic)); n > maxSubject {
		return fmt.Errorf("%w: a topic of %d bytes: its subject has %d bytes, and must have at most %d", herald.ErrInvalid, len(topic), n, maxSubject)
	}
	return nil
}

// validPrefix reports whether subjects may begin with prefix.
func validPrefix(prefix string) bool {
	if len(prefix) > maxPrefix || strings.HasPrefix(prefix, "$") || !utf8.ValidString(prefix) {
		return false
	}
	for token := range strings.SplitSeq(prefix, ".") {
		if token == "" || strings.ContainsAny(token, "*>") || strings.ContainsFunc(token, func(r rune) bool {
			return unicode.IsSpace(r) || !unicode.IsGraphic(r)
		}) {
			return false
		}
	}
	return true
}
