package herald

import (
	"fmt"
	"testing"
)

// A filter lets through, and leaves out, the same Conns as by its words, and
// makes nothing anew for each of them.
func TestSieve(t *testing.T) {
	h := newHub(t, Config{})
	for counter := range uint64(20) {
		c := &Conn{hub: h, counter: counter, identity: Identity{User: fmt.Sprint("u", counter%3), Platform: []string{"web", "ios"}[counter%2]}}
		id := func(n int) string { return fmt.Sprint(h.id, ".", n) }
		for i, target := range []Target{
			Everyone(),
			Everyone().Except(id(7), id(3), "other.5", id(11), id(0)),
			Everyone().Except("other.5"),
			Everyone().ExceptUser("u1", "nobody").Except(id(4)),
			Everyone().On("ios").Except(id(1)),
			Everyone().On(),
		} {
			f := target.filter()
			want := f.passesSession(Session{ID: c.ID(), User: c.identity.User, Platform: c.identity.Platform})
			s := newSieve(h.id, &f)
			if got := s.passes(c); got != want {
				t.Errorf("target %d, Conn %d: passes %v, want %v", i, counter, got, want)
			}
			if n := testing.AllocsPerRun(10, func() { s.passes(c) }); n > 0 {
				t.Errorf("target %d: %v allocations a Conn", i, n)
			}
		}
	}
}
