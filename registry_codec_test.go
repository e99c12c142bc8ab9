package herald

import (
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/places"
)

// FuzzSession: what Redis holds is not trusted, and what herald writes there
// comes back as it was.
func FuzzSession(f *testing.F) {
	f.Add("1 1 2 1 1:n1:u0:0:0:0:", "n.1", "42", "phone", "ios", "k", "v", int64(7))
	f.Add("1 1 2 1 99999999999:n", "n.1", "a\x00b\n", "", "\xff", "", "", int64(-7))
	f.Add("1 1 2 0 0:0:0:0:0:6:1:k1:v3:new", "", "1:2", "*", "{}", "", ":", int64(0))
	f.Fuzz(func(t *testing.T, raw, id, user, device, platform, key, value string, since int64) {
		decodeNode(id, raw)
		decodePlace(raw)
		decodeHolder(raw)
		if s, generation, ok := decodeValue(id, raw); ok {
			canonical := "1 " + strconv.FormatInt(generation, 10) + " " + strconv.FormatInt(s.Since.UnixMicro(), 10) + " 0 " + encodeBody(s)
			again, g, ok := decodeValue(id, canonical)
			if !ok || g != generation || !reflect.DeepEqual(again, s) {
				t.Fatalf("%q decodes to %+v, which encodes to %q, which decodes to %+v", raw, s, canonical, again)
			}
		}
		want := Session{
			ID: id, User: user, Device: device, Platform: platform, Node: user, RemoteAddr: user + key,
			Since: time.UnixMicro(since), Meta: map[string]string{key: value, value: key},
		}
		got, generation, ok := decodeValue(id, "1 12 "+strconv.FormatInt(since, 10)+" 1 "+encodeBody(want))
		if !ok || generation != 12 || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v (%v)", want, got, ok)
		}
		if l, ok := decodeHolder("1 12 " + strconv.FormatInt(since, 10) + " 1 " + encodeBody(want)); !ok || l != (Lease{want.Node, 12}) {
			t.Fatalf("%+v is held by %+v (%v)", want, l, ok)
		}
		p := places.Place{ID: id, Topic: user, User: device == ""}
		if got, ok := decodePlace(memberOf(p)); !ok || got != p {
			t.Fatalf("%+v came back as %+v (%v)", p, got, ok)
		}
	})
}
