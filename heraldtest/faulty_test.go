package heraldtest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// memoryPair is two Buses of one network, closed when the bubble ends; the
// second is subscribed to "topic".
func memoryPair(t *testing.T) (a, b *heraldtest.FaultyBus) {
	network := herald.NewMemoryNetwork()
	a, b = heraldtest.NewFaultyBus(network), heraldtest.NewFaultyBus(network)
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
		run  func(t *testing.T, a, b *heraldtest.FaultyBus)
		want string
		ago  time.Duration // how long before now the gap began
		why  string        // the cause of the gap, if there is one
	}{
		"cut": {func(t *testing.T, a, b *heraldtest.FaultyBus) {
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
		"lose, reset": {func(t *testing.T, a, b *heraldtest.FaultyBus) {
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
		"lose, heal": {func(t *testing.T, a, b *heraldtest.FaultyBus) {
			b.Lose(true)
			send(t, a, "1")
			b.Lose(false)
			send(t, a, "2")
			b.Heal()
		}, "2 down restored", 0, "herald: packets were lost"},
		"delay": {func(t *testing.T, a, b *heraldtest.FaultyBus) {
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
		"delay, cut": {func(t *testing.T, a, b *heraldtest.FaultyBus) {
			b.Delay(time.Minute)
			send(t, a, "1")
			time.Sleep(time.Second)
			b.Cut()
			time.Sleep(time.Hour)
			b.Heal()
			send(t, a, "2")
		}, "down restored 2", time.Hour + time.Second, "herald: node is cut off"},
		"reset while cut off": {func(t *testing.T, a, b *heraldtest.FaultyBus) {
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
		var buses []*heraldtest.FaultyBus
		stop := func() func() {
			for _, b := range buses {
				b.Cut()
			}
			return func() {
				for _, b := range buses {
					b.Heal()
				}
			}
		}
		return heraldtest.BusNetwork{
			Open: func() herald.Bus {
				b := heraldtest.NewFaultyBus(network)
				buses = append(buses, b)
				return b
			},
			Interrupt: func() { stop()() },
			Stop:      stop,
		}
	})
}

// ExpectNothing tells what has come from what has not, whatever fault there is.
func TestExpectNothing(t *testing.T) {
	for name, test := range map[string]struct {
		fault func(b *heraldtest.FaultyBus)
		comes bool
	}{
		"none":  {func(*heraldtest.FaultyBus) {}, true},
		"cut":   {func(b *heraldtest.FaultyBus) { b.Cut() }, false},
		"lose":  {func(b *heraldtest.FaultyBus) { b.Lose(true) }, false},
		"delay": {func(b *heraldtest.FaultyBus) { b.Delay(time.Hour) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := heraldtest.NewCluster(t, 2, herald.Config{})
			client := c.Connect(1, herald.Identity{User: "42"})
			send := func(text string) {
				if err := c.Nodes[0].Hub.Send(t.Context(), herald.User("42"), herald.Text(text)); err != nil {
					t.Fatal(err)
				}
			}
			client.ExpectNothing()
			send("before")
			client.Expect("before")
			client.ExpectNothing()
			test.fault(c.Nodes[1].Bus)
			send("meanwhile")
			if test.comes {
				client.Expect("meanwhile")
			}
			client.ExpectNothing()
		})
	}
}

// The callbacks and the context are those of the configuration.
func TestClusterKeepsConfig(t *testing.T) {
	type key struct{}
	seen := make(chan any, 1)
	c := heraldtest.NewCluster(t, 1, herald.Config{
		ConnContext: func(*http.Request) context.Context { return context.WithValue(context.Background(), key{}, "value") },
		OnConnect: func(ctx context.Context, conn *herald.Conn) error {
			seen <- conn.Context().Value(key{})
			return conn.Send(herald.Text("welcome"))
		},
	})
	client := c.Connect(0, herald.Identity{User: "42"})
	client.Expect("welcome")
	client.ExpectNothing()
	if got := <-seen; got != "value" {
		t.Errorf("ConnContext's value is %v", got)
	}
}

// Health follows the faults, and a cut Bus says itself that it is.
func TestAwaitHealth(t *testing.T) {
	c := heraldtest.NewCluster(t, 1, herald.Config{Lease: time.Second})
	node := c.Nodes[0]
	node.AwaitHealth(nil)
	node.Bus.Cut()
	if err := node.Bus.Health(); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Health of a Bus that is cut off: %v", err)
	}
	node.AwaitHealth(herald.ErrBusDown)
	node.Bus.Heal()
	node.AwaitHealth(nil)
	node.Registry.Cut()
	node.AwaitHealth(herald.ErrRegistryDown)
	node.Registry.Heal()
	node.AwaitHealth(nil)
}
