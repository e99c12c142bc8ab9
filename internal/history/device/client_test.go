package device_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
)

func at(epoch history.Epoch, offset history.Offset) history.Point {
	return history.Point{Epoch: epoch, Offset: offset}
}

func welcome(conn string, resumed bool, positions ...history.Point) device.Frame {
	f := device.Frame{Kind: device.Welcome, Conn: conn, Resumed: resumed}
	copy(f.Positions[:], positions)
	return f
}

func message(partition int, p history.Point, id string) device.Frame {
	return device.Frame{Kind: device.Message, Partition: partition, At: p, ID: id}
}

func mark(partition int, p history.Point, verdict device.Verdict) device.Frame {
	return device.Frame{Kind: device.Mark, Partition: partition, At: p, Verdict: verdict}
}

// A taken is what a Client returns for a frame.
type taken struct {
	frame            device.Frame
	message, missing bool
}

// A Client tells messages from other frames, and tells whether something may be
// missing.
func TestClient(t *testing.T) {
	for _, test := range []struct {
		name   string
		client *device.Client
		frames []taken
		from   history.Positions
		conns  []string
	}{
		{
			name:   "a new client misses nothing",
			client: new(device.Client),
			frames: []taken{{frame: welcome("c.1", false, at(1, 5))}},
			from:   history.Positions{at(1, 5)}, conns: []string{"c.1"},
		},
		{
			name:   "one that comes back and is not resumed does",
			client: device.NewClient(history.Positions{at(1, 5)}, []string{"c.0"}),
			frames: []taken{{frame: welcome("c.1", false, at(2, 1)), missing: true}},
			from:   history.Positions{at(2, 1)}, conns: []string{"c.1", "c.0"},
		},
		{
			name:   "one that is resumed waits for the verdict",
			client: device.NewClient(history.Positions{at(1, 5)}, nil),
			frames: []taken{
				{frame: welcome("c.1", true, at(1, 5))},
				{frame: message(0, at(1, 6), ""), message: true},
				{frame: mark(0, at(1, 8), device.Complete)},
			},
			from: history.Positions{at(1, 8)}, conns: []string{"c.1"},
		},
		{
			name:   "an incomplete resume, and a gap",
			client: device.NewClient(history.Positions{at(1, 5)}, nil),
			frames: []taken{
				{frame: welcome("c.1", true, at(1, 5))},
				{frame: device.Frame{Kind: device.Gap}, missing: true},
				{frame: mark(0, at(1, 8), device.Incomplete), missing: true},
			},
			from: history.Positions{at(1, 8)}, conns: []string{"c.1"},
		},
		{
			name:   "what is not kept moves nothing",
			client: new(device.Client),
			frames: []taken{
				{frame: welcome("c.1", false, at(1, 5))},
				{frame: message(0, history.Point{}, ""), message: true},
				{frame: device.Frame{Kind: device.Answer}},
				{frame: device.Frame{}},
			},
			from: history.Positions{at(1, 5)}, conns: []string{"c.1"},
		},
		{
			name:   "a second copy moves, and is no message",
			client: new(device.Client),
			frames: []taken{
				{frame: welcome("c.1", false, at(1, 5), at(1, 5))},
				{frame: message(0, at(1, 6), "id"), message: true},
				{frame: message(1, at(1, 7), "id")},
				{frame: message(1, history.Point{}, "id")},
			},
			from: history.Positions{at(1, 6), at(1, 7)}, conns: []string{"c.1"},
		},
		{
			name:   "back in an epoch that it has left",
			client: new(device.Client),
			frames: []taken{
				{frame: welcome("c.1", false, at(1, 5))},
				{frame: mark(0, at(1, 7), 0)},
				{frame: message(0, at(2, 3), ""), message: true},
				{frame: message(0, at(1, 7), "")},
				{frame: message(0, at(1, 8), ""), message: true},
				{frame: message(0, at(2, 3), "")},
			},
			from: history.Positions{at(2, 3)}, conns: []string{"c.1"},
		},
		{
			name:   "partitions have epochs of their own",
			client: new(device.Client),
			frames: []taken{
				{frame: welcome("c.1", false, at(1, 5), at(1, 5))},
				{frame: message(0, at(2, 6), ""), message: true},
				{frame: message(1, at(1, 5), ""), message: true},
			},
			from: history.Positions{at(2, 6), at(1, 5)}, conns: []string{"c.1"},
		},
		{
			name:   "it never goes back within an epoch",
			client: new(device.Client),
			frames: []taken{
				{frame: welcome("c.1", false, at(1, 5))},
				{frame: mark(0, at(1, 4), 0)},
				{frame: message(0, at(1, 3), ""), message: true},
				{frame: welcome("c.2", false, at(1, 2)), missing: true},
			},
			from: history.Positions{at(1, 5)}, conns: []string{"c.2", "c.1"},
		},
		{
			name:   "a welcome without positions",
			client: device.NewClient(history.Positions{at(1, 5)}, nil),
			frames: []taken{{frame: welcome("c.1", false), missing: true}},
			conns:  []string{"c.1"},
		},
		{
			name:   "four connections are enough",
			client: device.NewClient(history.Positions{at(1, 5)}, []string{"d", "c", "b", "a"}),
			frames: []taken{{frame: welcome("e", true, at(1, 5))}},
			from:   history.Positions{at(1, 5)}, conns: []string{"e", "d", "c", "b"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i, f := range test.frames {
				message, missing := test.client.Receive(f.frame)
				if message != f.message || missing != f.missing {
					t.Errorf("frame %d: message %v, missing %v", i, message, missing)
				}
			}
			if from, conns := test.client.Resume(); from != test.from || !slices.Equal(conns, test.conns) {
				t.Errorf("it goes on from %v with %q", from, conns)
			}
		})
	}
}

