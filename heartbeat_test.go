package herald

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A muteBus refuses to publish while it is mute.
type muteBus struct {
	*MemoryBus
	mute atomic.Bool
}

var errMute = errors.New("not allowed to publish")

func (b *muteBus) Publish(ctx context.Context, packets ...Packet) error {
	if b.mute.Load() {
		return errMute
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

// An ailingBus reports that it is not well, with an error that does not say whose
// it is.
type ailingBus struct{ *MemoryBus }

func (ailingBus) Health() error { return errMute }

// An ailingRegistry renews no lease after the first KeepAlive.
type ailingRegistry struct {
	*MemoryRegistry
	leases atomic.Int64
}

func (r *ailingRegistry) KeepAlive(ctx context.Context, n Node, lease time.Duration) (int64, error) {
	if r.leases.Add(1) > 1 {
		return 0, errMute
	}
	return r.MemoryRegistry.KeepAlive(ctx, n, lease)
}

// Health says whose error it is, even if the Bus or the Registry does not.
func TestHealthTellsWhose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Config{Bus: ailingBus{NewMemoryNetwork().Bus()}, Registry: &ailingRegistry{MemoryRegistry: NewMemoryRegistry()}})
		if err := h.Health(); !errors.Is(err, ErrBusDown) || errors.Is(err, ErrRegistryDown) {
			t.Errorf("an ailing Bus: %v", err)
		}
		time.Sleep(h.config.Lease)
		if err := h.Health(); !errors.Is(err, ErrBusDown) || !errors.Is(err, ErrRegistryDown) {
			t.Errorf("an ailing Registry too: %v", err)
		}
	})
}

// A Bus that cannot publish turns Health red without its own report, until it can
// again.
func TestHealthOfABusThatCannotPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &muteBus{MemoryBus: NewMemoryNetwork().Bus()}
		h := newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry()})
		for range 3 {
			bus.mute.Store(true)
			time.Sleep(2 * h.config.ProbeInterval)
			if err := h.Health(); !errors.Is(err, errMute) || !errors.Is(err, ErrBusDown) {
				t.Errorf("mute: Health: %v", err)
			}
			bus.mute.Store(false)
			time.Sleep(h.config.ProbeTimeout)
			if err := h.Health(); err != nil {
				t.Errorf("able again: Health: %v", err)
			}
		}
		if n := h.Stats().Resets; n != 0 {
			t.Errorf("%d Resets", n)
		}
	})
}

// A beatingBus counts the packets that are published to the topic of heartbeats.
type beatingBus struct {
	*MemoryBus
	beats atomic.Int64
}

func (b *beatingBus) Publish(ctx context.Context, packets ...Packet) error {
	for _, p := range packets {
		if p.Topic == topicHeartbeat {
			b.beats.Add(1)
		}
	}
	return b.MemoryBus.Publish(ctx, packets...)
}

// ProbeInterval is the time between two heartbeats.
func TestProbeIntervalIsTheInterval(t *testing.T) {
	for interval, want := range map[time.Duration]int64{0: 60, 2 * time.Second: 30, -1: 0} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bus := &beatingBus{MemoryBus: NewMemoryNetwork().Bus()}
				newHub(t, Config{Bus: bus, Registry: NewMemoryRegistry(), ProbeInterval: interval})
				synctest.Wait()
				before := bus.beats.Load()
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := bus.beats.Load() - before; got != want {
					t.Errorf("%d heartbeats in a minute, want %d", got, want)
				}
			})
		})
	}
}

// A tellingBus delivers nothing. It keeps the envelopes that it was asked to
// publish, even while it is mute.
type tellingBus struct {
	Bus
	mute   atomic.Bool
	resets atomic.Int32

	mu    sync.Mutex
	tried []envelope
}

func (b *tellingBus) Publish(_ context.Context, packets ...Packet) error {
	for _, p := range packets {
		e, err := decodeEnvelope(p.Data, maxEnvelopeInTests)
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.tried = append(b.tried, e)
		b.mu.Unlock()
	}
	if b.mute.Load() {
		return errMute
	}
	return nil
}

