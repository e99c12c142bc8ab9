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
	g := newGaps(h)
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

// The time for which a Bus is blamed is reported, and for every topic, in
// whatever order what it says of itself comes: U and u are the Down and the
// Restored of a user's topic, G and g of a group's, A and a of all.
func TestBlameInEveryOrder(t *testing.T) {
	h := newHub(t, Config{})
	kinds := map[rune]Event{
		'U': {Kind: EventDown, Topics: []string{"uX"}}, 'u': {Kind: EventRestored, Topics: []string{"uX"}},
		'G': {Kind: EventDown, Topics: []string{"gX"}}, 'g': {Kind: EventRestored, Topics: []string{"gX"}},
		'H': {Kind: EventDown, Topics: []string{topicHeartbeat}}, 'h': {Kind: EventRestored, Topics: []string{topicHeartbeat}},
		'A': {Kind: EventDown}, 'a': {Kind: EventRestored},
	}
	hourAgo := time.Now().Add(-time.Hour)
	for _, order := range []string{"Aa", "AAa", "AaAa", "UuAa", "UAa", "UAua", "AUua", "UGguAa", "UuGg", "UGug", "Hh", "HUhu", "HhUu"} {
		for at := range order { // blamed before this event
			t.Run(fmt.Sprint(order[:at], "!", order[at:]), func(t *testing.T) {
				g := newGaps(h)
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
				say(order[:at])
				g.blame(hourAgo.Add(time.Minute), errors.New("deaf"))
				g.blame(hourAgo, errors.New("deaf"))
				g.blame(hourAgo.Add(time.Second), errors.New("deaf"))
				say(order[at:])
				if !slices.ContainsFunc(g.over, func(gap Gap) bool { return gap.All && gap.Since.Equal(hourAgo) }) {
					t.Errorf("reported are %+v", g.over)
				}
				if g.all != nil || len(g.topics) != 0 || !g.floor.IsZero() {
					t.Errorf("open are %v, %v, from %v on", g.all, g.topics, g.floor)
				}
				// It is over: what comes later does not go back to it.
				g.over = nil
				say("UuAa")
				for _, gap := range g.over {
					if gap.Since.Before(hourAgo.Add(time.Minute)) {
						t.Errorf("a later Gap goes back: %+v", gap)
					}
				}
			})
		}
	}
}
