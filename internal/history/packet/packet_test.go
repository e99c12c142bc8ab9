package packet_test

import (
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
)

// An appended packet is read back, is within its size, and is an envelope whose
// extensions begin behind its flags.
func TestPackets(t *testing.T) {
	body := packet.Body([]byte("\x01\x01\x02the rest"))
	if string(body) != "\x01\x01\x12\x00the rest" {
		t.Fatalf("the body is %q", body)
	}
	testPackets(t, body, "")
	for _, n := range []int{3, 60, 67, 100, packet.MaxExtensions} {
		extensions := "\x04" + string(rune(n-2)) + strings.Repeat("x", n-2)
		envelope := "\x01\x01\x12" + string(rune(n)) + extensions + "the rest"
		if body = packet.Body([]byte(envelope)); string(body) != envelope {
			t.Fatalf("the body is %q", body)
		}
		testPackets(t, body, extensions)
	}
	far := history.Point{Epoch: ^history.Epoch(0), Offset: 1 << 53}
	b := packet.AppendFence(nil, far, ^uint64(0))
	if at, number, err := packet.ParseFence(b); err != nil || at != far || number != ^uint64(0) {
		t.Errorf("%q: %v, %d, %v", b, at, number, err)
	}
}

func testPackets(t *testing.T, body []byte, extensions string) {
	t.Helper()
	far := history.Point{Epoch: ^history.Epoch(0), Offset: 1 << 53}
	for _, p := range []history.Packet{
		{Kept: true, At: history.Point{Epoch: 7, Offset: 9}, Born: 7, Prev: 3},
		{Kept: true, At: far, Born: far.Epoch, Prev: far.Offset - 1},
		{At: history.Point{Epoch: 7, Offset: 9}},
		{},
	} {
		p.Topic, p.Body = "t", body
		b := packet.Append(nil, p)
		got, err := packet.Parse("t", b)
		all, size := binary.Uvarint(b[3:])
		if len(b)-len(body) > packet.MaxPlace || string(b[3+size+int(all):]) != "the rest" || !strings.HasSuffix(string(b), extensions+"the rest") {
			t.Errorf("%q is no envelope with extensions", b)
		}
		if p.Body = b; err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%q: %+v, %v; want %+v", b, got, err, p)
		}
	}
}

// A packet without a place, of a node that keeps nothing, is read as it is. A place
// that nobody can have written is refused.
func TestParse(t *testing.T) {
	for _, data := range []string{"", "\x01\x01\x00", "\x01\x01\x10", "\x01\x01\x00\x05k7 9 3", "\x01\x01\x10\x00x", "\x01\x01\x10\x08\x04\x06k7 9 3", "\x01\x01\x10\x02\x04\x00"} {
		want := history.Packet{Topic: "t", Body: []byte(data)}
		if p, err := packet.Parse("t", []byte(data)); err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("%q: %+v, %v", data, p, err)
		}
	}
	for _, place := range []string{"\x08\x02\x06k7 9 3", "\x08\x02\x07k7 9 3", "\x08\x02\x07k7 9 34 the rest", "\x01\x02", "\x06\x02\x04k7 9", "\x08\x02\x06u7 9 3",
		"\x08\x02\x06m7 9 3", "\x08\x02\x06k0 9 3", "\x08\x02\x06x7 9 3", "\x08\x02\x06k7 9 x", "\x7f\x02\x06k7 9 3", "\x02\x02\x00"} {
		valid := place == "\x08\x02\x06k7 9 3"
		if p, err := packet.Parse("t", []byte("\x01\x01\x10"+place)); (err == nil) != valid {
			t.Errorf("%q: %+v, %v", place, p, err)
		}
	}
	whole := []byte("\x01\x01\x10\x08\x02\x06k7 9 3")
	for n := 4; n < len(whole); n++ {
		if p, err := packet.Parse("t", slices.Clip(whole[:n])); err == nil {
			t.Errorf("%q: %+v", whole[:n], p)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"\x01\x01\x10\x08\x02\x06k7 9 3rest", "\x01\x01\x10\x06\x02\x04u7 9", "m7 9 3", "", "\x01\x01\x10\x00x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		packet.ParseFence(data)
		p, err := packet.Parse("t", data)
		if err != nil || p.At.Epoch == 0 {
			return
		}
		all, n := binary.Uvarint(data[3:])
		place := 2 + int(data[3+n+1])
		if int(all)-place > packet.MaxExtensions {
			return
		}
		p.Body = append(append([]byte(nil), data[:3]...), append([]byte{byte(int(all) - place)}, data[3+n+place:]...)...)
		again, err := packet.Parse("t", packet.Append(nil, p))
		if p.Body = again.Body; err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%q: %+v comes back as %+v, %v", data, p, again, err)
		}
	})
}