// said returns the envelopes that the Bus was asked to publish.
func (b *tellingBus) said() []envelope {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.tried)
}

func (b *tellingBus) Reset() { b.resets.Add(1) }

const maxEnvelopeInTests = 1 << 10

// newHeartbeatAlone returns a heartbeat that belongs to no Hub. It sends rarely,
// and rarely checks what must have been heard of others.
func newHeartbeatAlone() (*heartbeat, *tellingBus) {
	config := &Config{ProbeInterval: 1000 * time.Second, ProbeTimeout: 8 * time.Second, Lease: 100_000 * time.Second}
	bus := new(tellingBus)
	return newHeartbeat("n", config, bus, newGapsAlone(slog.DiscardHandler, nil), new(counters)), bus
}

// The interval is ProbeInterval, at most a sixth of a lease. With many nodes it
// grows, so that a node hears one heartbeat in 50 ms.
func TestHeartbeatInterval(t *testing.T) {
	for _, test := range []struct {
		probe, lease time.Duration
		live         int
		want         time.Duration
	}{
		{time.Second, 15 * time.Second, 3, time.Second},
		{10 * time.Second, 15 * time.Second, 3, 2500 * time.Millisecond},
		{time.Second, 15 * time.Second, 20, time.Second},
		{time.Second, 15 * time.Second, 100, 5 * time.Second},
	} {
		b, _ := newHeartbeatAlone()
		b.config.ProbeInterval, b.config.Lease, b.live = test.probe, test.lease, test.live
		if got := b.interval(); got != test.want {
			t.Errorf("every %v, a lease of %v and %d nodes: %v, want %v", test.probe, test.lease, test.live, got, test.want)
		}
	}
}

// A node that is only listed is not real. It is real if it was heard, has answered
// a call or has entries. Without heartbeats, every listed node is.
func TestHeartbeatUnheard(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		do            func(*heartbeat)
		mute          bool
		unheard, real bool
	}{
		"listed":             {do: func(*heartbeat) {}, unheard: true},
		"listed, and mute":   {do: func(*heartbeat) {}, mute: true, unheard: true, real: true},
		"heard":              {do: func(b *heartbeat) { b.hear(&envelope{sender: "m", id: 1}) }, real: true},
		"has answered":       {do: func(b *heartbeat) { b.answered("m") }, real: true},
		"has entries":        {do: func(b *heartbeat) { b.holds("m", true) }, unheard: true, real: true},
		"has none, and mute": {do: func(b *heartbeat) { b.holds("m", false) }, mute: true, unheard: true, real: true},
		"has none any more":  {do: func(b *heartbeat) { b.holds("m", true); b.holds("m", false) }, unheard: true},
		"another one":        {do: func(b *heartbeat) { b.answered("x"); b.holds("x", true) }, unheard: true},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newHeartbeatAlone()
			if test.mute {
				b.config.ProbeInterval = off
			}
			b.listed([]Node{
				{ID: "n", Generation: 1, Alive: true, Renewed: now, TTL: time.Hour},
				{ID: "m", Generation: 7, Alive: true, Renewed: now, TTL: time.Hour},
			}, now, clock.Now())
			test.do(b)
			want := map[string]Lease{}
			if test.unheard {
				want["m"] = Lease{"m", 7}
			}
			if got := b.unheard(); !maps.Equal(got, want) {
				t.Errorf("unheard are %v, want %v", got, want)
			}
			if got := b.peers["m"].real(); got != test.real {
				t.Errorf("real: %v", got)
			}
		})
	}
}

