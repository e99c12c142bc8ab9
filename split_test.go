package herald

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A route joins two networks as one between two servers of a broker does: what
// is published on either comes to both, unless it is cut. No Bus knows of it.
type route struct {
	networks [2]*MemoryNetwork
	cut      atomic.Bool
}

func newRoute() *route {
	return &route{networks: [2]*MemoryNetwork{NewMemoryNetwork(), NewMemoryNetwork()}}
}

// A routedBus is on one side of the route.
type routedBus struct {
	*MemoryBus
	there *MemoryBus // on the other side
	route *route
}

func (r *route) bus(side int) *routedBus {
	return &routedBus{MemoryBus: r.networks[side].Bus(), there: r.networks[1-side].Bus(), route: r}
}

func (b *routedBus) Publish(ctx context.Context, packets ...Packet) error {
	err := b.MemoryBus.Publish(ctx, packets...)
	if err == nil && !b.route.cut.Load() {
		err = b.there.Publish(ctx, packets...)
	}
	return err
}

func (b *routedBus) Close() error { return errors.Join(b.there.Close(), b.MemoryBus.Close()) }

// A splitRig is two hubs with a route between them, a client at each, and an
// account of what they send to everyone.
type splitRig struct {
	*route
	rigs       []*rig
	registries []*MemoryRegistry

	mu   sync.Mutex
	gaps [2][]Gap
	got  [2]map[string]bool
	sent [2]map[string]time.Time
}

func newSplitRig(t *testing.T, later time.Duration) *splitRig {
	s := &splitRig{route: newRoute()}
	registry := NewMemoryRegistry()
	for side := range 2 {
		s.got[side], s.sent[side] = make(map[string]bool), make(map[string]time.Time)
		s.registries = append(s.registries, registry.Handle())
		config := Config{
			Name: fmt.Sprint("node", side), Bus: s.bus(side), Registry: s.registries[side], PingInterval: -1,
			OnGap: func(g Gap) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.gaps[side] = append(s.gaps[side], g)
			},
		}
		s.rigs = append(s.rigs, newPipeRig(t, config))
		ws := s.rigs[side].pipe(query(fmt.Sprint("user", side)))
		go func() {
			for {
				b, err := ws.ReadMessage()
				if err != nil {
					return
				}
				s.mu.Lock()
				s.got[side][string(b)] = true
				s.mu.Unlock()
			}
		}()
		if side == 0 {
			time.Sleep(later)
		}
	}
	return s
}

// send sends from both sides for d.
func (s *splitRig) send(t *testing.T, d time.Duration) {
	t.Helper()
	for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		for side, r := range s.rigs {
			at := time.Now()
			m := strconv.Itoa(side) + " " + at.Format(time.RFC3339Nano)
			if r.Send(t.Context(), Everyone(), Text(m)) == nil {
				s.sent[side][m] = at
			}
		}
	}
}

// unexplained counts the deliveries of which neither a client nor a Gap knows,
// and those that were lost in Gaps.
func (s *splitRig) unexplained() (silent, lost int) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for side := range 2 {
		for from := range 2 {
			for m, at := range s.sent[from] {
				if s.got[side][m] {
					continue
				}
				lost++
				covered := false
				for _, g := range s.gaps[side] {
					covered = covered || g.All && !at.Before(g.Since) && !at.After(g.Until)
				}
				if !covered {
					silent++
				}
			}
		}
	}
	return silent, lost - silent
}

// openOf returns the gap of every topic that is open, if any.
func openOf(h *Hub) *openGap {
	h.gaps.mu.Lock()
	defer h.gaps.mu.Unlock()
	return h.gaps.all
}

// Whatever a route swallows that no Bus knows of lies in a Gap: however long
// it is cut, and whenever the nodes renew their leases. While a long cut lasts
// the hubs are red; afterwards nothing stays open.
func TestCutRoute(t *testing.T) {
	for _, length := range []time.Duration{1500 * time.Millisecond, 4 * time.Second, 12 * time.Second, 45 * time.Second} {
		for phase := time.Duration(0); phase < 5*time.Second; phase += 500 * time.Millisecond {
			t.Run(fmt.Sprint(length, "/", phase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSplitRig(t, phase)
					s.send(t, 10*time.Second)
					s.cut.Store(true)
					s.send(t, length)
					for _, r := range s.rigs {
						if err := r.Health(); length > 20*time.Second && !errors.Is(err, ErrBusDown) {
							t.Errorf("%s, cut off for %v: Health: %v", r.NodeID(), length, err)
						}
					}
					s.cut.Store(false)
					s.send(t, 10*time.Second)
					silent, lost := s.unexplained()
					if silent > 0 || lost == 0 {
						t.Errorf("%d lost in Gaps, %d in none", lost, silent)
					}
					for side, r := range s.rigs {
						if err := r.Health(); err != nil {
							t.Errorf("%s: Health: %v", r.NodeID(), err)
						}
						if n := len(s.gaps[side]); n == 0 || n > 3 || openOf(r.Hub) != nil {
							t.Errorf("%s: %d gaps, open is %v", r.NodeID(), n, openOf(r.Hub))
						}
					}
				})
			})
		}
	}
}

