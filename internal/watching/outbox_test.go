package watching

import (
	"context"
	"slices"
	"strings"
	"testing"
)

// outbox returns an Outbox, and the packets that it has published, by topic.
func outbox() (o *Outbox, packets map[string][][]byte) {
	packets = make(map[string][][]byte)
	return NewOutbox(func(_ context.Context, topic string, data []byte) error {
		packets[topic] = append(packets[topic], data)
		return nil
	}), packets
}

// came returns a change whose bytes in a packet are n.
func came(t *testing.T, number int64, n int) Change {
	t.Helper()
	c := Change{Topic: "g", Number: number, Session: Session{ID: "i"}}
	c.Session.Body = strings.Repeat("b", n-len(appendChange(nil, c))-2) // its length takes up to three bytes
	for len(appendChange(nil, c)) < n {
		c.Session.Body += "b"
	}
	if got := len(appendChange(nil, c)); got != n {
		t.Fatalf("a change has %d bytes, want %d", got, n)
	}
	return c
}

// The changes of a topic share packets, until one is large enough.
func TestOutboxPackets(t *testing.T) {
	for name, test := range map[string]struct {
		bytes int // of a packet with the first change
		first int // changes in the first packet
	}{
		"small":     {100, 3},
		"with room": {packetSize - 1, 2},
		"full":      {packetSize, 1},
		"above it":  {packetSize + 1, 1},
	} {
		o, packets := outbox()
		other := Change{Topic: "h", Number: 7, Left: true, Session: Session{ID: "x"}}
		o.Put([]Change{came(t, 1, test.bytes-1), other, came(t, 2, 100)})
		o.Put([]Change{came(t, 3, 100)})
		o.Flush(t.Context())
		var numbers []int64
		first := 0
		for i, p := range packets["g"] {
			changes, err := decode(p)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, c := range changes {
				numbers = append(numbers, c.Number)
			}
			if i == 0 {
				first = len(changes)
			}
		}
		if first != test.first || !slices.Equal(numbers, []int64{1, 2, 3}) {
			t.Errorf("%s: the changes are %v, %d of them in the first packet", name, numbers, first)
		}
		if len(packets["h"]) != 1 {
			t.Errorf("%s: %d packets of the other topic", name, len(packets["h"]))
		}
	}
}

// No more changes wait than may be; what was published makes room.
func TestOutboxBound(t *testing.T) {
	o, packets := outbox()
	most := make([]Change, maxWaiting-1)
	few := make([]Change, 3)
	for i := range most {
		most[i] = Change{Topic: "g", Left: true}
	}
	for i := range few {
		few[i] = Change{Topic: "g", Left: true}
	}
	published := func() (n int) {
		clear(packets)
		o.Flush(t.Context())
		for _, p := range packets["g"] {
			changes, err := decode(p)
			if err != nil {
				t.Fatal(err)
			}
			n += len(changes)
		}
		return n
	}
	o.Put(most)
	o.Put(few)
	o.Put(few)
	if n := published(); n != maxWaiting {
		t.Errorf("%d are published, want %d", n, maxWaiting)
	}
	o.Put(few)
	if n := published(); n != len(few) {
		t.Errorf("of %d more %d are published", len(few), n)
	}
}