// Heartbeats begin with announce and go out at their interval. One that the Bus has
// refused is repeated sooner, under the same number.
func TestHeartbeatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bus := newHeartbeatAlone()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.run(ctx)
		said := 0
		expect := func(when string, ids ...uint64) {
			t.Helper()
			synctest.Wait()
			var got []uint64
			for _, e := range bus.said()[said:] {
				got = append(got, e.id)
			}
			if said = len(bus.said()); !slices.Equal(got, ids) {
				t.Errorf("%s: heartbeats %v, want %v", when, got, ids)
			}
		}
		time.Sleep(time.Hour)
		expect("before it has a lease")
		b.announce(7)
		expect("with the lease", 1)
		if bus.said()[0].whole != 7 || bus.said()[0].sender != "n" {
			t.Errorf("it says %+v", bus.said()[0])
		}
		time.Sleep(b.interval() - 1)
		expect("a moment before the next")
		time.Sleep(time.Nanosecond)
		expect("an interval later", 2)
		bus.mute.Store(true)
		time.Sleep(b.interval())
		expect("mute", 3)
		if b.failing() != errMute {
			t.Errorf("failing: %v", b.failing())
		}
		time.Sleep(2*time.Second - 1)
		expect("a moment before it is repeated")
		time.Sleep(time.Nanosecond)
		expect("repeated", 3)
		b.tellLost()
		expect("told", 3)
		bus.mute.Store(false)
		time.Sleep(2 * time.Second)
		expect("taken", 3)
		time.Sleep(b.interval())
		expect("the next", 4)
		if n := len(bus.said()); bus.said()[n-3].notice != noticeLost || bus.said()[n-2].notice != noticeLost || bus.said()[n-1].notice != 0 || b.failing() != nil {
			t.Errorf("the loss is told by %+v; failing: %v", bus.said()[n-3:], b.failing())
		}
	})
}

// The oldest heartbeat that the Bus has taken is awaited. If it does not come back
// in time, that makes a gap since the last one that did, unless the Bus reports one
// itself.
func TestHeartbeatIsAwaited(t *testing.T) {
	for _, told := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b, bus := newHeartbeatAlone()
			made := time.Now()
			time.Sleep(time.Hour)
			if b.checkOwn() {
				t.Error("missed, before one was sent")
			}
			bus.mute.Store(true)
			if b.send(t.Context(), 0); b.sent != 0 {
				t.Error("awaited, though it was not taken")
			}
			bus.mute.Store(false)
			b.send(t.Context(), 0)
			first := b.sent
			time.Sleep(time.Second)
			bus.mute.Store(true)
			b.send(t.Context(), 0)
			bus.mute.Store(false)
			if b.send(t.Context(), 0); b.sent != first || first == 0 {
				t.Errorf("awaited is that of %d, want %d", b.sent, first)
			}
			time.Sleep(b.config.ProbeTimeout + heartbeatGrace - time.Second)
			if b.checkOwn() {
				t.Error("missed too early")
			}
			time.Sleep(time.Nanosecond)
			if told {
				b.gaps.down(Event{Err: errMute})
			}
			if b.checkOwn() == told {
				t.Errorf("told by the Bus %v: missed %v", told, !told)
			}
			if told {
				return
			}
			if b.sent != 0 || b.checkOwn() || !errors.Is(b.failing(), ErrBusDown) {
				t.Errorf("missed: awaited is %d, failing %v", b.sent, b.failing())
			}
			if b.gaps.held != bySilence || !b.gaps.all.since.Equal(made) {
				t.Errorf("the gap is %+v, by %b", b.gaps.all, b.gaps.held)
			}
		})
	}
}

// watch looks at the clock only now and then, but notices a missed heartbeat in
// time, and resets the Bus once.
func TestHeartbeatWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bus := newHeartbeatAlone()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		b.send(ctx, 0)
		go b.watch(ctx)
		due := b.config.ProbeTimeout + heartbeatGrace
		time.Sleep(due)
		if synctest.Wait(); bus.resets.Load() != 0 {
			t.Error("reset too early")
		}
		time.Sleep(b.config.ProbeTimeout / 4)
		if synctest.Wait(); bus.resets.Load() != 1 || b.stats.resets.Load() != 1 {
			t.Errorf("%d resets, %d counted", bus.resets.Load(), b.stats.resets.Load())
		}
		time.Sleep(time.Hour)
		if synctest.Wait(); bus.resets.Load() != 1 {
			t.Errorf("%d resets", bus.resets.Load())
		}
	})
}

