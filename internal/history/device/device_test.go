package device_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

// A host is a connection that holds topics. The body of a packet is the id of its
// message, or empty if it has no copies.
type host struct {
	holds  []string
	except map[string][]string // by body
	recent []history.Packet
	behind func(at history.Point) []history.Packet // replaces recent if it is not nil
	known  bool                                    // these are all recent packets
}

func (h *host) Holds(topic string) bool { return slices.Contains(h.holds, topic) }
func (h *host) Open(body []byte) device.Letter {
	return device.Letter{ID: string(body), Except: h.except[string(body)]}
}
func (h *host) Recent(_ int, at history.Point) ([]history.Packet, bool) {
	if h.behind != nil {
		return h.behind(at), h.known
	}
	return h.recent, h.known
}

var limits = device.Limits{Survey: 100, Page: 2, Live: 2}

func newHost() *host { return &host{holds: []string{"a"}, known: true} }

// fresh returns the Device of a new client, live at 1.5.
func fresh(h *host) *device.Device {
	d, _ := device.Begin(limits, h, "me", history.Positions{}, nil, history.Positions{at(1, 5)})
	return d
}

// back returns the Device of a client that comes back to 1.5, and its first
// question.
func back(h *host) (*device.Device, device.Ask) {
	d, _ := device.Begin(limits, h, "me", history.Positions{at(1, 5)}, []string{"mine"}, history.Positions{at(1, 50)})
	return d, d.Start(0).Ask
}

func packet(topic string, p history.Point) history.Packet {
	return history.Packet{Topic: topic, Kept: true, At: p, Born: p.Epoch}
}

func entry(offset history.Offset, topics ...string) history.Entry {
	e := history.Entry{Offset: offset, Born: 1}
	for _, topic := range topics {
		e.Links = append(e.Links, history.Link{Topic: topic})
	}
	return e
}

func copied(e history.Entry, id string) history.Entry { e.Body = []byte(id); return e }

// body sets the body of a message's frame.
func body(f device.Frame, text string) device.Frame { f.Body = []byte(text); return f }

// expect checks a Step. The rounds of questions are not compared.
func expect(t *testing.T, when string, got device.Step, ask *device.Ask, frames ...device.Frame) {
	t.Helper()
	if !reflect.DeepEqual(got.Frames, frames) {
		t.Errorf("%s: frames %+v, not %+v", when, got.Frames, frames)
	}
	if asks := got.Ask.Round != 0; asks != (ask != nil) {
		t.Errorf("%s: it asks: %v", when, asks)
	} else if asks {
		want := *ask
		want.Round = got.Ask.Round
		if !reflect.DeepEqual(got.Ask, want) {
			t.Errorf("%s: it asks %+v, not %+v", when, got.Ask, want)
		}
	}
}

var gap = device.Frame{Kind: device.Gap}

// The welcome has the client's own positions or, if it has none, those of the node.
func TestBegin(t *testing.T) {
	feeds := history.Positions{at(1, 50), at(1, 60)}
	for _, test := range []struct {
		name    string
		from    history.Positions
		last    []string
		welcome history.Positions
		resumed bool
		live    bool
	}{
		{"a new client", history.Positions{}, nil, feeds, false, true},
		{"one that comes back", history.Positions{at(1, 5)}, []string{"mine"}, history.Positions{at(1, 5)}, true, false},
		{"one that names a connection alone", history.Positions{}, []string{"mine"}, feeds, false, true},
	} {
		d, f := device.Begin(limits, newHost(), "me", test.from, test.last, feeds)
		want := device.Frame{Kind: device.Welcome, Conn: "me", Positions: test.welcome, Resumed: test.resumed}
		if !reflect.DeepEqual(f, want) {
			t.Errorf("%s: the welcome is %+v", test.name, f)
		}
		for i := range 2 {
			if d.Live(i) != test.live {
				t.Errorf("%s: live in partition %d: %v", test.name, i, d.Live(i))
			}
		}
		if asks := d.Start(0).Ask.Round != 0; asks == test.live {
			t.Errorf("%s: it asks: %v", test.name, asks)
		}
		if !d.Is("me") || d.Is("mine") != (test.last != nil) || d.Is("another") {
			t.Errorf("%s: whose connections are whose?", test.name)
		}
	}
}

