package rabbitbus_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/bus/rabbitbus"
)

// Many publish to one topic, and while they do, nodes leave that keep the
// order. Everyone gets all packets, in one order, each publisher's in its own.
func TestOrder(t *testing.T) {
	const publishers, each = 12, 300
	server := broker(t)
	exchange := rand.Text()
	var leavers, buses []*rabbitbus.Bus
	for range 3 {
		leavers = append(leavers, open(t, server.Addr, quick(exchange)))
	}
	for range 4 {
		bus := open(t, server.Addr, quick(exchange))
		if err := bus.Subscribe(t.Context(), "topic"); err != nil {
			t.Fatal(err)
		}
		buses = append(buses, bus)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var running sync.WaitGroup
	for p := range publishers {
		running.Go(func() {
			for i := range each {
				if err := buses[p%len(buses)].Publish(ctx, herald.Packet{Topic: "topic", Data: fmt.Appendf(nil, "%d %d", p, i)}); err != nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	got := make([][]string, len(buses))
	for i, bus := range buses {
		running.Go(func() {
			for len(got[i]) < publishers*each {
				e, err := bus.Receive(ctx)
				if err != nil || e.Kind != herald.EventPacket {
					t.Errorf("after %d packets: %+v, %v", len(got[i]), e, err)
					return
				}
				got[i] = append(got[i], string(e.Packet.Data))
			}
		})
	}
	for _, bus := range leavers {
		bus.Close()
	}
	running.Wait()
	var next [publishers]int
	for _, data := range got[0] {
		var p, i int
		if _, err := fmt.Sscan(data, &p, &i); err != nil || next[p] != i {
			t.Fatalf("got %q where %d of publisher %d was next", data, next[p], p)
		}
		next[p]++
	}
	for i := range got {
		if !slices.Equal(got[i], got[0]) {
			t.Errorf("nodes 0 and %d saw two orders", i)
		}
	}
}