// The Hub knows whether some node does not keep its messages in a log. It is told
// when the first such node is heard, and when the last has gone. One that the
// Registry does not list is gone a lease after it was heard.
func TestHeartbeatMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		const lease = 100 * time.Second
		logger, lines := newLog()
		b.config.Lease, b.config.Retention, b.config.Logger = lease, time.Hour, logger
		var remixed atomic.Int32
		b.remix = func() { remixed.Add(1) }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.watch(ctx)
		expect := func(when string, mixed bool, want int32) {
			t.Helper()
			if synctest.Wait(); (b.plainNode() != "") != mixed || remixed.Load() != want {
				t.Errorf("%s: plain node %q, told %d times, want %v and %d", when, b.plainNode(), remixed.Load(), mixed, want)
			}
		}
		look := b.config.ProbeTimeout / 4
		hear := func(node string, id uint64, notice notice) {
			b.hear(&envelope{sender: node, id: id, notice: notice})
			time.Sleep(look)
		}
		time.Sleep(look)
		expect("alone", false, 0)
		b.listed([]Node{{ID: "m", Generation: 7, Alive: true, Renewed: time.Now(), TTL: time.Hour}}, time.Now(), clock.Now())
		time.Sleep(look)
		expect("one is listed and was never heard", false, 0)
		hear("m", 1, noticeKeeps)
		expect("it keeps what it sends", false, 0)
		hear("m", 2, 0)
		expect("it does not", true, 1)
		time.Sleep(2 * lease)
		expect("it is listed still", true, 1)
		hear("m", 3, noticeKeeps)
		expect("it keeps again", false, 2)
		hear("x", 1, 0)
		expect("another one", true, 3)
		time.Sleep(lease - 2*look)
		expect("nearly a lease ago", true, 3)
		time.Sleep(look)
		expect("a lease ago", false, 4)
		hear("y", 1, 0)
		hear("z", 1, 0)
		expect("two", true, 5)
		hear("y", 2, noticeLeaving)
		expect("one of them says goodbye", true, 5)
		hear("z", 2, noticeLeaving)
		expect("and the other", false, 6)
		if got := told(lines, "keeps nothing"); got != 3 {
			t.Errorf("logged %d times that a node keeps nothing, want 3", got)
		}
	})
}

// A node without a Retention logs, once, that others have one.
func TestHeartbeatWithoutRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		logger, lines := newLog()
		b.config.Logger = logger
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.watch(ctx)
		for i, test := range []struct {
			node   string
			notice notice
			want   int // new lines
		}{{"m", 0, 0}, {"k", noticeKeeps | noticeLeaving, 0}, {"k", noticeKeeps, 1}, {"l", noticeKeeps, 0}} {
			b.hear(&envelope{sender: test.node, id: uint64(i + 1), notice: test.notice})
			time.Sleep(b.config.ProbeTimeout / 4)
			synctest.Wait()
			if got := told(lines, "this node has no Retention"); got != test.want {
				t.Errorf("after heartbeat %d: logged %d times, want %d", i+1, got, test.want)
			}
		}
	})
}

// A heartbeat without a name, which anybody can make up, hides no other node.
func TestHeartbeatWithoutName(t *testing.T) {
	b, _ := newHeartbeatAlone()
	b.hear(&envelope{id: 1})
	b.hear(&envelope{sender: "m", id: 1})
	for range 100 { // in any order
		if got := b.one(func(p *peer) bool { return p.heard != 0 }); got != "m" {
			t.Fatalf("found %q", got)
		}
	}
}

