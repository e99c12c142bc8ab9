package herald

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

// One Bus given to two Hubs would halve the messages of both. New refuses the
// second, and the first goes on as if nothing had been.
func TestBusOfTwoHubs(t *testing.T) {
	bus, registry := NewMemoryNetwork().Bus(), NewMemoryRegistry()
	first, err := New(Config{Bus: bus, Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	var refused sync.WaitGroup
	for range 10 {
		refused.Go(func() {
			second, err := New(Config{Bus: bus, Registry: registry})
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Config.Bus: another Hub has this *herald.MemoryBus") {
				t.Errorf("New of a second Hub on the same Bus returned %v", err)
			}
			if err == nil {
				second.Shutdown(t.Context())
			}
		})
	}
	refused.Wait()
	if err := first.Send(t.Context(), User("42"), Text("hello")); err != nil {
		t.Errorf("the first Hub, after that: %v", err)
	}
	first.Shutdown(t.Context())
	if _, err := New(Config{Bus: bus, Registry: registry}); !errors.Is(err, ErrClosed) {
		t.Errorf("New with a Bus that a Hub has closed returned %v", err)
	}
	busesInUse.Range(func(b, _ any) bool {
		if b == any(bus) {
			t.Error("the Bus of a Hub that has ended is kept")
		}
		return true
	})
}

// A Bus that cannot be compared with others is taken as it is.
func TestBusNotComparable(t *testing.T) {
	type odd struct {
		Bus
		_ []int
	}
	h, err := New(Config{Bus: odd{Bus: NewMemoryNetwork().Bus()}, Registry: NewMemoryRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	h.Shutdown(t.Context())
}
