package packet_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
)

// What is appended is read again, and is not longer than it may be.
func TestPackets(t *testing.T) {
	far := history.Point{Epoch: ^history.Epoch(0), Offset: 1 << 53}
	for _, p := range []history.Packet{
		{Topic: "t", Body: []byte("a body\nof two lines"), Kept: true, At: history.Point{Epoch: 7, Offset: 9}, Born: 7, Prev: 3},
		{Topic: "t", Body: []byte{}, Kept: true, At: far, Born: far.Epoch, Prev: far.Offset - 1},
		{Topic: "t", Body: []byte("x"), At: history.Point{Epoch: 7, Offset: 9}},
		{Topic: "t", Body: []byte("x")},
	} {
		b := packet.Append(nil, p)
		if got, err := packet.Parse("t", b); err != nil || !reflect.DeepEqual(got, p) || len(b)-len(p.Body) > packet.MaxHeader {
			t.Errorf("%q: %+v, %v; want %+v", b, got, err, p)
		}
		if _, _, err := packet.ParseFence(b); err == nil {
			t.Errorf("%q is a fence", b)
		}
	}
	b := packet.AppendFence(nil, far, ^uint64(0))
	if at, number, err := packet.ParseFence(b); err != nil || at != far || number != ^uint64(0) {
		t.Errorf("%q: %v, %d, %v", b, at, number, err)
	}
	if _, err := packet.Parse("t", b); err == nil {
		t.Errorf("%q is a packet", b)
	}
	alone := history.Packet{Topic: "t", Body: []byte("x")}
	if b := packet.Append(nil, alone); !bytes.HasPrefix(b, []byte(packet.Alone)) {
		t.Errorf("%q: want %q before it", b, packet.Alone)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1kff 9 3\nbody", "1u0 0\nx", "1mff 9 3\n", "2kff 9 3\n", "1k0 9 3\n", "", "1k"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := packet.Parse("t", data); err == nil {
			again, err := packet.Parse("t", packet.Append(nil, p))
			if err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("%q: %+v comes back as %+v, %v", data, p, again, err)
			}
		}
		packet.ParseFence(data)
	})
}
