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
	generation, err := a.KeepAlive(t.Context(), herald.Node{ID: "n"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	lease := herald.Lease{Node: "n", Generation: generation}
	entry := herald.Entry{Session: herald.Session{ID: "n.1", User: "u"}, UserTopic: "u"}
	wantOnline := func(r herald.Registry, want bool) {
		t.Helper()
		if online, err := r.Online(t.Context(), lease, "u"); err != nil || online[0] != want {
			t.Errorf("the user is online: %v (%v), want %v", online, err, want)
		}
	}
	a.Cut()
	if _, err := a.Add(t.Context(), lease, entry); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Add on a handle that is cut: %v, want ErrRegistryDown", err)
	}
	if _, _, err := a.Nodes(t.Context()); !errors.Is(err, herald.ErrRegistryDown) {
		t.Errorf("Nodes on a handle that is cut: %v, want ErrRegistryDown", err)
	}
	wantOnline(b, false)
	if _, err := b.Add(t.Context(), lease, entry); err != nil {
		t.Fatal(err)
	}
	a.Heal()
	wantOnline(a, true)
}
