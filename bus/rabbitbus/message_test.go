package rabbitbus

import (
	"bytes"
	"testing"

	"github.com/heraldgo/herald"
)

func FuzzMessage(f *testing.F) {
	p := newPublication()
	p.add(herald.Packet{Topic: "topic", Data: []byte("data")})
	p.add(herald.Packet{Topic: "\xff\x00", Data: bytes.Repeat([]byte("x"), 300)})
	p.add(herald.Packet{})
	header{id: 1, prev: 2, seq: 3}.put(p.bytes)
	f.Add(p.bytes)
	f.Add([]byte{2})
	f.Add(append(make([]byte, headerSize), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, packets, err := parseHeader(b)
		if err != nil {
			return
		}
		again := &publication{bytes: make([]byte, headerSize)}
		for len(packets) > 0 {
			topic, data, rest, err := nextPacket(packets)
			if err != nil {
				return
			}
			if cap(data) != len(data) {
				t.Fatal("who appends to one packet writes to the next")
			}
			again.add(herald.Packet{Topic: string(topic), Data: data})
			packets = rest
		}
		h.put(again.bytes)
		// Lengths may have been written in a longer way than ours.
		if len(again.bytes) == len(b) && !bytes.Equal(again.bytes, b) {
			t.Fatalf("%x became %x", b, again.bytes)
		}
	})
}
