package herald

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

// An entry that the Registry refuses, as one does whose key in Redis somebody
// else spoils all the time, fails its own handshake, and none of those that
// are written together with it.
func TestRefusedEntryFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
		registry.afterAdd = func(entries []Entry) error {
			if slices.ContainsFunc(entries, func(e Entry) bool { return e.Session.User == "victim" }) {
				return errors.New("WRONGTYPE")
			}
			return nil
		}
		r := newPipeRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry})
		users := []string{"a", "b", "victim", "c", "d"}
		ops := make([]presenceOp, len(users))
		for i, user := range users {
			c := &Conn{hub: r.Hub, counter: uint64(100 + i), identity: Identity{User: user}}
			ops[i] = presenceOp{c: c, add: true, entry: c.entry([]string{userTopic(user)}), done: make(chan presenceResult, 1)}
		}
		r.presence.mu.Lock() // all come together
		r.presence.ops = append(r.presence.ops, ops...)
		r.presence.mu.Unlock()
		r.presence.wake.Set()
		for i, op := range ops {
			result := <-op.done
			if refused := users[i] == "victim"; (result.err != nil) != refused {
				t.Errorf("%s: %v", users[i], result.err)
			}
			if result.err == nil && result.added.Since.IsZero() {
				t.Errorf("%s has no Since", users[i])
			}
		}
	})
}
