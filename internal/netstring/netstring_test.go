package netstring_test

import (
	"testing"

	"github.com/heraldgo/herald/internal/netstring"
)

func TestCut(t *testing.T) {
	for _, s := range []string{"", "u", "1:2", "a\x00b\n\xff"} {
		for _, after := range []string{"", "rest"} {
			b := netstring.Append([]byte("before"), s)
			field, rest, ok := netstring.Cut(string(b[len("before"):]) + after)
			if field != s || rest != after || !ok {
				t.Errorf("%q before %q comes back as %q, before %q, %v", s, after, field, rest, ok)
			}
		}
	}
	for _, bad := range []string{"", "1", ":", "2:u", "-1:u", "+1:u", "x:u", "2147483648:u", "99999999999999999999:u"} {
		if field, _, ok := netstring.Cut(bad); ok {
			t.Errorf("%q has the field %q", bad, field)
		}
	}
}
