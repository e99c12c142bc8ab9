package herald_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/netproxy"
	"github.com/heraldgo/herald/internal/redistest"
)

const patience = 30 * time.Second

// A rig is a Bus that publishes a stream straight to the server, and one
// behind a proxy that receives it.
type rig struct {
	*testing.T
	server   *redistest.Server
	proxy    *netproxy.Proxy
	from, to *herald.RedisBus
	admin    *redis.Client

	mu      sync.Mutex
	stream  []published
	events  []arrived
	changed chan struct{}
}

type published struct {
	began, ended time.Time
	err          error
}

type arrived struct {
	herald.Event
	at time.Time
}

func newRig(t *testing.T, options *herald.RedisOptions) *rig {
	server := redistest.Start(t)
	r := &rig{T: t, server: server, proxy: netproxy.Start(t, server.Addr), admin: server.Client(), changed: make(chan struct{})}
	r.from = openRedis(t, server.Addr, 0, options)
	r.to = openRedis(t, r.proxy.Addr, 0, options)
	r.start()
	return r
}

// start starts the stream.
func (r *rig) start() {
	if err := r.to.Subscribe(r.Context(), "topic"); err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.receive(ctx) })
	running.Go(func() { r.publish(ctx) })
	r.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func (r *rig) receive(ctx context.Context) {
	for {
		e, err := r.to.Receive(ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.events = append(r.events, arrived{e, time.Now()})
		changed := r.changed
		r.changed = make(chan struct{})
		r.mu.Unlock()
		close(changed)
	}
}

func (r *rig) publish(ctx context.Context) {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-pace.C
		began := time.Now()
		err := r.from.Publish(ctx, herald.Packet{Topic: "topic", Data: strconv.AppendInt(nil, int64(i), 10)})
		r.mu.Lock()
		r.stream = append(r.stream, published{began, time.Now(), err})
		r.mu.Unlock()
	}
}

// snapshot returns what was published, how often each arrived, and the gaps.
func (r *rig) snapshot() (stream []published, got map[int]int, gaps [][2]time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	got = map[int]int{}
	for _, e := range r.events {
		switch e.Kind {
		case herald.EventPacket:
			i, _ := strconv.Atoi(string(e.Packet.Data))
			got[i]++
		case herald.EventDown:
			gaps = append(gaps, [2]time.Time{e.Since, {}})
		case herald.EventRestored:
			gaps[len(gaps)-1][1] = e.at
		}
	}
	return r.stream[:len(r.stream):len(r.stream)], got, gaps
}

// await waits until done holds after an event.
func (r *rig) await(what string, done func() bool) {
	r.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			r.Fatalf("%s: not within %v; health %v", what, patience, r.to.Health())
		}
	}
}

func (r *rig) awaitGap() {
	r.Helper()
	r.await("EventDown", func() bool { _, _, gaps := r.snapshot(); return len(gaps) > 0 })
}

// check waits until the gap is over and all is well, and finds every packet
// that was lost in it.
func (r *rig) check() {
	r.Helper()
	r.await("EventRestored", func() bool {
		_, _, gaps := r.snapshot()
		return len(gaps) > 0 && !gaps[len(gaps)-1][1].IsZero()
	})
	r.await("good health", func() bool { return r.to.Health() == nil && r.from.Health() == nil })
	stream, _, _ := r.snapshot()
	first := len(stream)
	last := -1
	r.await("packets after the fault", func() bool {
		stream, got, gaps := r.snapshot()
		for i := len(stream) - 1; i >= first && last < 0; i-- {
			if stream[i].err == nil && got[i] > 0 && stream[i].began.After(gaps[len(gaps)-1][1]) {
				last = i
			}
		}
		return last >= 0
	})
	stream, got, gaps := r.snapshot()
	lost, outside := 0, 0
	for i, p := range stream[:last] {
		if got[i] > 1 {
			r.Errorf("packet %d arrived %d times", i, got[i])
		}
		if got[i] > 0 && p.err != nil && !errors.Is(p.err, herald.ErrUnknown) {
			r.Errorf("packet %d arrived, though it was not taken: %v", i, p.err)
		}
		if got[i] > 0 || p.err != nil {
			continue
		}
		lost++
		inside := false
		for _, g := range gaps {
			inside = inside || !p.ended.Before(g[0]) && (g[1].IsZero() || !p.began.After(g[1]))
		}
		if !inside {
			if outside++; outside > 5 {
				continue
			}
			r.Errorf("packet %d, published at %v, was lost outside of the gaps %v", i, p.began, gaps)
		}
	}
	if outside > 0 {
		r.Errorf("%d packets were lost outside of the gaps", outside)
	}
	r.Logf("%d packets, %d lost, gaps %v", last, lost, gaps)
}

