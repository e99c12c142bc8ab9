package herald_test

import (
	"errors"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

func TestMemoryRegistryCut(t *testing.T) {
	b := herald.NewMemoryRegistry()
	a := heraldtest.NewFaultyRegistry(b)
	lease := takeLease(t, a, "n", time.Hour)
	a.Cut()
	if _, err := a.Add(t.Context(), lease, someEntries("n", 1)...); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Add on a handle that is cut: %v, want ErrRegistryDown", err)
	}
	if _, _, err := a.Nodes(t.Context()); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Nodes on a handle that is cut: %v, want ErrRegistryDown", err)
	}
	wantSessions(t, b, "u0", 0)
	mustAdd(t, b, lease, someEntries("n", 1)...)
	a.Heal()
	wantSessions(t, a, "u0", 1)
}
