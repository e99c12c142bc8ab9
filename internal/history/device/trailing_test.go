package device_test

import (
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

// If there are more recent packets than a Device may take at once when it goes
// live, it takes them from the node in pages, and does not ask the log again.
func TestTrailing(t *testing.T) {
	h := newHost()
	var all []history.Packet
	for i := range history.Offset(6) {
		all = append(all, packet("b", at(1, 11+i)), packet("a", at(1, 11+i)))
	}
	h.behind = func(at history.Point) (packets []history.Packet) {
		return slices.DeleteFunc(slices.Clone(all), func(p history.Packet) bool { return p.At.Offset <= at.Offset })
	}
	h.except = map[string][]string{"own": {"me"}}
	all[3].Body = []byte("own")
	d, ask := back(h)
	s := d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 5, Whole: true})
	expect(t, "the first page, of which one is its own", s, &device.Ask{From: at(1, 12), Near: true}, message(0, at(1, 11), ""))
	if f, ok := d.Take(0, packet("a", at(1, 17)), device.Letter{}); ok || d.Live(0) {
		t.Errorf("it takes what comes live: %+v", f)
	}
	if !d.Awaits(0, at(1, 17)) {
		t.Error("it does not await what comes live")
	}
	expect(t, "joined", d.Join(0), nil)
	expect(t, "the answer to another question", d.Follow(0, ask.Round), nil)
	first := s.Ask.Round
	s = d.Follow(0, first)
	expect(t, "the next page", s, &device.Ask{From: at(1, 14), Near: true}, message(0, at(1, 13), ""), message(0, at(1, 14), ""))
	expect(t, "the answer to the question before", d.Follow(0, first), nil)
	h.known = false
	s = d.Follow(0, s.Ask.Round)
	expect(t, "it is not recent any more", s, &device.Ask{From: at(1, 14), Most: limits.Survey})
	h.known = true
	s = d.Surveyed(0, s.Ask.Round, history.Survey{End: at(1, 14), From: 14, Whole: true})
	expect(t, "the rest", s, nil, mark(0, at(1, 14), device.Complete), message(0, at(1, 15), ""), message(0, at(1, 16), ""))
	if !d.Live(0) {
		t.Error("it is not live")
	}
}

// A page of recent packets is as large as one of the log, if that is more than a
// Device takes when it goes live.
func TestTrailingPage(t *testing.T) {
	h := newHost()
	for i := range history.Offset(5) {
		h.recent = append(h.recent, packet("a", at(1, 11+i)))
	}
	d, _ := device.Begin(device.Limits{Survey: 100, Page: 4, Live: 1}, h, "me", history.Positions{at(1, 10)}, nil, history.Positions{})
	s := d.Surveyed(0, d.Start(0).Ask.Round, history.Survey{End: at(1, 10), From: 10, Whole: true})
	expect(t, "a page", s, &device.Ask{From: at(1, 14), Near: true},
		message(0, at(1, 11), ""), message(0, at(1, 12), ""), message(0, at(1, 13), ""), message(0, at(1, 14), ""))
}

// A Device that is not live awaits packets behind its cursor, and all of another
// epoch.
func TestAwaits(t *testing.T) {
	d, _ := back(newHost())
	for p, want := range map[history.Point]bool{at(1, 4): false, at(1, 5): false, at(1, 6): true, at(2, 5): true, at(2, 4): true} {
		if got := d.Awaits(0, p); got != want {
			t.Errorf("it awaits %v: %v", p, got)
		}
	}
	if fresh(newHost()).Awaits(0, at(1, 6)) {
		t.Error("one that is live awaits what is read from the log")
	}
}
