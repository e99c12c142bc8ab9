package hubtest

import (
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// sentinelBroker returns a Sentinel set, which also has the Registry. Its Restart
// kills the master.
func sentinelBroker(t testing.TB) Broker {
	set := redistest.StartSentinels(t)
	return Broker{
		NewBus:      func() (herald.Bus, error) { return herald.NewRedisBus(set.Client(), nil) },
		NewRegistry: func() (herald.Registry, error) { return herald.NewRedisRegistry(set.Client(), nil) },
		Restart: func() {
			master := set.Master()
			master.Kill()
			set.AwaitFailover(master)
		},
		PIDs: func() []int { return []int{set.Servers[0].PID()} },
	}
}

func TestRedisOnSentinel(t *testing.T) { Test(t, sentinelBroker) }
