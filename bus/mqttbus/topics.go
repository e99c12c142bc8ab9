package mqttbus

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/heraldgo/herald"
)

// maxTopicName is the most bytes that the name of an MQTT topic has here. The
// protocol allows 65,535 (MQTT 5.0, section 4.7.3).
const maxTopicName = 4096

// private begins, after the prefix, the topics that are the Bus' own. No escape looks
// like it, because hexadecimal digits follow an escape's percent sign.
const private = "%probe-"

// hexDigits are upper case alone, so that a topic has one name.
const hexDigits = "0123456789ABCDEF"

// appendTopicName appends the name of the MQTT topic that stands for topic.
// What means something to a broker, or may not be in an MQTT string (MQTT 5.0,
// sections 1.5.4 and 4.7), is escaped byte by byte as %XX; an empty topic is %.
func appendTopicName(b []byte, prefix, topic string) []byte {
	b = append(b, prefix...)
	b = append(b, '/')
	if topic == "" {
		return append(b, '%')
	}
	for i := 0; i < len(topic); {
		c := topic[i]
		if c < utf8.RuneSelf {
			if isPlain(c) {
				b = append(b, c)
			} else {
				b = appendEscape(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(topic[i:])
		if isPlainRune(r, n) {
			b = append(b, topic[i:i+n]...)
		} else {
			for _, c := range []byte(topic[i : i+n]) {
				b = appendEscape(b, c)
			}
		}
		i += n
	}
	return b
}

func appendEscape(b []byte, c byte) []byte {
	return append(b, '%', hexDigits[c>>4], hexDigits[c&15])
}

// isPlain reports whether an ASCII character stands for itself.
func isPlain(c byte) bool {
	switch c {
	case '+', '#', '/', '$', '%', 0x7f:
		return false
	}
	return c >= ' '
}

// isPlainRune reports whether a character beyond ASCII, decoded from n bytes,
// stands for itself. It asks no table that changes with the Unicode version:
// two nodes must agree.
func isPlainRune(r rune, n int) bool {
	switch {
	case r == utf8.RuneError && n == 1: // invalid
	case r < 0xa0: // control
	case r >= 0xfdd0 && r <= 0xfdef, r&0xfffe == 0xfffe: // noncharacters
	case r == 0xfeff: // a byte order mark, which someone may strip
	default:
		return true
	}
	return false
}

// topicName is appendTopicName for a name that is kept. It refuses one that is too
// long.
func topicName(prefix, topic string) (string, error) {
	b := appendTopicName(make([]byte, 0, len(prefix)+1+len(topic)), prefix, topic)
	return string(b), checkTopicName(len(b))
}

func checkTopicName(size int) error {
	if size > maxTopicName {
		return fmt.Errorf("%w: a topic whose MQTT name has %d bytes: must not be longer than %d", herald.ErrInvalid, size, maxTopicName)
	}
	return nil
}

// maxPrefix leaves room for any topic of 200 bytes.
const maxPrefix = 1000

// validPrefix reports whether topics may begin with prefix.
func validPrefix(prefix string) bool {
	if prefix == "" || len(prefix) > maxPrefix || prefix[0] == '$' || strings.Contains(prefix, "%") {
		return false
	}
	for i, r := range prefix {
		_, n := utf8.DecodeRuneInString(prefix[i:])
		if r < utf8.RuneSelf && !isPlain(byte(r)) && r != '/' && r != '$' || r >= utf8.RuneSelf && !isPlainRune(r, n) {
			return false
		}
	}
	return true
}
