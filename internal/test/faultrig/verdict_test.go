package faultrig

import (
	"fmt"
	"strings"
	"testing"

	"github.com/heraldgo/herald/internal/test/load"
)

// seenBy makes a device of what happened to it, at the times 10, 20, …: a number is a
// message that came, sent ten before; "on" and "resumed" are connections, to a node
// that keeps if the device runs heraldclient; "off" and "gap" are those.
func seenBy(k kind, events string) *device {
	d := &device{kind: k, Device: load.Device{Name: k.String(), User: "a", Node: "node"}}
	for i, what := range strings.Fields(events) {
		h := happening{at: int64(10 * (i + 1))}
		var n int
		switch what {
		case "on", "resumed":
			h.on, h.resumed = true, what == "resumed"
			d.peer.Store(&peer{keeps: k != plain})
		case "off":
			h.off = true
		case "gap":
			h.gap = true
		case "-": // time passes
			continue
		default:
			fmt.Sscan(what, &n)
			h.message = &load.Receipt{Sender: "s", N: n, Target: "u:a"}
		}
		d.note(h)
	}
	return d
}

// A device is told of a loss while the message is being sent. What was sent before to
// the same target has come by then, or the Gap is another's; what was sent elsewhere
// need not have.
func TestJudgeTargets(t *testing.T) {
	for target, untold := range map[string]int{"*": 0, "u:a": 1} {
		p := &peer{node: "node", records: map[string][]load.Record{"s": {
			{N: 0, Target: target, Start: 12, End: 13}, {N: 1, Target: "u:a", Start: 22, End: 50},
		}}}
		d := seenBy(goClient, "on - gap")
		d.note(happening{at: 40, message: &load.Receipt{Sender: "s", N: 0, Target: target}})
		if v := judge([]*peer{p}, []*device{d}); v.Untold != untold || v.Told != 1-untold {
			t.Errorf("behind a message to %s: %d told, %d not told, %q", target, v.Told, v.Untold, v.Broken)
		}
	}
}

// A message to two groups comes by one of them after a newer one by the other, where
// it may have been lost.
func TestJudgeParts(t *testing.T) {
	for _, c := range []struct {
		kind       kind
		events     string
		gap        *load.Gap // of the node
		disordered int
	}{
		{goClient, "on", nil, 1},
		{goClient, "on - gap", nil, 0},
		{goClient, "on gap", nil, 1},
		{goClient, "on - gap off on", nil, 0},
		{goClient, "on", &load.Gap{Since: 0, Until: 99, All: true}, 1}, // it would have been told
		{plain, "on", nil, 1},
		{plain, "on", &load.Gap{Since: 0, Until: 99, All: true}, 0},
		{plain, "on", &load.Gap{Since: 50, Until: 99, All: true}, 1},
	} {
		p := &peer{node: "node", records: map[string][]load.Record{"s": {
			{N: 0, Target: "g:x,y", Start: 22, End: 23}, {N: 1, Target: "g:x", Start: 32, End: 33},
		}}}
		if c.gap != nil {
			p.gaps = append(p.gaps, *c.gap)
		}
		d := seenBy(c.kind, c.events)
		d.Groups = []string{"x", "y"}
		d.note(happening{at: 70, message: &load.Receipt{Sender: "s", N: 1, Target: "g:x"}})
		d.note(happening{at: 80, message: &load.Receipt{Sender: "s", N: 0, Target: "g:x,y"}})
		if v := judge([]*peer{p}, []*device{d}); v.Disordered != c.disordered || v.Wrong+v.Doubled > 0 {
			t.Errorf("%v, %s, %v: %d out of order, %q", c.kind, c.events, c.gap, v.Disordered, v.Broken)
		}
	}
}

