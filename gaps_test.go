package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A packet that cannot be understood makes a Gap for everyone whom its topic
// concerns, since the Bus last proved that it works.
func TestMalformedMakesGap(t *testing.T) {
	got := make(chan Gap, 1)
	r := newRig(t, Config{OnGap: func(g Gap) { got <- g }})
	ws := r.connect("user=a&groups=g")
	defer ws.Close()
	newer := (&envelope{kind: kindMessage, message: Text("x")}).encode()
	newer[0] = envelopeVersion + 1
	for _, data := range [][]byte{newer, newer[:2], nil} {
		for topic, want := range map[string]Gap{
			r.nodeTopic:     {All: true},
			topicHeartbeat:  {All: true},
			userTopic("a"):  {Users: []string{"a"}},
			groupTopic("g"): {Groups: []string{"g"}},
			topicEveryone:   {Everyone: true},
		} {
			before := time.Now()
			if err := r.bus.Publish(t.Context(), Packet{topic, data}); err != nil {
				t.Fatal(err)
			}
			var g Gap
			select {
			case g = <-got:
			case <-time.After(patience):
				t.Fatalf("a packet of topic %q makes no Gap", topic)
			}
			if g.All != want.All || g.Everyone != want.Everyone || !slices.Equal(g.Users, want.Users) || !slices.Equal(g.Groups, want.Groups) {
				t.Errorf("a packet of topic %q makes %+v", topic, g)
			}
			if g.Since.After(before) || g.Until.Before(before) || g.Cause == nil {
				t.Errorf("sent at %v, the Gap is %+v", before, g)
			}
		}
	}
}

// A lost heartbeat is no lost message, so it makes no Gap.
func TestHeartbeatIsNoGap(t *testing.T) {
	h := newHub(t, Config{})
	g := newGaps(h.index.nameOf, &h.stats, h.config.Logger, nil)
	since := time.Now()
	g.down(Event{Kind: EventDown, Topics: []string{topicHeartbeat, "uX"}, Since: since, Err: errors.New("down")})
	if g.failing() == nil {
		t.Error("a hub without heartbeats is healthy")
	}
	g.restored(Event{Kind: EventRestored, Topics: []string{"uX"}})
	g.restored(Event{Kind: EventRestored, Topics: []string{topicHeartbeat}})
	if len(g.over) != 1 || g.over[0].All || !g.over[0].Since.Equal(since) {
		t.Errorf("reported are %+v, want a gap of one user", g.over)
	}
}

// If the Bus tells of a loss that the log cannot know of, the Hub reports it from
// its beginning, even if the log looks whole and has proved itself since. The log
// makes up for other losses.
func TestHiddenLossIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Gap
		bus := NewMemoryNetwork().Bus()
		h := newHub(t, Config{
			Bus: bus, Registry: NewMemoryRegistry(), Retention: time.Hour,
			OnGap: func(g Gap) { told = append(told, g) },
		})
		time.Sleep(time.Minute) // fences are heard meanwhile
		since := time.Now().Add(-30 * time.Second)
		for _, hidden := range []bool{false, true, false} {
			told = nil
			bus.inbox.Down(Event{Kind: EventDown, Since: since, Err: errors.New("down"), hidden: hidden})
			bus.inbox.Restore()
			time.Sleep(time.Minute)
			synctest.Wait()
			if !hidden && len(told) > 0 || hidden && (len(told) != 1 || told[0].Since.After(since) || !told[0].All) {
				t.Errorf("hidden %v: told are %+v", hidden, told)
			}
		}
		h.Shutdown(t.Context())
	})
}

