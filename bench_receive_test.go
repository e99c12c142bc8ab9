package herald

import "testing"

// A client that does not read, of a Hub that drops the oldest messages.
func BenchmarkDropOldest(b *testing.B) {
	h := newHub(b, Config{DropOldest: true})
	c := h.users(b, 1)[0]
	frame := Text("x").frame()
	for range h.config.QueueMessages {
		c.enqueue(frame, false)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.enqueue(frame, false)
	}
}

// Sends to several groups, of which as many are remembered as may be.
func BenchmarkCopies(b *testing.B) {
	var s copies
	id := uint64(0)
	for ; id < maxCopies; id++ {
		s.of("node", id)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.of("node", id)
		id++
	}
}

// A message to everyone but its sender, for 5,000 clients that are too busy
// for it.
func BenchmarkExcept(b *testing.B) {
	h := benchHub(b)
	conns := h.users(b, 5000)
	for _, c := range conns {
		h.index.add(c, 0, 0)
		c.queue.blocked = true
	}
	e := envelope{kind: kindMessage, volatile: true, message: Text(payload), filter: Everyone().Except(conns[0].ID()).filter()}
	packet := Packet{topicEveryone, e.encode()}
	var scratch []*Conn
	b.ReportAllocs()
	for b.Loop() {
		scratch = h.take(packet, scratch)
	}
	for _, c := range conns {
		h.index.remove(c) // or Shutdown would close them
	}
}
