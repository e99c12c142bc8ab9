package herald

import (
	"errors"
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A Disconnect whose node cannot take the Conns out of the Registry closes
// them, and says that they may be listed still.
func TestDisconnectWithoutTheRegistry(t *testing.T) {
	rigs := newPair(t, false, Config{CloseTimeout: patience})
	ws := rigs[0].connect("user=a")
	conn := rigs[0].only()
	registry := rigs[0].registry.(*MemoryRegistry)
	registry.cut.Store(true)
	err := rigs[1].Disconnect(t.Context(), User("a"), 4000, "out")
	var partial *PartialError
	if !errors.As(err, &partial) || !slices.Equal(partial.Missing, []string{rigs[0].NodeID()}) {
		t.Errorf("Disconnect: %v", err)
	}
	<-conn.Done()
	if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
		t.Errorf("%v, %v", closed, err)
	}
	ws.Close()
	registry.cut.Store(false)
	rigs[0].ended(1)
	rigs[0].clean()
}

// Whoever sees its 101 can be disconnected: its Since is known.
func TestDisconnectRightAfterThe101(t *testing.T) {
	rigs := newPair(t, false, Config{CloseTimeout: patience})
	for i := range 200 {
		ws := rigs[i%2].connect("user=a")
		if err := rigs[i/2%2].Disconnect(t.Context(), User("a"), 4000, ""); err != nil {
			t.Fatal(err)
		}
		if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
			t.Fatalf("client %d: %v, %v", i, closed, err)
		}
		ws.WriteFrames(wsraw.CloseFrame(4000, ""))
		ws.Close()
	}
}

// So can a Conn that the Registry has taken, and whose node does not know its
// Since yet.
func TestDisconnectWhileAddIsUnderWay(t *testing.T) {
	registry := &hookedRegistry{MemoryRegistry: NewMemoryRegistry()}
	r := newRig(t, Config{Bus: NewMemoryNetwork().Bus(), Registry: registry})
	result := make(chan error, 1)
	first := true
	registry.afterAdd = func([]Entry) error {
		if !first { // housekeeping adds it again
			return nil
		}
		first = false
		go func() { result <- r.Disconnect(t.Context(), User("a"), 4000, "") }()
		r.await("the call", func() bool {
			r.presence.mu.Lock()
			defer r.presence.mu.Unlock()
			return len(r.presence.ops) > 0 // its barrier
		})
		return nil
	}
	ws := r.connect("user=a")
	if closed, err := ws.ReadClose(); err != nil || closed.Code != 4000 {
		t.Errorf("%v, %v", closed, err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	ws.Close()
	r.clean()
}