// versions has the version that a node was listed with. It is not known for a node
// that was only heard, nor for this one before it is listed.
func TestHeartbeatVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		b.listed([]Node{
			{ID: "listed", Version: 2, Generation: 7, Alive: true, Renewed: time.Now(), TTL: time.Hour},
			{ID: "dead", Version: 2, Generation: 7},
		}, time.Now(), clock.Now())
		b.hear(&envelope{sender: "heard", id: 1})
		if got, want := b.versions(), map[string]int{b.node: 0, "listed": 2, "heard": 0}; !maps.Equal(got, want) {
			t.Errorf("versions %v, want %v", got, want)
		}
	})
}

// The others are told of losses at most once a second.
func TestHeartbeatTellsLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		for _, step := range []struct {
			pause time.Duration
			want  notice
		}{{0, noticeLost}, {0, 0}, {time.Second - 1, 0}, {1, noticeLost}, {999 * time.Millisecond, 0}, {time.Hour, noticeLost}} {
			time.Sleep(step.pause)
			if b.tellLost(); b.notice != step.want {
				t.Errorf("after %v the notice is %b", step.pause, b.notice)
			}
			b.send(t.Context(), 0)
		}
	})
}

// A node that leaves waits a moment for its goodbye to come back, if the Bus has
// taken it.
func TestHeartbeatLeaves(t *testing.T) {
	for name, test := range map[string]struct {
		mute, back bool
		want       time.Duration
	}{"taken": {want: heartbeatGrace}, "mute": {mute: true}, "back": {back: true, want: 10 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			b, bus := newHeartbeatAlone()
			bus.mute.Store(test.mute)
			if test.back {
				time.AfterFunc(test.want, func() { b.hear(&envelope{kind: kindHeartbeat, sender: "n", id: 1, notice: noticeLeaving}) })
			}
			began := time.Now()
			b.leave(t.Context())
			if took := time.Since(began); took != test.want || bus.said()[0].notice != noticeLeaving {
				t.Errorf("%s: it took %v, and said %b", name, took, bus.said()[0].notice)
			}
		})
	}
}

// wall converts a moment on clock to a time, which is not before the heartbeat was
// made.
func TestHeartbeatWall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newHeartbeatAlone()
		made := time.Now()
		time.Sleep(time.Hour)
		for ago, want := range map[time.Duration]time.Time{0: time.Now(), time.Minute: time.Now().Add(-time.Minute), time.Hour: made, time.Hour + 1: made} {
			if got := b.wall(clock.Now() - int64(ago)); !got.Equal(want) {
				t.Errorf("%v ago was %v, want %v", ago, got, want)
			}
		}
	})
}

// If probes are off, no heartbeats are sent.
func TestHeartbeatOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, bus := newHeartbeatAlone()
		b.config.ProbeInterval = off
		b.wake.Set()
		b.run(t.Context())
		b.watch(t.Context())
		if len(bus.said()) != 0 {
			t.Errorf("%d heartbeats", len(bus.said()))
		}
	})
}

// Made-up nodes are forgotten, and hide no real one.
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

// A gap that waits to hear from a node ends when that node is forgotten.
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
		// Half a lease later the node is no longer believed to live. Just then the
		// nodes are listed, a moment after the Bus was restored.
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

// A journal keeps what is logged at Info or above.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(p))
	return len(p), nil
}

// count returns how many lines have text since the last call of cut.
func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, line := range j.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// cut forgets the lines, and returns them.
func (j *journal) cut() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := strings.Join(j.lines, "")
	j.lines = nil
	return all
}

