// Package manytest runs many nodes in one process, on a Bus and a Registry in
// memory and on a fake clock. It counts the packets that they publish and the
// questions that they ask.
package manytest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
)

// A tally counts what all nodes do.
type tally struct {
	published, received atomic.Int64 // packets
	calls, listed       atomic.Int64 // of the Registry; the nodes in its lists
}

// A countedBus counts packets.
type countedBus struct {
	*heraldtest.FaultyBus
	tally *tally
}

func (b countedBus) Publish(ctx context.Context, packets ...herald.Packet) error {
	b.tally.published.Add(int64(len(packets)))
	return b.FaultyBus.Publish(ctx, packets...)
}

func (b countedBus) Receive(ctx context.Context) (herald.Event, error) {
	e, err := b.FaultyBus.Receive(ctx)
	if e.Kind == herald.EventPacket {
		b.tally.received.Add(1)
	}
	return e, err
}

// A countedRegistry counts the calls that idle nodes make.
type countedRegistry struct {
	*heraldtest.FaultyRegistry
	tally *tally
}

func (r countedRegistry) Nodes(ctx context.Context) ([]herald.Node, time.Time, error) {
	nodes, now, err := r.FaultyRegistry.Nodes(ctx)
	r.tally.calls.Add(1)
	r.tally.listed.Add(int64(len(nodes)))
	return nodes, now, err
}

func (r countedRegistry) KeepAlive(ctx context.Context, n herald.Node, ttl time.Duration) (int64, error) {
	r.tally.calls.Add(1)
	return r.FaultyRegistry.KeepAlive(ctx, n, ttl)
}

func (r countedRegistry) Entries(ctx context.Context, l herald.Lease, cursor string) ([]herald.Entry, string, error) {
	r.tally.calls.Add(1)
	return r.FaultyRegistry.Entries(ctx, l, cursor)
}

func (r countedRegistry) Check(ctx context.Context, l herald.Lease, entries ...herald.Entry) ([]herald.Entry, error) {
	r.tally.calls.Add(1)
	return r.FaultyRegistry.Check(ctx, l, entries...)
}

func (r countedRegistry) Offline(ctx context.Context, delay time.Duration) ([]string, error) {
	r.tally.calls.Add(1)
	return r.FaultyRegistry.Offline(ctx, delay)
}

func (r countedRegistry) Sweep(ctx context.Context, l herald.Lease) error {
	r.tally.calls.Add(1)
	return r.FaultyRegistry.Sweep(ctx, l)
}

// An idle node's work does not grow with the number of nodes, apart from the list
// of them. A call that waits for all nodes, a node's death, and the loss of the
// Registry's data cost each node a bounded number of packets, and end.
func TestNodes(t *testing.T) {
	counts := []int{10, 100}
	if set := os.Getenv("HERALD_NODES"); set != "" {
		n, err := strconv.Atoi(set)
		if err != nil || n < 2 {
			t.Fatalf("HERALD_NODES: %q: must be a number of nodes, 2 or more", set)
		}
		counts = []int{n}
	}
	for _, n := range counts {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, n) })
		})
	}
}

func simulate(t *testing.T, n int) {
	tally := new(tally)
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	hubs := make([]*herald.Hub, n)
	buses := make([]*heraldtest.FaultyBus, n)
	registries := make([]*heraldtest.FaultyRegistry, n)
	for i := range hubs {
		buses[i] = heraldtest.NewFaultyBus(network)
		registries[i] = heraldtest.NewFaultyRegistry(registry.Handle())
		hub, err := herald.New(herald.Config{
			Bus: countedBus{buses[i], tally}, Registry: countedRegistry{registries[i], tally},
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hub.Shutdown(context.Background()) })
		hubs[i] = hub
		time.Sleep(time.Millisecond) // nodes do not start at the same moment
	}
	const lease = 15 * time.Second // Config.Lease is not set
	awaitHealth(t, hubs, 2*lease)
	time.Sleep(2 * lease)

	nodes := float64(n)
	// per logs what do cost each node, and returns the number of packets that each
	// published.
	per := func(what string, do func()) (published float64) {
		start := time.Now()
		p, r, c, l := tally.published.Load(), tally.received.Load(), tally.calls.Load(), tally.listed.Load()
		do()
		took := time.Since(start)
		published = float64(tally.published.Load()-p) / nodes
		t.Logf("%d nodes: %s: %v; of each node %.2f packets published, %.2f received, %.2f calls of the Registry, %.0f nodes listed", n, what, took,
			published, float64(tally.received.Load()-r)/nodes, float64(tally.calls.Load()-c)/nodes, float64(tally.listed.Load()-l)/nodes)
		return published
	}

	heard, called := tally.received.Load(), tally.calls.Load()
	per("a minute without anything to do", func() { time.Sleep(time.Minute) })
	if rate := float64(tally.received.Load()-heard) / nodes / 60; rate > 22 {
		t.Errorf("a node hears %.1f packets a second", rate)
	}
	if rate := float64(tally.calls.Load()-called) / nodes / 60; rate > 2 {
		t.Errorf("a node makes %.1f calls of the Registry a second", rate)
	}

	published := per("a call that waits for all", func() {
		if err := hubs[0].Join(t.Context(), herald.Everyone(), "all"); err != nil {
			t.Error(err)
		}
	})
	if published > 2 {
		t.Errorf("a node published %.2f packets for a call", published)
	}

	published = per("the Registry lost its nodes", func() {
		listed, _, err := registry.Nodes(t.Context())
		if err != nil || len(listed) != n {
			t.Fatalf("%d nodes are listed, %v", len(listed), err)
		}
		for _, node := range listed {
			if err := registry.Sweep(t.Context(), node.Lease()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		awaitWhole(t, registry, hubs, n, 2*lease)
	})
	if published > 30 {
		t.Errorf("a node published %.1f packets after a loss", published)
	}
	time.Sleep(2 * lease)

	per("a node died", func() {
		buses[0].Cut()
		registries[0].Cut()
		awaitWhole(t, registry, hubs[1:], n-1, 4*lease)
	})
	buses[0].Heal()
	registries[0].Heal()
	per("it came back", func() { awaitWhole(t, registry, hubs, n, 4*lease) })
}

func awaitHealth(t *testing.T, hubs []*herald.Hub, within time.Duration) {
	t.Helper()
	end := time.Now().Add(within)
	for i, hub := range hubs {
		for err := hub.Health(); err != nil; err = hub.Health() {
			if time.Now().After(end) {
				t.Fatalf("hub %d after %v: %v", i, within, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// awaitWhole waits until the Registry lists n nodes and these hubs are healthy.
func awaitWhole(t *testing.T, registry *herald.MemoryRegistry, hubs []*herald.Hub, n int, within time.Duration) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		nodes, _, err := registry.Nodes(t.Context())
		if err == nil && len(nodes) == n {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after %v %d nodes are listed, %v, want %d", within, len(nodes), err, n)
		}
	}
	awaitHealth(t, hubs, within)
}
