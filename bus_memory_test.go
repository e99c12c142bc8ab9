package herald_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// memoryPair is two Buses of one network, closed when the bubble ends; the
// second is subscribed to "topic".
func memoryPair(t *testing.T) (a, b *herald.MemoryBus) {
	network := herald.NewMemoryNetwork()
	a, b = network.Bus(), network.Bus()
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	if err := b.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func send(t *testing.T, bus herald.Bus, data ...string) {
	t.Helper()
	for _, d := range data {
		if err := bus.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte(d)}); err != nil {
			t.Fatal(err)
		}
	}
}

// received returns what waits in the Bus, packets as their data, and the
// EventDowns.
func received(bus herald.Bus) (events string, downs []herald.Event) {
	synctest.Wait()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var all []string
	for {
		e, err := bus.Receive(ended)
		if err != nil {
			return strings.Join(all, " "), downs
		}
		switch e.Kind {
		case herald.EventPacket:
			all = append(all, string(e.Packet.Data))
		case herald.EventDown:
			all = append(all, "down")
			downs = append(downs, e)
		case herald.EventRestored:
			all = append(all, "restored")
		}
	}
}

func TestMemoryBusFaults(t *testing.T) {
	for name, test := range map[string]struct {
		run  func(t *testing.T, a, b *herald.MemoryBus)
		want string
		ago  time.Duration // how long before now the gap began
		why  string        // the cause of the gap, if there is one
	}{
		"cut": {func(t *testing.T, a, b *herald.MemoryBus) {
			send(t, a, "1")
			b.Cut()
			b.Cut()
			send(t, a, "2")
			time.Sleep(time.Second)
			if err := b.Publish(t.Context(), herald.Packet{}); !errors.Is(err, herald.ErrBusDown) {
				t.Errorf("Publish while cut off: %v", err)
			}
			b.Heal()
			send(t, a, "3")
		}, "1 down restored 3", time.Second, "herald: node is cut off"},
		"lose, reset": {func(t *testing.T, a, b *herald.MemoryBus) {
			b.Lose(true)
			time.Sleep(time.Second)
			send(t, a, "1")
			time.Sleep(time.Second)
			if got, _ := received(b); got != "" {
				t.Errorf("a silent loss told: %q", got)
			}
			b.Reset()
			send(t, a, "2")
		}, "down restored 2", time.Second, "herald: bus was reset"},
		"lose, heal": {func(t *testing.T, a, b *herald.MemoryBus) {
			b.Lose(true)
			send(t, a, "1")
			b.Lose(false)
			send(t, a, "2")
			b.Heal()
		}, "2 down restored", 0, "herald: packets were lost (Lose)"},
		"delay": {func(t *testing.T, a, b *herald.MemoryBus) {
			b.Delay(time.Minute)
			send(t, a, "1", "2")
			time.Sleep(time.Minute - 1)
			if got, _ := received(b); got != "" {
				t.Errorf("arrived early: %q", got)
			}
			b.Delay(0)
			send(t, a, "3")
			time.Sleep(time.Nanosecond)
		}, "1 2 3", 0, ""},
		"delay, cut": {func(t *testing.T, a, b *herald.MemoryBus) {
			b.Delay(time.Minute)
			send(t, a, "1")
			time.Sleep(time.Second)
			b.Cut()
			time.Sleep(time.Hour)
			b.Heal()
			send(t, a, "2")
		}, "down restored 2", time.Hour + time.Second, "herald: node is cut off"},
		"reset while cut off": {func(t *testing.T, a, b *herald.MemoryBus) {
			b.Cut()
			b.Reset()
			send(t, a, "1")
			b.Heal()
		}, "down restored", 0, "herald: node is cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memoryPair(t)
				test.run(t, a, b)
				got, downs := received(b)
				if got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				if len(downs) != min(len(test.why), 1) {
					t.Fatalf("got %d gaps", len(downs))
				}
				if len(downs) == 1 && (time.Since(downs[0].Since) != test.ago || downs[0].Err.Error() != test.why) {
					t.Errorf("the gap began %v ago, want %v; its cause is %q, want %q",
						time.Since(downs[0].Since), test.ago, downs[0].Err, test.why)
				}
			})
		})
	}
}

func TestMemoryBusSubscribeWhileCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memoryPair(t)
		b.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := b.Unsubscribe(ctx, "topic")
		if !errors.Is(err, herald.ErrBusDown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Unsubscribe while cut off: %v", err)
		}
		result := make(chan error)
		go func() { result <- b.Subscribe(t.Context(), "new") }()
		synctest.Wait()
		b.Heal()
		if err := <-result; err != nil {
			t.Error(err)
		}
		b.Cut()
		go func() { result <- b.Subscribe(t.Context(), "newer") }()
		synctest.Wait()
		b.Close()
		if err := <-result; !errors.Is(err, herald.ErrClosed) {
			t.Errorf("Subscribe across Close: %v", err)
		}
		send(t, a, "1")
	})
}

func TestMemoryBus(t *testing.T) {
	heraldtest.TestBus(t, func(t testing.TB) heraldtest.BusNetwork {
		network := herald.NewMemoryNetwork()
		var buses []*herald.MemoryBus
		return heraldtest.BusNetwork{
			Open: func() herald.Bus {
				b := network.Bus()
				buses = append(buses, b)
				return b
			},
			Interrupt: func() {
				for _, b := range buses {
					b.Cut()
				}
				for _, b := range buses {
					b.Heal()
				}
			},
		}
	})
}