// While a slot of a Cluster moves, commands that name a key which does not exist
// there are refused. So the logs of a RedisBus name no such key, not even the next
// segment when they have read the last one to its end.
func TestSurveyWhileSlotMoves(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0, redistest.NeverFailed...)
	bus, err := NewRedisBus(cluster.Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const size = 4
	logs, err := bus.keep(ctx, "f", store.Limits{Segment: size, Age: patience.Milliseconds(), Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.close()

	partition := logs.partition("a")
	log := logs.parts[partition]
	begin, err := log.Fence(ctx, history.Point{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	batch := make([]store.Draft, size)
	for i := range batch {
		batch[i] = store.Draft{Topics: []string{"a"}, Body: packet.Body([]byte("body"))}
	}
	reply, err := log.Append(ctx, begin, 0, batch)
	if err != nil || reply.Outcome != store.Taken || reply.End.Offset != size {
		t.Fatalf("%+v, %v", reply, err)
	}

	slot := cluster.Slot(bus.bus.Shards()[partition].Slot)
	from := cluster.MasterOf(slot)
	for _, to := range cluster.Nodes {
		if to != from {
			cluster.BeginMigration(slot, to)
		}
	}
	s, err := log.Survey(ctx, reply.End, begin, []string{"a"}, 2*size)
	if err != nil || !s.Whole || len(s.Offsets) != size {
		t.Errorf("%+v, %v", s, err)
	}
}

// While a node is silent, the whole time is reported, for every topic, in whatever
// order the events of the Bus come. U and u are the Down and the Restored of a
// user's topic, G and g of a group's, H and h of the heartbeat's, A and a of all.
func TestSilenceInEveryOrder(t *testing.T) {
	h := newHub(t, Config{})
	kinds := map[rune]Event{
		'U': {Kind: EventDown, Topics: []string{"uX"}}, 'u': {Kind: EventRestored, Topics: []string{"uX"}},
		'G': {Kind: EventDown, Topics: []string{"gX"}}, 'g': {Kind: EventRestored, Topics: []string{"gX"}},
		'H': {Kind: EventDown, Topics: []string{topicHeartbeat}}, 'h': {Kind: EventRestored, Topics: []string{topicHeartbeat}},
		'A': {Kind: EventDown}, 'a': {Kind: EventRestored},
	}
	hourAgo := time.Now().Add(-time.Hour)
	try := func(order string, from, to int) func(*testing.T) {
		return func(t *testing.T) {
			g := newGaps(h.index.nameOf, &h.stats, h.config.Logger, nil)
			say := func(order string) {
				for _, kind := range order {
					e := kinds[kind]
					if e.Kind == EventDown {
						e.Since = time.Now()
						g.down(e)
					} else {
						g.restored(e)
					}
				}
			}
			say(order[:from])
			for _, later := range []time.Duration{time.Minute, 0, time.Second} {
				g.hold(bySilence, hourAgo.Add(later), errors.New("silent"))
			}
			say(order[from:to])
			heard := time.Now()
			g.release(bySilence)
			say(order[to:])
			// It may be reported as several Gaps, one after the other, but without
			// a hole.
			since := hourAgo
			for _, gap := range g.over {
				if gap.All && !gap.Since.After(since) && gap.Until.After(since) {
					since = gap.Until
				}
			}
			if since.Before(heard) {
				t.Errorf("reported are %+v, nothing from %v on", g.over, since)
			}
			if g.all != nil || g.held != 0 || len(g.topics) != 0 {
				t.Errorf("open are %v by %b, %v", g.all, g.held, g.topics)
			}
			// The silence is over: later Gaps do not reach back to it.
			g.over = nil
			say("UuAa")
			for _, gap := range g.over {
				if gap.Since.Before(hourAgo.Add(time.Minute)) {
					t.Errorf("a later Gap goes back: %+v", gap)
				}
			}
		}
	}
	for _, order := range []string{"Aa", "AAa", "AaAa", "UuAa", "UAa", "UAua", "UAau", "AUua", "UGguAa", "UuGg", "UGug", "Hh", "HUhu", "HhUu"} {
		for to := range len(order) + 1 {
			for from := range to + 1 {
				t.Run(fmt.Sprint(order[:from], "(", order[from:to], ")", order[to:]), try(order, from, to))
			}
		}
	}
}

// newGapsAlone returns gaps that belong to no Hub.
func newGapsAlone(log slog.Handler, tell func(Gap)) *gaps {
	return newGaps(func(string) (string, bool) { return "", false }, new(counters), slog.New(log), tell)
}

// If one gap too many waits to be told, all are joined into one that covers them.
func TestGapsAreJoined(t *testing.T) {
	g := newGapsAlone(slog.DiscardHandler, nil)
	since := time.Now().Add(-time.Hour)
	for i := range maxGaps {
		if len(g.over) != i {
			t.Fatalf("of %d gaps %d wait", i, len(g.over))
		}
		g.missed(since.Add(time.Duration(i%7-3)*time.Second), false, errors.New("missed"))
	}
	if len(g.over) != maxGaps {
		t.Errorf("of %d gaps %d wait", maxGaps, len(g.over))
	}
	g.down(Event{Kind: EventDown, Topics: []string{"uX"}})
	g.restored(Event{Kind: EventRestored, Topics: []string{"uX"}})
	if len(g.over) != 1 || !g.over[0].All || !g.over[0].Since.Equal(since.Add(-3*time.Second)) || g.over[0].Until.Before(since.Add(time.Hour)) {
		t.Errorf("one more makes %d of them: %+v", len(g.over), g.over)
	}
}

// Events of the Bus decide whether the node is well, and whether heartbeats can be
// expected. A node's silence decides neither.
func TestGapsFailingAndDeaf(t *testing.T) {
	down := func(topics ...string) func(*gaps) {
		return func(g *gaps) { g.down(Event{Kind: EventDown, Topics: topics, Err: errors.New("it burns")}) }
	}
	for name, test := range map[string]struct {
		do            func(*gaps)
		failing, deaf bool
	}{
		"nothing":       {do: func(*gaps) {}},
		"silence":       {do: func(g *gaps) { g.hold(bySilence, time.Now(), errors.New("it burns")) }},
		"all":           {do: down(), failing: true, deaf: true},
		"a user":        {do: down("uX"), failing: true},
		"heartbeats":    {do: down(topicHeartbeat), failing: true, deaf: true},
		"all and ended": {do: func(g *gaps) { down()(g); g.restored(Event{Kind: EventRestored}) }},
		"all and lingering": {do: func(g *gaps) {
			down()(g)
			g.linger()
			g.restored(Event{Kind: EventRestored})
			if g.all == nil || g.held != byEcho {
				t.Errorf("held by %b", g.held)
			}
		}},
		"nothing to linger": {do: func(g *gaps) {
			if g.linger(); g.held != 0 {
				t.Errorf("held by %b", g.held)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGapsAlone(slog.DiscardHandler, nil)
			test.do(g)
			if err := g.failing(); test.failing != (err != nil) || err != nil && (!errors.Is(err, ErrBusDown) || !strings.Contains(err.Error(), "it burns")) {
				t.Errorf("failing: %v", err)
			}
			if g.deaf() != test.deaf {
				t.Errorf("deaf: %v", g.deaf())
			}
		})
	}
}

// A loss that is excused, because the Bus has told of it, makes no second gap. If a
// gap of all topics is open, it is extended.
func TestGapsMissed(t *testing.T) {
	hourAgo := time.Now().Add(-time.Hour)
	for _, excused := range []bool{false, true} {
		g := newGapsAlone(slog.DiscardHandler, nil)
		if g.missed(hourAgo, excused, errors.New("missed")); len(g.over) == 0 != excused {
			t.Errorf("excused %v: %+v", excused, g.over)
		}
		g = newGapsAlone(slog.DiscardHandler, nil)
		g.hold(byBus, hourAgo.Add(time.Minute), errors.New("down"))
		g.missed(hourAgo, excused, errors.New("missed"))
		if g.release(bySilence); len(g.over) != 0 {
			t.Errorf("excused %v: %+v is over before the Bus is restored", excused, g.over)
		}
		if g.release(byBus); len(g.over) != 1 || !g.over[0].Since.Equal(hourAgo) {
			t.Errorf("excused %v: %+v", excused, g.over)
		}
	}
}

// The log makes up for what the Bus says that it lost. It cannot know of losses
// that show only as a silent node or a missed heartbeat, so these are in doubt.
// They are told only if the log could not make up for them.
func TestGapsInDoubt(t *testing.T) {
	hourAgo := time.Now().Add(-time.Hour)
	g := newGapsAlone(slog.DiscardHandler, nil)
	g.doubt = func(time.Time) {}
	expect := func(when string, doubted bool) {
		t.Helper()
		if g.doubted.IsZero() == doubted {
			t.Errorf("%s: in doubt since %v", when, g.doubted)
		}
		if len(g.over) > 0 {
			t.Errorf("%s: told are %+v", when, g.over)
		}
		g.doubted = time.Time{}
	}
	bus := func() {
		g.down(Event{Kind: EventDown, Since: hourAgo, Err: errors.New("it burns")})
		g.linger()
		g.restored(Event{Kind: EventRestored})
		g.release(byEcho)
	}
	bus()
	expect("the Bus was down", false)
	g.hold(bySilence, hourAgo, errors.New("it sleeps"))
	g.part()
	expect("a node is silent", true)
	g.part()
	expect("it still is", true)
	bus()
	expect("and the Bus was down", true)
	g.release(bySilence)
	expect("it is heard", true)
	bus()
	expect("the Bus was down again", false)
	g.missed(hourAgo, false, errors.New("a heartbeat was missed"))
	if !g.doubted.Equal(hourAgo) {
		t.Errorf("in doubt since %v", g.doubted)
	}
	expect("a heartbeat was missed", true)
	g.confirm(hourAgo)
	if len(g.over) != 1 || !g.over[0].Since.Equal(hourAgo) || !g.over[0].All || g.over[0].Cause == nil || g.over[0].Cause.Error() != "a heartbeat was missed" {
		t.Errorf("the log could not fill it: %+v", g.over)
	}
}

// openNow counts a gap for each topic that is down and one for all topics, and
// returns the age of the oldest.
func TestGapsOpenNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGapsAlone(slog.DiscardHandler, nil)
		expect := func(when string, n int, age time.Duration) {
			t.Helper()
			if gotN, gotAge := g.openNow(); gotN != n || gotAge != age {
				t.Errorf("%s: %d gaps for %v, want %d for %v", when, gotN, gotAge, n, age)
			}
		}
		expect("at first", 0, 0)
		g.hold(byBus, time.Now(), errors.New("down"))
		time.Sleep(time.Second)
		expect("all", 1, time.Second)
		g.release(byBus)
		g.down(Event{Kind: EventDown, Topics: []string{"uX"}})
		time.Sleep(time.Second)
		g.down(Event{Kind: EventDown, Topics: []string{"uY"}})
		expect("two users", 2, time.Second)
		g.hold(byBus, time.Now().Add(-time.Minute), errors.New("down"))
		expect("and all, for longer", 3, time.Minute)
		g.release(byBus)
		g.restored(Event{Kind: EventRestored, Topics: []string{"uX", "uY"}})
		expect("none any more", 0, 0)
	})
}

// The log says once, with the cause, that messages may be getting lost, and then
// tells of each gap. So does OnGap, if there is one.
func TestGapsAreTold(t *testing.T) {
	for _, listens := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			var told []Gap
			var tell func(Gap)
			if listens {
				tell = func(gap Gap) { told = append(told, gap) }
			}
			g := newGapsAlone(slog.NewTextHandler(&log, nil), tell)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			go func() { defer close(ended); g.run(ctx) }()
			count := func(when string, getting, lost int) {
				t.Helper()
				synctest.Wait()
				if a, b := strings.Count(log.String(), "may be getting lost"), strings.Count(log.String(), "may have been lost"); a != getting || b != lost {
					t.Errorf("%s: told are %d and %d, want %d and %d", when, a, b, getting, lost)
				}
				if want := lost; listens && len(told) != want || !listens && len(told) != 0 {
					t.Errorf("%s: OnGap was told of %d", when, len(told))
				}
			}
			user := Event{Topics: []string{"uX"}, Err: errors.New("it burns")}
			count("at first", 0, 0)
			g.down(user)
			count("a user's topic is down", 1, 0)
			g.down(Event{Err: errors.New("it burns")})
			count("all are", 1, 0)
			g.restored(user)
			g.hold(byEcho, time.Now(), errors.New("it burns"))
			count("the user's is not", 1, 1)
			g.restored(Event{})
			g.release(byEcho)
			count("all are not", 1, 2)
			g.down(user)
			count("again", 2, 2)
			if !strings.Contains(log.String(), "it burns") {
				t.Errorf("no cause: %s", &log)
			}
			g.restored(user)
			cancel() // gaps that are over are told all the same
			<-ended
			count("at the end", 2, 3)
		})
	}
}

