package herald

import "testing"

// A message to somebody who has just left is counted as that, and not with
// the packets of others that a Bus hands over too.
func TestNobodyLeftIsCounted(t *testing.T) {
	bus := NewMemoryNetwork().Bus()
	r := newRig(t, Config{Bus: bus, Registry: NewMemoryRegistry(), Linger: 1 << 40})
	client := r.connect(query("42"))
	c := r.only()
	client.Close()
	r.await("its end", func() bool { return r.Stats().Disconnected == 1 && r.Stats().Topics == 0 })
	if err := bus.Subscribe(t.Context(), userTopic("other")); err != nil { // as a Bus does that has no topics
		t.Fatal(err)
	}
	for _, target := range []Target{User("42"), User("42"), User("other"), Connection(c.ID(), r.NodeID()+".999"), Connection("other.1")} {
		if err := r.Send(t.Context(), target, Text("hello")); err != nil {
			t.Fatal(err)
		}
	}
	r.await("the packets", func() bool { s := r.Stats(); return s.Lingering+s.Foreign == 3 && s.Gone > 0 })
	if s := r.Stats(); s.Lingering != 2 || s.Foreign != 1 || s.Gone != 2 || s.Delivered != 0 {
		t.Errorf("Lingering %d, Foreign %d, Gone %d, Delivered %d, want 2, 1, 2, 0", s.Lingering, s.Foreign, s.Gone, s.Delivered)
	}
}
