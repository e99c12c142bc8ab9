package redisbus_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/bustest"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

const patience = bustest.Patience

// A rig has a Bus that publishes a stream directly to the server, and one that
// receives it through a proxy.
type rig struct {
	*testing.T
	*bustest.Stream
	server   *redistest.Server
	proxy    *netproxy.Proxy
	from, to *herald.RedisBus
	admin    *redis.Client
}

func newRig(t *testing.T, options *herald.RedisOptions) *rig {
	server := redistest.Start(t)
	r := &rig{T: t, server: server, proxy: netproxy.Start(t, server.Addr), admin: server.Client()}
	r.from = openRedis(t, server.Addr, 0, options)
	r.to = openRedis(t, r.proxy.Addr, 0, options)
	r.Stream = bustest.Start(t, r.from, r.to, bustest.Options{})
	return r
}

func (r *rig) do(args ...any) {
	r.Helper()
	if err := r.admin.Do(context.Background(), args...).Err(); err != nil {
		r.Fatalf("%v: %v", args, err)
	}
}

// quick tests the links ten times a second, and soon finds a dead one. If the
// machine stands still for a second, it takes a live link for dead.
var quick = &herald.RedisOptions{ProbeInterval: time.Second / 10, ProbeTimeout: time.Second}

// calm tests the links as often, for tests in which no link may fail by itself.
var calm = &herald.RedisOptions{ProbeInterval: time.Second / 10, ProbeTimeout: patience}

func TestRedisBusFaults(t *testing.T) {
	subscribed := func(r *rig) *netproxy.Pair { return r.proxy.Find("\r\nSUBSCRIBE\r\n") }
	for name, fault := range map[string]func(r *rig){
		"subscriber killed": func(r *rig) { killClients(r, r.server.Addr, "pubsub") },
		"subscriber killed again and again": func(r *rig) {
			for range 5 {
				killClients(r, r.server.Addr, "pubsub")
				r.Await("life", func() bool { return r.to.Health() == nil })
			}
		},
		"cut":        func(r *rig) { r.proxy.Cut() },
		"black hole": func(r *rig) { r.proxy.Blackhole(true); r.AwaitGap(); r.proxy.Blackhole(false) },
		"server killed, comes back empty": func(r *rig) {
			r.server.Kill()
			r.AwaitGap()
			// The subscriber's link may have broken before the publisher's.
			eventually(r, "ErrBusDown of Publish", func() bool {
				err := r.to.Publish(r.Context(), herald.Packet{Topic: "none"})
				if err == nil {
					r.Error("Publish without a server returned nil")
				}
				return errors.Is(err, herald.ErrBusDown) && !errors.Is(err, herald.ErrUnknown)
			})
			r.server.Restart()
		},
		"server hangs": func(r *rig) { r.server.Pause(); r.AwaitGap(); r.server.Continue() },
		"unsubscribed unasked": func(r *rig) {
			if err := subscribed(r).Inject([]byte("UNSUBSCRIBE herald:{0}:topic\r\n")); err != nil {
				r.Fatal(err)
			}
		},
		"subscription dead without a word": func(r *rig) {
			pair := subscribed(r)
			pair.Mute(true)
			if err := pair.Inject([]byte("UNSUBSCRIBE herald:{0}:topic\r\n")); err != nil {
				r.Fatal(err)
			}
			r.Await("UNSUBSCRIBE", func() bool {
				return r.admin.PubSubNumSub(r.Context(), "herald:{0}:topic").Val()["herald:{0}:topic"] == 0
			})
			pair.Mute(false)
		},
		"master demoted": func(r *rig) {
			r.do("REPLICAOF", "127.0.0.1", "1")
			r.AwaitGap()
			r.Await("bad health", func() bool { return r.to.Health() != nil })
			r.do("REPLICAOF", "NO", "ONE")
		},
		"reset": func(r *rig) { r.to.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, quick)
			r.AwaitPackets(100)
			fault(r)
			r.AwaitGap()
			r.Check()
		})
	}
}

// A Subscribe during which the link breaks completes on the next link.
func TestRedisBusSubscribeAcrossLinks(t *testing.T) {
	r := newRig(t, quick)
	r.proxy.Blackhole(true)
	result := make(chan error)
	go func() { result <- r.to.Subscribe(context.Background(), "new") }()
	r.AwaitGap()
	r.proxy.Blackhole(false)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if err := r.from.Publish(t.Context(), herald.Packet{Topic: "new", Data: []byte("0")}); err != nil {
		t.Fatal(err)
	}
	r.Await("the packet", func() bool {
		return slices.ContainsFunc(r.Events(), func(e bustest.Arrival) bool { return e.Packet.Topic == "new" })
	})
	r.proxy.Blackhole(true)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := r.to.Subscribe(ctx, "newer"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Subscribe without a link returned %v", err)
	}
}

// If the reply to a PUBLISH is lost, the packet arrives once, and its result is
// unknown.
func TestRedisBusReplyLost(t *testing.T) {
	server := redistest.Start(t)
	proxy := netproxy.Start(t, server.Addr)
	from := openRedis(t, proxy.Addr, 0, &herald.RedisOptions{ProbeInterval: -1, ProbeTimeout: 3 * time.Second})
	to := openRedis(t, server.Addr, 0, nil)
	if err := to.Subscribe(t.Context(), "topic"); err != nil {
		t.Fatal(err)
	}
	publish := func(data string) error {
		return from.Publish(t.Context(), herald.Packet{Topic: "topic", Data: []byte(data)})
	}
	proxy.Find("PUBLISH").Mute(true)
	if err := publish("unknown"); !errors.Is(err, herald.ErrUnknown) || errors.Is(err, herald.ErrBusDown) {
		t.Errorf("Publish without a reply returned %v, want ErrUnknown", err)
	}
	if err := publish("known"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"unknown", "known"} {
		e, err := to.Receive(t.Context())
		if err != nil || string(e.Packet.Data) != want {
			t.Errorf("got %q, %v, want %q", e.Packet.Data, err, want)
		}
	}
}

// A caller that gives up before anything was sent is told so.
func TestRedisBusPublishGivesUp(t *testing.T) {
	r := newRig(t, &herald.RedisOptions{ProbeInterval: -1, ProbeTimeout: 5 * time.Second})
	r.proxy.Blackhole(true)
	r.proxy.Find("PUBLISH").Cut()
	r.Await("a dial", func() bool { return r.to.Health() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := r.to.Publish(ctx, herald.Packet{Topic: "topic"})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, herald.ErrUnknown) {
		t.Errorf("Publish while a link is dialed returned %v, want the context's error alone", err)
	}
}
