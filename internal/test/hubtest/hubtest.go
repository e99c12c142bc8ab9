// Package hubtest tests a Bus under hubs: three of them, with clients, on the real
// broker. heraldtest tests what a Bus promises by itself.
package hubtest

import (
	"testing"
	"time"

	"github.com/heraldgo/herald"
)

// A Broker is what the hubs of one test share.
type Broker struct {
	// NewBus returns a new Bus for one hub, which closes it.
	NewBus func() (herald.Bus, error)

	// NewRegistry returns a new Registry for one hub. If it has a Close method, it
	// is closed. If NewRegistry is nil, the Registries are on a redis-server of the
	// test.
	NewRegistry func() (herald.Registry, error)

	// Restart stops the broker hard and starts it again. It returns when the broker
	// is up.
	Restart func()

	// PIDs returns the ids of the broker's processes. If it is nil or returns none,
	// the broker is in this process.
	PIDs func() []int
}

// pids returns the ids of the broker's processes, if it has its own.
func (b *Broker) pids() []int {
	if b.PIDs == nil {
		return nil
	}
	return b.PIDs()
}

// Test tests three hubs with clients on Buses of one broker. It calls newBroker
// once for each subtest:
//
//   - Delivery: all hubs together send 5,000 messages to users, groups and
//     everyone. Each of 200 devices gets those for it exactly once, in order
//     per sender and topic, and no gap is reported.
//   - Restart: the broker restarts under that load. Each lost message lies in a
//     reported gap, or its Send returned an error. No message comes twice.
//     Afterwards everyone is reached from everywhere, and no client was
//     disconnected.
//   - Slow: callbacks of a hub that block harm nobody. A hub that does not
//     receive keeps its memory within bounds and reports its losses. The
//     other hubs, the senders and the broker do not suffer.
//
// A message that has not come within a minute is taken for lost.
func Test(t *testing.T, newBroker func(t testing.TB) Broker) {
	t.Run("Delivery", func(t *testing.T) { testDelivery(t, newBroker(t)) })
	t.Run("Restart", func(t *testing.T) { testRestart(t, newBroker(t)) })
	t.Run("Slow", func(t *testing.T) { testSlow(t, newBroker(t)) })
}

// patience is how long a test waits for something without a time of its own. If it
// takes longer, it hangs. The tests of this package shorten it.
var patience = 60 * time.Second

// probeInterval is Config.ProbeInterval of the hubs. The tests of this package
// switch heartbeats off, because by them hubs find out what a Bus keeps silent
// about.
var probeInterval time.Duration

// gapPatience is how long a gap may stay open after all messages arrive again. The
// tests of this package shorten it, because their faults do not end.
var gapPatience = 20 * time.Second

// users is how many users there are. Each has two devices.
const users = 100

// senders is how many goroutines send on each hub.
const senders = 3
