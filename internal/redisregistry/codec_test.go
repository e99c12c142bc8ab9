package redisregistry

import (
	"fmt"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/places"
)

// FuzzValue checks that any value in Redis can be decoded or is refused, and that a
// value which herald has written is read back unchanged.
func FuzzValue(f *testing.F) {
	f.Add("1 1 2 1 1:n1:u0:0:0:0:", "n.1", "42", "phone", "ios", int64(7))
	f.Add("1 1 2 1 99999999999:n", "n.1", "a\x00b\n", "", "\xff", int64(-7))
	f.Add("1 1 2 0 0:0:0:0:0:6:1:k1:v3:new", "", "1:2", "*", "{}", int64(0))
	f.Fuzz(func(t *testing.T, raw, id, user, node, body string, since int64) {
		decodeNode(id, raw)
		decodePlace(raw)
		decodeHolder(raw)
		if s, generation, ok := decodeValue(id, raw); ok {
			canonical := "1 " + strconv.FormatInt(generation, 10) + " " + strconv.FormatInt(s.Since.UnixMicro(), 10) + " 0 " + bodyOf(s)
			again, g, ok := decodeValue(id, canonical)
			if !ok || g != generation || !reflect.DeepEqual(again, s) {
				t.Fatalf("%q decodes to %+v, which encodes to %q, which decodes to %+v", raw, s, canonical, again)
			}
		}
		want := Session{ID: id, User: user, Node: node, Since: time.UnixMicro(since), Body: body}
		value := "1 12 " + strconv.FormatInt(since, 10) + " 1 " + bodyOf(want)
		got, generation, ok := decodeValue(id, value)
		if !ok || generation != 12 || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v (%v)", want, got, ok)
		}
		if l, ok := decodeHolder(value); !ok || l != (Lease{node, 12}) {
			t.Fatalf("%+v is held by %+v (%v)", want, l, ok)
		}
		p := places.Place{ID: id, Topic: user, User: node == ""}
		if got, ok := decodePlace(memberOf(p)); !ok || got != p {
			t.Fatalf("%+v came back as %+v (%v)", p, got, ok)
		}
	})
}

// BenchmarkPlanAdd measures what a node does for the entries of a hundred new
// connections before it asks Redis.
func BenchmarkPlanAdd(b *testing.B) {
	r := &Registry{shards: newShards("herald", "0")}
	lease := Lease{"myhost-abcdefghijkl", 17}
	entries := make([]Entry, 100)
	for i := range entries {
		id := fmt.Sprintf("myhost-abcdefghijkl.%d", 1000+i)
		user := fmt.Sprintf("u%d", 1000+i)
		entries[i] = Entry{Session: Session{ID: id, User: user, Body: "0:,0:,15:127.0.0.1:34567"}, Places: places.Of(id, "u"+user, nil)}
	}
	b.ReportAllocs()
	for b.Loop() {
		r.planAdd(lease, entries)
	}
}
