package herald

import (
	"errors"
	"fmt"
	"slices"
	"testing"
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