// A Hub whose Redis refuses commands says so: in Health, in the error of each call,
// and once in the log. The log also says once that all is well again.
func TestHubWhileRedisRefuses(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	do := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			var args []any
			for _, word := range strings.Fields(line) {
				args = append(args, word)
			}
			if err := admin.Do(t.Context(), args...).Err(); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	const well = "ACL SETUSER app reset on >old ~* &* +@all"
	do(well)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "app", Password: "old"})
	t.Cleanup(func() { client.Close() })
	log := new(journal)
	r := newRig(t, Config{Redis: client, Lease: 6 * time.Second, ProbeInterval: time.Second / 10, ProbeTimeout: 2 * time.Second,
		Logger: slog.New(slog.NewTextHandler(log, nil))})
	r.connect("user=a&groups=g")
	registry := map[string]func(context.Context) error{
		"Online":     func(ctx context.Context) error { _, err := r.Online(ctx, "a"); return err },
		"Sessions":   func(ctx context.Context) error { _, err := r.Sessions(ctx, User("a")); return err },
		"Count":      func(ctx context.Context) error { _, err := r.Count(ctx); return err },
		"Nodes":      func(ctx context.Context) error { _, err := r.Nodes(ctx); return err },
		"Join":       func(ctx context.Context) error { return r.Join(ctx, User("a"), "other") },
		"Disconnect": func(ctx context.Context) error { return r.Disconnect(ctx, User("b"), 4000, "") },
	}
	send := map[string]func(context.Context) error{
		"Send": func(ctx context.Context) error { return r.Send(ctx, User("a"), Text("x")) },
	}
	const (
		busDown, busBack           = `msg="herald: the Bus does not work"`, `msg="herald: the Bus works again"`
		lossBegun, loss            = `msg="herald: messages may be getting lost"`, `msg="herald: messages may have been lost"`
		registryDown, registryBack = `msg="herald: the Registry is down"`, `msg="herald: the Registry is back"`
	)
	for _, test := range []struct {
		name       string
		begin, end []string
		word       string
		down       []error
		calls      []map[string]func(context.Context) error
		during     []string // lines of the log, once each
		after      []string
	}{
		{"password changed", []string{"ACL SETUSER app resetpass >new", "CLIENT KILL USER app"}, []string{well}, "WRONGPASS",
			[]error{ErrBusDown, ErrRegistryDown}, []map[string]func(context.Context) error{registry, send},
			[]string{lossBegun, registryDown}, []string{loss, registryBack}},
		{"no PUBLISH", []string{"ACL SETUSER app -publish"}, []string{well}, "NOPERM",
			[]error{ErrBusDown}, []map[string]func(context.Context) error{send},
			[]string{busDown}, []string{busBack}},
		{"no SUBSCRIBE", []string{"ACL SETUSER app -subscribe"}, []string{well}, "NOPERM",
			[]error{ErrBusDown}, nil,
			[]string{busDown}, []string{busBack}},
		{"no HSCAN", []string{"ACL SETUSER app -hscan"}, []string{well}, "NOPERM",
			[]error{ErrRegistryDown}, []map[string]func(context.Context) error{registry},
			[]string{registryDown}, []string{registryBack}},
	} {
		t.Run(test.name, func(t *testing.T) {
			await(t, "health", func() bool { return r.Health() == nil })
			log.cut()
			do(test.begin...)
			for _, down := range test.down {
				await(t, down.Error(), func() bool {
					err := r.Health()
					return errors.Is(err, down) && strings.Contains(err.Error(), test.word)
				})
			}
			for _, calls := range test.calls {
				for name, call := range calls {
					err := call(t.Context())
					t.Logf("%s | %s | %v", name, test.name, err)
					if !errors.Is(err, ErrRegistryDown) && !errors.Is(err, ErrBusDown) || !strings.Contains(err.Error(), test.word) {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			for _, line := range test.during {
				await(t, line, func() bool { return log.count(line) > 0 })
			}
			do(test.end...)
			await(t, "health", func() bool { return r.Health() == nil })
			for _, line := range test.after {
				await(t, line, func() bool { return log.count(line) > 0 })
			}
			all := append(test.during, test.after...)
			for _, line := range all {
				if n := log.count(line); n != 1 {
					t.Errorf("%s: logged %d times", line, n)
				}
			}
			// Calls that were running when the connections were closed do not know
			// the reason.
			if text := log.cut(); !strings.Contains(text, test.word) && test.name != "password changed" {
				t.Errorf("%s is not in the log:\n%s", test.word, text)
			} else if t.Failed() {
				t.Log(text)
			}
			if online, err := r.Online(t.Context(), "a"); err != nil || !online["a"] {
				t.Errorf("afterwards: online %v, %v", online, err)
			}
		})
	}
}
