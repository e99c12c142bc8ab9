package herald

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Nodes that somebody makes up are forgotten, and hide no real one.
func TestMadeUpNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := NewMemoryNetwork(), NewMemoryRegistry()
		h := newHub(t, Config{Bus: network.Bus(), Registry: registry.Handle()})
		attacker := network.Bus()
		defer attacker.Close()
		flood := func() {
			for i := range 100_000 {
				e := envelope{kind: kindHeartbeat, sender: fmt.Sprintf("made-up-%d", i), id: 1}
				for attacker.Publish(t.Context(), Packet{topicHeartbeat, e.encode()}) != nil {
					time.Sleep(time.Millisecond)
				}
				if i%1000 == 0 {
					synctest.Wait()
				}
			}
			synctest.Wait()
		}
		flood()
		h.heartbeat.mu.Lock()
		known := len(h.heartbeat.peers)
		h.heartbeat.mu.Unlock()
		if known > maxStrangers+2 {
			t.Errorf("%d nodes are known after heartbeats of 100,000", known)
		}
		if n := h.Stats().Strangers; n < 90_000 {
			t.Errorf("Strangers is %d", n)
		}
		second := newHub(t, Config{Bus: network.Bus(), Registry: registry.Handle(), Name: "second"})
		time.Sleep(h.config.Lease)
		h.heartbeat.mu.Lock()
		p := h.heartbeat.peers[second.NodeID()]
		believed := p != nil && p.heard != 0 && p.alive
		h.heartbeat.mu.Unlock()
		if !believed {
			t.Error("a node that came meanwhile is not believed to live")
		}
		if err := h.Disconnect(t.Context(), User("nobody"), 4000, ""); err != nil {
			t.Errorf("Disconnect: %v", err)
		}
	})
}

// A gap that waits to hear a node ends when that node is forgotten.
func TestGapWaitsForNoForgottenNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := NewMemoryNetwork()
		bus := network.Bus()
		var gaps atomic.Uint64
		h := newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry(), OnGap: func(Gap) { gaps.Add(1) }})
		other := network.Bus()
		defer other.Close()
		time.Sleep(time.Second)
		e := envelope{kind: kindHeartbeat, sender: "gone", id: 1}
		if err := other.Publish(context.Background(), Packet{topicHeartbeat, e.encode()}); err != nil {
			t.Fatal(err)
		}
		// Half a lease later it is not believed to live any more: just then the
		// nodes are listed, and the Bus has only just been restored.
		time.Sleep(h.config.Lease/2 - 500*time.Millisecond)
		bus.cutOff()
		bus.heal()
		time.Sleep(time.Second)
		h.presence.housekeep()
		time.Sleep(time.Minute)
		if n := gaps.Load(); n == 0 {
			t.Error("the gap has not ended in a minute")
		}
	})
}