// A route joins two networks as a route between two servers of a broker does:
// unless it is cut, packets published on either reach both. No Bus knows of it.
type route struct {
	networks [2]*MemoryNetwork
	cut      atomic.Bool
}

func newRoute() *route {
	return &route{networks: [2]*MemoryNetwork{NewMemoryNetwork(), NewMemoryNetwork()}}
}

// A routedBus is the Bus on one side of a route.
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

// A splitRig is two hubs with a route between them, a client at each, and a record
// of the messages that both send to everyone.
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

// send sends from both sides for the duration d.
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

// unexplained counts the deliveries that neither arrived nor lie in a Gap, and
// those that were lost in Gaps.
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

// openOf returns the open gap of all topics, or nil.
func openOf(h *Hub) *openGap {
	h.gaps.mu.Lock()
	defer h.gaps.mu.Unlock()
	return h.gaps.all
}

// All messages that a cut route swallows lie in a Gap, although no Bus knows of the
// cut, however long it lasts and whenever the nodes renew their leases. During a
// long cut the hubs are red. After it no gap stays open.
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

// A node that is cut off from the Registry too is swept as dead. If it is heard
// again, that is a Gap all the same, on both sides.
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

// A node follows the numbers of another's heartbeats, and makes Gaps of those that
// it misses. A letter is a heartbeat whose number is the letter's place in the
// alphabet; a dot is a second; ! is a Down and a Restored of the Bus; - is a lease
// in which the other is not listed and seems dead.
func TestNumbers(t *testing.T) {
	for heard, want := range map[string]int{
		"":              0,
		"a.b.c":         0,
		"a.a.b.b.c":     0, // published again
		"b.a.c":         0, // published again, and both came
		"a.c":           1,
		"a.c.d.f":       2,
		"g.h":           0, // the other is older than this Hub
		"......a.b":     0,
		"......b":       1, // the other is younger
		"a!b.c":         1, // the Gap is the Bus' own
		"a!.c.d":        1, // the same
		"a.c!":          2,
		"a!.......c":    2, // missed after the Bus was well
		"a--------b.c":  0, // the other was paused
		"a--------d":    1,
		"a.b!!c":        1, // the second ! comes while the Gap of the first still waits
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
				time.Sleep(100 * time.Millisecond) // so that nothing coincides with the Hub's own timers
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

// Nodes that are made up, or that come and go, do not take ever more memory.
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

// One mute node among many does not turn the others red, nor delay their reports of
// other losses.
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
