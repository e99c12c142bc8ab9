package mqttbus

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTopicName(t *testing.T) {
	for topic, want := range map[string]string{
		"":               "p/%",
		"u42":            "p/u42",
		"groom 7":        "p/groom 7",
		"ua@example.org": "p/ua@example.org",
		"用户é":            "p/用户é",
		"a/b":            "p/a%2Fb",
		"+#/$%":          "p/%2B%23%2F%24%25",
		"$SYS/broker":    "p/%24SYS%2Fbroker",
		"\x00\n\x7f":     "p/%00%0A%7F",
		"\xff\xfe":       "p/%FF%FE",
		"\u0080\u009f":   "p/%C2%80%C2%9F",
		"\ufffd":         "p/\ufffd",
		"\ufffe\ufdd0":   "p/%EF%BF%BE%EF%B7%90",
		"\U0001ffff":     "p/%F0%9F%BF%BF",
		"\ufeff":         "p/%EF%BB%BF",
		"\xed\xa0\x80":   "p/%ED%A0%80", // a surrogate
	} {
		if got, err := topicName("p", topic); got != want || err != nil {
			t.Errorf("topic %q is %q, %v, want %q", topic, got, err, want)
		}
	}
}

// Every name is a valid MQTT topic, of one level, and tells its topic from
// all others.
func FuzzTopicName(f *testing.F) {
	f.Add("")
	f.Add("%")
	f.Add("a/%2F\x00\xff\ufffe")
	f.Fuzz(func(t *testing.T, topic string) {
		name := string(appendTopicName(nil, "p", topic))
		level := strings.TrimPrefix(name, "p/")
		if !utf8.ValidString(level) || level == "" || strings.ContainsAny(level, "+#/$") || strings.HasPrefix(level, private) {
			t.Fatalf("topic %q is %q", topic, name)
		}
		for _, r := range level {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r&0xfffe == 0xfffe {
				t.Fatalf("topic %q is %q", topic, name)
			}
		}
		if back := unescape(level); back != topic {
			t.Fatalf("topic %q is %q, which is %q", topic, name, back)
		}
	})
}

func unescape(level string) string {
	if level == "%" {
		return ""
	}
	var b strings.Builder
	for i := 0; i < len(level); i++ {
		c := level[i]
		if c == '%' {
			c = byte(strings.IndexByte(hexDigits, level[i+1])<<4 | strings.IndexByte(hexDigits, level[i+2]))
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String()
}