// A first connection is no resume, even behind attempts that failed.
func TestJudgeResumes(t *testing.T) {
	for events, want := range map[string][2]int{
		"on 0":                        {0, 0},
		"off off on 0":                {0, 0},
		"off on 0 off off resumed 1":  {1, 1},
		"on 0 off resumed off on gap": {2, 1},
		"on 0 off resumed gap 1":      {1, 0},
	} {
		v := judge(nil, []*device{seenBy(goClient, events)})
		if got := [2]int{v.Resumes, v.Complete}; got != want {
			t.Errorf("%s: resumes, and complete ones: %d, expected %d", events, got, want)
		}
	}
}

// The messages 0, 1, 2, … of one sender are sent at the times 12, 22, 32, …
func TestJudge(t *testing.T) {
	type counts struct{ told, untold, doubled, disordered, again, wrong, false int }
	for _, c := range []struct {
		name   string
		kind   kind
		events string
		sent   int
		gap    *load.Gap // of the node
		want   counts
	}{
		{"all well", goClient, "on 0 1 2", 3, nil, counts{}},
		{"before it came", goClient, "- - on 2", 3, nil, counts{}},
		{"missing", goClient, "on 0 - 2 3", 4, nil, counts{untold: 1}},
		{"told before", goClient, "on gap 0 - 2 3", 4, nil, counts{untold: 1}},
		{"told", goClient, "on 0 - gap 2 3", 4, nil, counts{told: 1}},
		{"told by the node alone", goClient, "on 0 - 2 3", 4, &load.Gap{Since: 0, Until: 99}, counts{untold: 1}},
		{"told for nothing", goClient, "on 0 gap 1", 2, nil, counts{false: 1}},
		{"while it was away", goClient, "on 0 off - resumed 1 3", 4, nil, counts{untold: 1}},
		{"while it was away, and told", goClient, "on 0 off - on gap 3", 4, nil, counts{told: 2}},
		{"twice", goClient, "on 0 1 1 2", 3, nil, counts{doubled: 1}},
		{"twice, though resumed", goClient, "on 0 1 off resumed 1 2 3", 4, nil, counts{doubled: 1}},
		{"twice, and begun anew", goClient, "on 0 1 off on 1 2 3", 4, nil, counts{again: 1}},
		{"out of order", goClient, "on 0 2 1 3", 4, nil, counts{disordered: 1}},
		{"not sent", goClient, "on 0 7", 1, nil, counts{}}, // or its sender was killed before it said so
		{"plain, missing", plain, "on 0 - 2 3", 4, nil, counts{untold: 1}},
		{"plain, in a gap", plain, "on 0 - 2 3", 4, &load.Gap{Since: 20, Until: 30}, counts{told: 1}},
		{"plain, in another gap", plain, "on 0 - 2 3", 4, &load.Gap{Since: 0, Until: 20}, counts{untold: 1}},
		{"plain, away", plain, "on 0 off - - on 4", 5, nil, counts{}},
		{"plain, under way at the end", plain, "on 0 1 - - - off", 5, nil, counts{}},
		{"plain, slow to the end", plain, "on 0 1 - - - 2 off", 5, nil, counts{}},
		{"plain, missing before the end", plain, "on 0 - 2 3 off", 4, nil, counts{untold: 1}},
	} {
		p := &peer{node: "node", records: make(map[string][]load.Record)}
		for n := range c.sent {
			at := int64(10*(n+1) + 2)
			p.records["s"] = append(p.records["s"], load.Record{N: n, Target: "u:a", Start: at, End: at + 1})
		}
		if c.gap != nil {
			p.gaps = append(p.gaps, *c.gap)
		}
		v := judge([]*peer{p}, []*device{seenBy(c.kind, c.events)})
		if got := (counts{v.Told, v.Untold, v.Doubled, v.Disordered, v.Again, v.Wrong, v.False}); got != c.want {
			t.Errorf("%s: %+v, expected %+v\n%s", c.name, got, c.want, strings.Join(v.Broken, "\n"))
		}
		if len(v.Broken) != v.Untold+v.Doubled+v.Disordered+v.Wrong {
			t.Errorf("%s: %d are described: %q", c.name, len(v.Broken), v.Broken)
		}
	}
}
