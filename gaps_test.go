package herald

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A packet that cannot be understood is a loss that may have been anyone's
// whom its topic concerns, at any time since the Bus last proved that it works.
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
			g := <-got
			if g.All != want.All || g.Everyone != want.Everyone || !slices.Equal(g.Users, want.Users) || !slices.Equal(g.Groups, want.Groups) {
				t.Errorf("a packet of topic %q makes %+v", topic, g)
			}
			if g.Since.After(before) || g.Until.Before(before) || g.Cause == nil {
				t.Errorf("sent at %v, the Gap is %+v", before, g)
			}
		}
	}
}

// No message is lost with a heartbeat.
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

// The time in which a node was silent is reported, and for every topic, in
// whatever order what the Bus says of itself comes: U and u are the Down and
// the Restored of a user's topic, G and g of a group's, A and a of all.
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
			// Parts of it may be reported one after the other, without a hole.
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
			// It is over: what comes later does not go back to it.
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

// newGapsAlone returns the gaps of no Hub.
func newGapsAlone(log slog.Handler, tell func(Gap)) *gaps {
	return newGaps(func(string) (string, bool) { return "", false }, new(counters), slog.New(log), tell)
}

// While more gaps wait than may, they are told as one that covers all of them.
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

// What the Bus says decides whether the node is well, and whether heartbeats can
// be expected; that a node is silent does not.
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

// A loss that the Bus has told of is no second gap, and extends the one of all
// topics that is open.
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

// The log is told once that messages may be getting lost, with its cause, and
// of each gap; and OnGap, if there is one.
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
			cancel() // what is over is told all the same
			<-ended
			count("at the end", 2, 3)
		})
	}
}
