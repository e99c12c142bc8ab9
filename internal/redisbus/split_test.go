package redisbus_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A node that is left with the old master and one of three Sentinels is unhealthy.
// All losses between it and the others lie in gaps or were answered with an error.
// Each run (-count) splits the network at another time.
func TestRedisBusMinority(t *testing.T) {
	t.Parallel()
	set := redistest.StartSplitSentinels(t)
	open := func(side string) *herald.RedisBus {
		bus, err := herald.NewRedisBus(set.Client(side), quick)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bus.Close() })
		return bus
	}
	alone, other := open(redistest.Minority), open(redistest.Majority)
	out := bustest.Start(t, alone, other, bustest.Options{Topics: []string{"out"}})
	in := bustest.Start(t, other, alone, bustest.Options{Topics: []string{"in"}})
	registry, add := listed(t, set.Client(redistest.Minority), quick)
	out.AwaitPackets(100)
	in.AwaitPackets(100)
	time.Sleep(3*time.Second + rand.N(2*time.Second))

	set.Split(true)
	set.AwaitFailover()
	out.Await("the majority on the new master", func() bool { return other.Health() == nil && len(out.Gaps()) > 0 })
	eventually(t, "bad health of a Bus that one Sentinel of three confirms", func() bool { return alone.Health() != nil })
	t.Log("health of the minority:", alone.Health())
	eventually(t, "ErrRegistryDown", func() bool {
		_, _, read := registry.Nodes(t.Context())
		write := add()
		return errors.Is(read, herald.ErrRegistryDown) && errors.Is(write, herald.ErrRegistryDown)
	})
	set.Split(false)
	set.AwaitRejoined()
	eventually(t, "the Registry on the new master", func() bool {
		_, _, err := registry.Nodes(t.Context())
		return err == nil
	})
	t.Log("out:")
	out.Check()
	t.Log("in:")
	in.Check()
}