// A plain connection is a gap for all clients but new ones. It ends positions, but
// not the memory of epochs.
func TestClientPlain(t *testing.T) {
	c := new(device.Client)
	if c.Plain() {
		t.Error("a new client misses something")
	}
	if !c.Plain() {
		t.Error("the next connection misses nothing")
	}
	c.Receive(welcome("c.1", false, at(1, 5)))
	if !c.Plain() {
		t.Error("after a welcome nothing is missing")
	}
	if from, conns := c.Resume(); from != (history.Positions{}) || !slices.Equal(conns, []string{"c.1"}) {
		t.Errorf("it goes on from %v with %q", from, conns)
	}
	c.Receive(welcome("c.2", false, at(1, 4)))
	if again, _ := c.Receive(message(0, at(1, 5), "")); again {
		t.Error("what it had before comes again")
	}
}

// A Client remembers 1,000 ids and four epochs, no more.
func TestClientForgets(t *testing.T) {
	c := new(device.Client)
	c.Receive(welcome("c.1", false, at(1, 5)))
	id := func(i int) device.Frame { return message(0, history.Point{}, fmt.Sprintf("id-%d", i)) }
	for i := range 1001 {
		c.Receive(id(i))
	}
	if again, _ := c.Receive(id(1)); again {
		t.Error("the 1,000th id is forgotten")
	}
	if again, _ := c.Receive(id(0)); !again {
		t.Error("the 1,001st id is remembered")
	}
	for e := range history.Epoch(5) {
		c.Receive(mark(0, at(2+e, 5), 0))
	}
	if again, _ := c.Receive(message(0, at(2, 5), "")); again {
		t.Error("the fourth epoch is forgotten")
	}
	if again, _ := c.Receive(message(0, at(1, 5), "")); !again {
		t.Error("the fifth epoch is remembered")
	}
}

// The caller may change what Resume returns, and NewClient does not change its
// arguments.
func TestClientCopies(t *testing.T) {
	given := []string{"a", "b"}
	c := device.NewClient(history.Positions{}, given)
	given[0] = "x"
	_, conns := c.Resume()
	conns[1] = "y"
	if _, conns := c.Resume(); !slices.Equal(conns, []string{"a", "b"}) {
		t.Errorf("%q", conns)
	}
}

// One partition is late, while messages to topics of both go on in the other. A
// client gets each message once, whether its connection lasts or it moves to
// another node.
func TestLatePartition(t *testing.T) {
	const sent = 1000
	for _, test := range []struct {
		name  string
		moves bool
	}{{"on one connection", false}, {"on the next", true}} {
		h := newHost()
		begin := history.Positions{at(1, 0), at(2, 0)}
		node, f := device.Begin(limits, h, "one", history.Positions{}, nil, begin)
		c := new(device.Client)
		c.Receive(f)
		messages := 0
		hand := func(partition int) {
			for i := range history.Offset(sent) {
				p := packet("a", at(history.Epoch(1+partition), 1+i))
				f, ok := node.Take(partition, p, device.Letter{ID: fmt.Sprint("id-", i)})
				if message, _ := c.Receive(f); ok && message {
					messages++
				}
			}
		}
		hand(0)
		if test.moves {
			from, conns := c.Resume()
			node, f = device.Begin(limits, h, "two", from, conns, begin)
			c.Receive(f)
			ask := node.Start(1).Ask
			node.Surveyed(1, ask.Round, history.Survey{End: at(2, 0), Whole: true})
		}
		hand(1)
		from, _ := c.Resume()
		if messages != sent || from != (history.Positions{at(1, sent), at(2, sent)}) {
			t.Errorf("%s: %d messages of %d, up to %v", test.name, messages, sent, from)
		}
	}
}