// A live Device takes packets behind its cursor, each once.
func TestTake(t *testing.T) {
	unkept := history.Packet{Topic: "a", At: at(1, 3)}
	for _, test := range []struct {
		name   string
		packet history.Packet
		letter device.Letter
		frame  device.Frame
		ok     bool
	}{
		{"the next", packet("a", at(1, 6)), device.Letter{}, message(0, at(1, 6), ""), true},
		{"with holes between", packet("a", at(1, 60)), device.Letter{}, message(0, at(1, 60), ""), true},
		{"the floor", packet("a", at(1, 5)), device.Letter{}, device.Frame{}, false},
		{"below the floor", packet("a", at(1, 4)), device.Letter{}, device.Frame{}, false},
		{"another epoch", packet("a", at(2, 6)), device.Letter{}, device.Frame{}, false},
		{"not kept", unkept, device.Letter{ID: "x"}, message(0, history.Point{}, "x"), true},
		{"except me", packet("a", at(1, 6)), device.Letter{Except: []string{"other", "me"}}, device.Frame{}, false},
		{"except another", packet("a", at(1, 6)), device.Letter{Except: []string{"other"}}, message(0, at(1, 6), ""), true},
	} {
		f, ok := fresh(newHost()).Take(0, test.packet, test.letter)
		if ok != test.ok || ok && !reflect.DeepEqual(f, test.frame) {
			t.Errorf("%s: %+v, %v", test.name, f, ok)
		}
	}
}

// An entry that has survived into another epoch has the position of the epoch in
// which it was born.
func TestTakeBorn(t *testing.T) {
	d := fresh(newHost())
	d.Cross(0, history.Fork{Epoch: 2, Parent: 1, At: 10})
	p := packet("a", at(2, 6))
	p.Born = 1
	if f, ok := d.Take(0, p, device.Letter{}); !ok || f.At != at(1, 6) {
		t.Errorf("%+v, %v", f, ok)
	}
}

// If a second copy of a message has a position, only that is told.
func TestCopies(t *testing.T) {
	d := fresh(newHost())
	letter := device.Letter{ID: "x"}
	d.Take(0, packet("a", at(1, 6)), letter)
	if f, ok := d.Take(0, packet("a", at(1, 7)), letter); !ok || !reflect.DeepEqual(f, mark(0, at(1, 7), 0)) {
		t.Errorf("a copy that is kept: %+v, %v", f, ok)
	}
	if f, ok := d.Take(0, history.Packet{Topic: "a"}, letter); ok {
		t.Errorf("one that is not: %+v", f)
	}
	// An excepted message is not remembered as received.
	if _, ok := d.Take(0, packet("a", at(1, 8)), device.Letter{ID: "y", Except: []string{"me"}}); ok {
		t.Error("it is its own")
	}
	if f, ok := d.Take(0, packet("a", at(1, 9)), device.Letter{ID: "y"}); !ok || f.Kind != device.Message {
		t.Errorf("%+v, %v", f, ok)
	}
}

// A Mark moves only a live Device on.
func TestMark(t *testing.T) {
	for _, test := range []struct {
		name string
		mark history.Point
		ok   bool
	}{
		{"on", at(1, 7), true},
		{"where it is", at(1, 5), false},
		{"behind", at(1, 4), false},
		{"another epoch", at(2, 7), false},
	} {
		f, ok := fresh(newHost()).Mark(0, test.mark)
		if ok != test.ok || ok && !reflect.DeepEqual(f, mark(0, test.mark, 0)) {
			t.Errorf("%s: %+v, %v", test.name, f, ok)
		}
	}
	d, _ := back(newHost())
	if f, ok := d.Mark(0, at(1, 7)); ok {
		t.Errorf("while it resumes: %+v", f)
	}
	d = fresh(newHost())
	d.Mark(0, at(1, 7))
	if _, ok := d.Take(0, packet("a", at(1, 7)), device.Letter{}); ok {
		t.Error("it takes what lies before a mark")
	}
}