func (r *rig) do(args ...any) {
	r.Helper()
	if err := r.admin.Do(context.Background(), args...).Err(); err != nil {
		r.Fatalf("%v: %v", args, err)
	}
}

// quick proves the links ten times a second.
var quick = &herald.RedisOptions{ProbeInterval: time.Second, ProbeTimeout: time.Second}

func TestRedisBusFaults(t *testing.T) {
	subscribed := func(r *rig) *netproxy.Pair { return r.proxy.Find("\r\nSUBSCRIBE\r\n") }
	for name, fault := range map[string]func(r *rig){
		"subscriber killed": func(r *rig) { killClients(r, r.server.Addr, "pubsub") },
		"subscriber killed again and again": func(r *rig) {
			for range 5 {
				killClients(r, r.server.Addr, "pubsub")
				r.await("life", func() bool { return r.to.Health() == nil })
			}
		},
		"cut":        func(r *rig) { r.proxy.Cut() },
		"black hole": func(r *rig) { r.proxy.Blackhole(true); r.awaitGap(); r.proxy.Blackhole(false) },
		"server killed, comes back empty": func(r *rig) {
			r.server.Kill()
			r.awaitGap()
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
		"server hangs": func(r *rig) { r.server.Pause(); r.awaitGap(); r.server.Continue() },
		"unsubscribed unasked": func(r *rig) {
			if err := subscribed(r).Inject([]byte("UNSUBSCRIBE herald:0:topic\r\n")); err != nil {
				r.Fatal(err)
			}
		},
		"subscription dead without a word": func(r *rig) {
			pair := subscribed(r)
			pair.Mute(true)
			if err := pair.Inject([]byte("UNSUBSCRIBE herald:0:topic\r\n")); err != nil {
				r.Fatal(err)
			}
			r.await("UNSUBSCRIBE", func() bool {
				return r.admin.PubSubNumSub(r.Context(), "herald:0:topic").Val()["herald:0:topic"] == 0
			})
			pair.Mute(false)
		},
		"master demoted": func(r *rig) {
			r.do("REPLICAOF", "127.0.0.1", "1")
			r.awaitGap()
			r.await("bad health", func() bool { return r.to.Health() != nil })
			r.do("REPLICAOF", "NO", "ONE")
		},
		"reset": func(r *rig) { r.to.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, quick)
			r.await("the first packets", func() bool { _, got, _ := r.snapshot(); return len(got) > 100 })
			fault(r)
			r.awaitGap()
			r.check()
		})
	}
}

// A Subscribe that is under way when the link breaks completes on the next.
func TestRedisBusSubscribeAcrossLinks(t *testing.T) {
	r := newRig(t, quick)
	r.proxy.Blackhole(true)
	result := make(chan error)
	go func() { result <- r.to.Subscribe(context.Background(), "new") }()
	r.awaitGap()
	r.proxy.Blackhole(false)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if err := r.from.Publish(t.Context(), herald.Packet{Topic: "new", Data: []byte("0")}); err != nil {
		t.Fatal(err)
	}
	r.await("the packet", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range r.events {
			if e.Packet.Topic == "new" {
				return true
			}
		}
		return false
	})
	r.proxy.Blackhole(true)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := r.to.Subscribe(ctx, "newer"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Subscribe without a link returned %v", err)
	}
}

// A PUBLISH whose reply is lost is one copy, and unknown.
func TestRedisBusReplyLost(t *testing.T) {
	server := redistest.Start(t)
	proxy := netproxy.Start(t, server.Addr)
	from := openRedis(t, proxy.Addr, 0, &herald.RedisOptions{ProbeInterval: -1, ProbeTimeout: time.Second})
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

// Whoever gives up while nothing was sent is told so.
func TestRedisBusPublishGivesUp(t *testing.T) {
	r := newRig(t, &herald.RedisOptions{ProbeInterval: -1, ProbeTimeout: 5 * time.Second})
	r.proxy.Blackhole(true)
	r.proxy.Find("PUBLISH").Cut()
	r.await("a dial", func() bool { return r.to.Health() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := r.to.Publish(ctx, herald.Packet{Topic: "topic"})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, herald.ErrUnknown) {
		t.Errorf("Publish while a link is dialed returned %v, want the context's error alone", err)
	}
}