// If a node is cut off from the Registry too, it is swept as dead; that it
// is heard again is a Gap all the same, on both sides.
func TestSweptAndHeardAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSplitRig(t, 0)
		s.send(t, 10*time.Second)
		s.cut.Store(true)
		s.registries[1].cut.Store(true)
		s.send(t, 5*s.rigs[0].config.Lease)
		nodes, _, err := s.registries[0].Nodes(t.Context())
		if err != nil || len(nodes) != 1 {
			t.Errorf("listed are %v, %v", nodes, err)
		}
		s.cut.Store(false)
		s.registries[1].cut.Store(false)
		s.send(t, 10*time.Second)
		if silent, lost := s.unexplained(); silent > 0 || lost == 0 {
			t.Errorf("%d lost in Gaps, %d in none", lost, silent)
		}
	})
}

// What a node hears of another's numbers, and the Gaps that it makes of it. A
// letter is a heartbeat whose number is its place in the alphabet; a dot is a
// second, ! a Down and a Restored of the Bus, - a lease that the node is not
// listed, and seems to be dead.
func TestNumbers(t *testing.T) {
	for heard, want := range map[string]int{
		"":              0,
		"a.b.c":         0,
		"a.a.b.b.c":     0, // published again
		"b.a.c":         0, // published again, and both came
		"a.c":           1,
		"a.c.d.f":       2,
		"g.h":           0, // it is older than this Hub
		"......a.b":     0,
		"......b":       1, // it is younger
		"a!b.c":         1, // the Bus' own
		"a!.c.d":        1, // the same
		"a.c!":          2,
		"a!.......c":    2, // missed after the Bus was well
		"a--------b.c":  0, // it was paused
		"a--------d":    1,
		"a.b!!c":        1, // those of the Bus share the wait for others
		"a---!------bd": 2,
	} {
		t.Run(heard, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gaps atomic.Int32
				h := newHub(t, Config{OnGap: func(g Gap) {
					if gaps.Add(1); !g.All || g.Since.After(g.Until) || g.Cause == nil {
						t.Errorf("%+v", g)
					}
				}})
				time.Sleep(100 * time.Millisecond) // apart from the Hub's own times
				for _, c := range heard {
					switch c {
					case '.':
						time.Sleep(time.Second)
					case '-':
						time.Sleep(h.config.Lease)
					case '!':
						h.bus.Reset()
					default:
						h.heartbeat.hear(&envelope{sender: "other", id: uint64(c - 'a' + 1)})
					}
					synctest.Wait()
				}
				time.Sleep(h.config.Lease)
				synctest.Wait()
				if n := int(gaps.Load()); n != want || openOf(h) != nil {
					t.Errorf("%d gaps, want %d; open is %v", n, want, openOf(h))
				}
			})
		})
	}
}

// Nodes that somebody makes up, or that come and go, take no memory for ever.
func TestPeersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, Config{})
		b := h.heartbeat
		size := func() (peers, gone int) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.peers), len(b.gone)
		}
		for round := range 5 {
			for i := range 2 * maxPeers {
				b.hear(&envelope{sender: fmt.Sprint("node", round, ".", i), id: 1})
			}
			if peers, _ := size(); peers > maxPeers+2 {
				t.Fatalf("%d peers", peers)
			}
			time.Sleep(2 * h.config.Lease)
			if peers, gone := size(); peers > 1 || gone > maxPeers {
				t.Fatalf("after silence: %d peers, %d gone", peers, gone)
			}
		}
		if err := h.Health(); err != nil {
			t.Error(err)
		}
	})
}

// One of many that is mute makes no other red, and does not hold back the
// reports of what others lose.
func TestOneMuteAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := NewMemoryNetwork(), NewMemoryRegistry()
		gaps := make(chan Gap, 100)
		muted := &muteBus{MemoryBus: network.Bus()}
		newHub(t, Config{Name: "mute", Bus: muted, Registry: registry.Handle()})
		var hubs []*Hub
		for i := range 3 {
			config := Config{Name: fmt.Sprint("node", i), Bus: network.Bus(), Registry: registry.Handle()}
			if i == 0 {
				config.OnGap = func(g Gap) { gaps <- g }
			}
			hubs = append(hubs, newHub(t, config))
		}
		time.Sleep(10 * time.Second)
		muted.mute.Store(true)
		time.Sleep(time.Minute)
		for _, h := range hubs {
			if err := h.Health(); err != nil {
				t.Errorf("%s: Health: %v", h.NodeID(), err)
			}
			if n := h.Stats().Resets; n != 1 {
				t.Errorf("%s: %d Resets", h.NodeID(), n)
			}
		}
		for len(gaps) > 0 {
			<-gaps
		}
		hubs[0].bus.Reset()
		time.Sleep(10 * time.Second)
		if len(gaps) == 0 {
			t.Error("a Gap of the Bus is not reported while a node is mute")
		}
		for len(gaps) > 0 {
			<-gaps
		}
		for _, number := range []uint64{1, 3} {
			hubs[0].heartbeat.hear(&envelope{sender: "other", id: number})
			time.Sleep(10 * time.Second)
		}
		if len(gaps) == 0 {
			t.Error("what was missed of another is not reported while a node is mute")
		}
	})
}