// A live Device follows its node into another epoch. One that resumes asks about
// the old epoch.
func TestCross(t *testing.T) {
	fork := history.Fork{Epoch: 2, Parent: 1, At: 3}
	d := fresh(newHost())
	d.Cross(0, fork)
	if _, ok := d.Take(0, packet("a", at(2, 3)), device.Letter{}); ok {
		t.Error("it takes what lies before the fork")
	}
	if _, ok := d.Take(0, packet("a", at(2, 4)), device.Letter{}); !ok {
		t.Error("it does not take what lies behind the fork")
	}
	d, _ = back(newHost())
	d.Cross(0, fork)
	if from := d.Start(0).Ask.From; from != at(1, 5) {
		t.Errorf("it asks from %v", from)
	}
}

// A resume is read in pages and ends with a verdict. Then recent packets follow.
func TestResume(t *testing.T) {
	h := newHost()
	h.recent = []history.Packet{packet("a", at(1, 11)), packet("b", at(1, 12)), packet("a", at(1, 13))}
	d, ask := back(h)
	if ask.From != at(1, 5) || ask.Most != limits.Survey || ask.Offsets != nil {
		t.Fatalf("it asks %+v", ask)
	}
	s := d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 5, Whole: true, Offsets: []history.Offset{6, 8, 9}})
	expect(t, "surveyed", s, &device.Ask{From: at(1, 5), Offsets: []history.Offset{6, 8, 9}, Page: 2})
	if _, ok := d.Take(0, packet("a", at(1, 11)), device.Letter{}); ok {
		t.Error("it takes live what it will read")
	}
	if f, ok := d.Take(0, history.Packet{Topic: "a"}, device.Letter{}); !ok || f.Kind != device.Message {
		t.Error("it does not take what no log has")
	}
	s = d.Entries(0, s.Ask.Round, []history.Entry{entry(6, "a"), entry(8, "b")}, true)
	expect(t, "the first page, of which it holds one", s, &device.Ask{From: at(1, 8), Offsets: []history.Offset{9}, Page: 1}, message(0, at(1, 6), ""))
	s = d.Entries(0, s.Ask.Round, []history.Entry{entry(9, "b", "a")}, true)
	expect(t, "the last page", s, nil, message(0, at(1, 9), ""), mark(0, at(1, 10), device.Complete),
		message(0, at(1, 11), ""), message(0, at(1, 13), ""))
	if !d.Live(0) {
		t.Error("it is not live")
	}
	if _, ok := d.Take(0, packet("a", at(1, 13)), device.Letter{}); ok {
		t.Error("it takes again what was recent")
	}
	expect(t, "once more", d.Start(0), nil)
}

// A loss is told before the entries behind it, and in the verdict.
func TestIncomplete(t *testing.T) {
	d, ask := back(newHost())
	s := d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 7, Offsets: []history.Offset{8}})
	expect(t, "surveyed", s, &device.Ask{From: at(1, 7), Offsets: []history.Offset{8}, Page: 1}, gap)
	s = d.Entries(0, s.Ask.Round, []history.Entry{entry(8, "a")}, true)
	expect(t, "read", s, nil, message(0, at(1, 8), ""), mark(0, at(1, 10), device.Incomplete))

	d, ask = back(newHost())
	s = d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 5, Whole: true, Offsets: []history.Offset{8, 9}})
	s = d.Entries(0, s.Ask.Round, []history.Entry{entry(9, "a")}, true)
	expect(t, "an entry that has gone", s, nil, gap, message(0, at(1, 9), ""), mark(0, at(1, 10), device.Incomplete))
}

// A Device does not go live before it knows what the node has handed on meanwhile.
func TestNotYetLive(t *testing.T) {
	h := newHost()
	h.known = false
	d, ask := back(h)
	s := d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 5, Whole: true})
	expect(t, "it is not known", s, &device.Ask{From: at(1, 10), Most: limits.Survey})
	if d.Live(0) {
		t.Error("it is live")
	}
	h.known = true
	s = d.Surveyed(0, s.Ask.Round, history.Survey{End: at(1, 13), From: 10, Whole: true})
	expect(t, "it is", s, nil, mark(0, at(1, 13), device.Complete))
}

