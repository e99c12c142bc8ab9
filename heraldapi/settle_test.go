package heraldapi

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// TestSettle checks that a request frees or answers its own claim, and nobody else's.
func TestSettle(t *testing.T) {
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { rdb.Close() })
	c := &claims{rdb, "p:"}
	const name = "p:k"
	a, b := record{Claim: "A", Request: "r"}, record{Claim: "B", Request: "r"}
	claim := func(mine record) (older *record) {
		t.Helper()
		older, _, err := c.claim(t.Context(), name, mine)
		if err != nil {
			t.Fatal(err)
		}
		return older
	}
	undone, done := failure(503, "bus_down", ""), ok(struct{}{})

	claim(a)
	c.settle(t.Context(), name, a, undone)
	if older := claim(b); older != nil {
		t.Fatalf("after nothing was done: the key has %v, want it free", older)
	}
	for _, late := range []*answer{undone, done} { // A's command again, or A after a failover
		c.settle(t.Context(), name, a, late)
		if older := claim(record{Claim: "C"}); older == nil || older.Claim != "B" {
			t.Errorf("A ends while B has the key: the key has %v, want B's claim", older)
		}
	}
	server.FlushAll()
	c.settle(t.Context(), name, b, done)
	if older := claim(a); older == nil || older.Answer == nil || older.Answer.Status != 200 {
		t.Errorf("B ends after its claim was lost: the key has %v, want B's outcome", older)
	}
}
