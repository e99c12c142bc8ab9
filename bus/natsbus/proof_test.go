package natsbus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/servertest"
)

// A new link whose server does not hear the one that the Bus publishes at ends
// no gap, whatever that server confirms.
func TestRestoredIsProved(t *testing.T) {
	one, other := netproxy.Start(t, servertest.NATS(t).Addr), servertest.NATS(t) // no cluster
	options := quick()
	options.NATS = []nats.Option{nats.DontRandomize()}
	a := open(t, "nats://"+one.Addr+",nats://"+other.Addr, options)
	a.subscribe("topic")
	one.Find("SUB ").Cut()
	a.awaitKind(herald.EventRestored, 1)
	a.publishAgain("topic", "after the gap")
	a.awaitPacket("after the gap")
	if n := a.count(herald.EventDown, ""); n != 1 {
		t.Errorf("%d gaps, want 1: %v", n, a.Gaps())
	}
}

// When a gap ends a Bus publishes, too: its publisher does not wait for the end
// of its own backoff.
func TestRestoredPublishes(t *testing.T) {
	server := servertest.NATS(t)
	a := open(t, server.Addr, quick())
	server.Kill()
	a.awaitKind(herald.EventDown, 1)
	for range 500 { // by then the next attempt to connect is some time away
		if a.try("topic", "too early") == nil {
			t.Fatal("Publish without a server returned nil")
		}
		time.Sleep(2 * time.Millisecond)
	}
	server.Restart()
	a.awaitKind(herald.EventRestored, 1)
	if err := a.try("topic", "at once"); err != nil {
		t.Errorf("Publish after the end of the gap: %v", err)
	}
}
