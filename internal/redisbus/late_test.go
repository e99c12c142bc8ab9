package redisbus_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// If a link is given up, bytes that this machine has not sent yet never reach
// Redis, even when the network is back. They would arrive behind later messages.
func TestRedisBusNotLate(t *testing.T) {
	server := redistest.Start(t)
	proxy := netproxy.Start(t, server.Addr)
	from := openRedis(t, proxy.Addr, 0, &herald.RedisOptions{ProbeInterval: -1, ProbeTimeout: 3 * time.Second})
	to := openRedis(t, server.Addr, 0, nil)
	if err := to.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	r := bustest.Record(t, to)
	publish := func(first, n, size int) error {
		packets := make([]herald.Packet, n)
		for i := range packets {
			data := strconv.AppendInt(make([]byte, 0, size), int64(first+i), 10)
			packets[i] = herald.Packet{Topic: "topic", Data: data[:size]}
		}
		return from.Publish(t.Context(), packets...)
	}
	if err := publish(0, 1, 100); err != nil {
		t.Fatal(err)
	}
	old := proxy.Find("PUBLISH")
	old.Mute(true) // otherwise the answers would sooner or later reset the connection
	proxy.Stall(true)
	if err := publish(1, 60, 1<<20/64); !errors.Is(err, herald.ErrUnknown) {
		t.Errorf("Publish on a link that stands still: %v, want ErrUnknown", err)
	}
	proxy.Stall(false)
	if err := publish(100, 1, 100); err != nil {
		t.Fatal(err)
	}
	old.AwaitEnd()
	if err := publish(101, 1, 100); err != nil {
		t.Fatal(err)
	}
	r.Await("the last packet", func() bool { return arrived(r, 101) })
	if arrived(r, 60) {
		t.Error("the last packet of a call that was answered with ErrUnknown arrived after the link had been given up")
	}
}

func arrived(r *bustest.Recorder, number int) bool {
	for _, e := range r.Events() {
		if e.Kind == herald.EventPacket && bustest.Number(e.Packet) == number {
			return true
		}
	}
	return false
}