// A resume into another epoch goes on from the part that survived.
func TestResumeAcross(t *testing.T) {
	d, ask := back(newHost())
	s := d.Surveyed(0, ask.Round, history.Survey{End: at(2, 10), From: 3, Fork: history.Fork{Epoch: 2, Parent: 1, At: 3}})
	expect(t, "it ends", s, nil, gap, mark(0, at(2, 10), device.Incomplete))

	d, ask = back(newHost())
	s = d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 5, Whole: true, Offsets: []history.Offset{8}})
	expect(t, "the epoch changes while it is read", d.Entries(0, s.Ask.Round, nil, false), &device.Ask{From: at(1, 5), Most: limits.Survey})
}

// An answer counts only if it belongs to the last question.
func TestRounds(t *testing.T) {
	survey := history.Survey{End: at(1, 10), From: 5, Whole: true, Offsets: []history.Offset{8}}
	d, first := back(newHost())
	second := d.Join(0)
	expect(t, "joined while it is asked", second, &device.Ask{From: at(1, 5), Most: limits.Survey})
	expect(t, "the answer to the first", d.Surveyed(0, first.Round, survey), nil)
	expect(t, "entries for a survey", d.Entries(0, second.Ask.Round, nil, true), nil)
	s := d.Surveyed(0, second.Ask.Round, survey)
	expect(t, "the answer to the second", s, &device.Ask{From: at(1, 5), Offsets: []history.Offset{8}, Page: 1})
	expect(t, "a survey again", d.Surveyed(0, second.Ask.Round, survey), nil)
	expect(t, "joined while it reads", d.Join(0), nil)
	expect(t, "the entries of another round", d.Entries(0, s.Ask.Round+1, []history.Entry{entry(8, "a")}, true), nil)
	expect(t, "joined while it is live", fresh(newHost()).Join(0), nil)
}

// A topic that is joined before Start is in the first survey. Joining does not ask.
func TestJoinBeforeStart(t *testing.T) {
	d, _ := device.Begin(limits, newHost(), "me", history.Positions{at(1, 5)}, nil, history.Positions{at(1, 50)})
	expect(t, "it joins", d.Join(0), nil)
	expect(t, "it starts", d.Start(0), &device.Ask{From: at(1, 5), Most: limits.Survey})
	expect(t, "it joins again", d.Join(0), &device.Ask{From: at(1, 5), Most: limits.Survey})
}

// Entries that a Device has read are subject to ids and exceptions like live ones.
func TestResumeFilters(t *testing.T) {
	h := newHost()
	h.except = map[string][]string{"own": {"mine"}}
	d, ask := back(h)
	s := d.Surveyed(0, ask.Round, history.Survey{End: at(1, 10), From: 5, Whole: true, Offsets: []history.Offset{6, 7}})
	s = d.Entries(0, s.Ask.Round, []history.Entry{copied(entry(6, "a"), "own"), copied(entry(7, "a"), "x")}, true)
	expect(t, "its own message, and another", s, nil, body(message(0, at(1, 7), "x"), "x"), mark(0, at(1, 10), device.Complete))
	if f, ok := d.Take(0, packet("a", at(1, 11)), device.Letter{ID: "x"}); !ok || f.Kind != device.Mark {
		t.Errorf("a copy of what was read: %+v, %v", f, ok)
	}
}

// One Gap stands for all frames that were dropped since the last Gap was sent.
func TestDrop(t *testing.T) {
	d := fresh(newHost())
	if f, ok := d.Drop(message(0, history.Point{}, "")); ok {
		t.Errorf("for one that is not kept: %+v", f)
	}
	dropped, ok := d.Drop(message(0, at(1, 6), ""))
	if !ok || dropped.Kind != device.Gap || !dropped.Dropped {
		t.Errorf("for the first: %+v, %v", dropped, ok)
	}
	if f, ok := d.Drop(message(0, at(1, 7), "")); ok {
		t.Errorf("for the second: %+v", f)
	}
	d.Sent(d.Gap(0)) // a Gap for another reason
	if f, ok := d.Drop(message(0, at(1, 8), "")); ok {
		t.Errorf("before it was sent: %+v", f)
	}
	d.Sent(dropped)
	if _, ok := d.Drop(message(0, at(1, 9), "")); !ok {
		t.Error("the next one has none")
	}
}
