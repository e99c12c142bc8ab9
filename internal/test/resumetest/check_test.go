package resumetest_test

import (
	"fmt"
	"slices"

	"github.com/heraldgo/herald/internal/test/load"
)

// A verdict is what came of a fault. Of Sends that returned an error nothing is
// asked but that nobody gets what was not sent.
type verdict struct {
	sent, down, unknown int // Sends

	untold  []string // missing at a device that was not told, or out of order, or twice
	missing int      // at a device that can come back, and told
	late    int      // of them: told only behind a later message
	lost    int      // at a plain device, in a gap that its node told

	false    int // how often devices were told that miss nothing
	resumes  int
	complete int // of them
}

// row is a line of the table.
func (v *verdict) row(name string) string {
	return fmt.Sprintf("%-28s %7d %6d %7d | %6d %7d %5d %6d | %6d %8d/%d",
		name, v.sent, v.down, v.unknown, len(v.untold), v.missing, v.late, v.lost, v.false, v.complete, v.resumes)
}

var tableHead = fmt.Sprintf("%-28s %7s %6s %7s | %6s %7s %5s %6s | %6s %s",
	"fault", "sent", "down", "unknown", "broken", "missing", "late", "lost", "false", "complete/resumes")

// judge looks at all that was sent and seen.
func judge(peers []*peer, devices []*tape) *verdict {
	v := new(verdict)
	account := &load.Account{Records: make(map[string][]load.Record), Gaps: make(map[string][]load.Gap)}
	gaps := make(map[string][]load.Gap)
	for _, p := range peers {
		records, told := p.seen()
		for sender, list := range records {
			account.Records[sender] = list
		}
		gaps[p.node] = told
		// What is missing is not Settle's to find.
		account.Gaps[p.node] = []load.Gap{{Until: 1 << 62, All: true}}
	}
	tapes := make(map[*tape]*watched)
	for _, d := range devices {
		w := watch(d)
		tapes[d] = w
		copied := &load.Device{Name: d.Name, User: d.User, Groups: d.Groups, Node: peers[0].node, Since: 1 << 62}
		for _, r := range w.receipts {
			copied.Take(r)
			reach(account.Records, r)
		}
		account.Devices = append(account.Devices, copied)
	}
	for _, list := range account.Records {
		for i := range list {
			switch list[i].Err {
			case "":
				v.sent++
			case load.Unknown:
				v.unknown++
			default:
				v.down++
			}
		}
	}
	_, faults := account.Settle()
	for _, err := range faults {
		v.untold = append(v.untold, err.Error())
	}
	for d, w := range tapes {
		v.settle(d, w, account.Records, gaps)
	}
	return v
}

// reach adds what a node has sent that was killed before it could say so.
func reach(records map[string][]load.Record, r load.Receipt) {
	list := records[r.Sender]
	for len(list) <= r.N {
		list = append(list, load.Record{N: len(list), Err: load.Unknown})
	}
	if list[r.N].Target == "" {
		list[r.N].Target = r.Target
	}
	records[r.Sender] = list
}

// A watched is what a device has seen, in a form that is easy to ask.
type watched struct {
	events   []happening
	on       []visit
	receipts []load.Receipt
	got      map[string]map[int]int // by sender and number: the index of the event
}

func watch(d *tape) *watched {
	w := &watched{got: make(map[string]map[int]int)}
	w.events, w.on = d.seen()
	for i, e := range w.events {
		if e.message == nil {
			continue
		}
		w.receipts = append(w.receipts, *e.message)
		if w.got[e.message.Sender] == nil {
			w.got[e.message.Sender] = make(map[int]int)
		}
		w.got[e.message.Sender][e.message.N] = i
	}
	return w
}

// settle finds what a device misses, and whether it was told.
func (v *verdict) settle(d *tape, w *watched, records map[string][]load.Record, gaps map[string][]load.Gap) {
	missing := 0
	for sender, list := range records {
		got, before := w.got[sender], -1 // the index of the last event of the sender
		for i := range list {
			r := &list[i]
			if at, ok := got[r.N]; ok {
				before = at
				continue
			}
			if r.Err != "" || r.Start < d.Since || d.Since == 0 || len(d.Topics(r.Target)) == 0 {
				continue
			}
			switch told, late := w.told(r, before, after(list[i+1:], got)); {
			case d.kind == plain && !w.meant(r):
			case d.kind == plain && w.covered(r, gaps):
				v.lost++
			case told:
				missing++
				v.missing++
				if late {
					v.late++
				}
			default:
				missing++
				v.untold = append(v.untold, fmt.Sprintf("%v misses %s %d to %s, sent from %d to %d, and was not told", &d.Device, sender, r.N, r.Target, r.Start, r.End))
			}
		}
	}
	for i, e := range w.events {
		if e.gap && missing == 0 {
			v.false++
		}
		if d.kind != plain && e.on && i > 0 {
			v.resumes++
			next := slices.IndexFunc(w.events[i+1:], func(e happening) bool { return e.on || e.gap })
			if e.resumed && (next < 0 || w.events[i+1+next].on) {
				v.complete++
			}
		}
	}
}

// after returns the index of the event of the first of the records that was got.
func after(later []load.Record, got map[int]int) int {
	for i := range later {
		if at, ok := got[later[i].N]; ok {
			return at
		}
	}
	return 1 << 30
}

// told says whether the device was told that something may be missing, when it could
// miss the message; and whether that was behind a later one of the same sender.
func (w *watched) told(r *load.Record, before, after int) (told, late bool) {
	late = true
	for i, e := range w.events {
		if e.gap && (e.at >= r.End || e.at >= r.Start && i > before) {
			told, late = true, late && i > after
		}
	}
	return told, told && late
}

// meant says whether a plain device was on one node all the time that the message was
// sent.
func (w *watched) meant(r *load.Record) bool {
	return slices.ContainsFunc(w.on, func(v visit) bool { return v.from <= r.Start && (v.to == 0 || r.End <= v.to) })
}

// covered says whether the node of a plain device has told of a gap in which the
// message may be lost.
func (w *watched) covered(r *load.Record, gaps map[string][]load.Gap) bool {
	for _, v := range w.on {
		if v.from > r.Start || v.to != 0 && r.End > v.to {
			continue
		}
		if !slices.ContainsFunc(gaps[v.node], func(g load.Gap) bool { return r.End >= g.Since && r.Start <= g.Until }) {
			return false
		}
	}
	return true
}
