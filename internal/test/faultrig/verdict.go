package faultrig

import (
	"fmt"
	"slices"
	"time"

	"github.com/heraldgo/herald/internal/test/load"
)

// A Verdict counts what came of a fault. A message whose Send returned an error may
// be missing, but must not reach a device that it is not meant for.
type Verdict struct {
	Sent, Down, Unknown int // Sends: taken, refused, ErrUnknown
	Received            int // by all devices

	Told       int // missing at a device that was told, or whose node reported a gap
	Late       int // those of Told that were told only behind a later message
	Untold     int // missing at a device that was not told
	Doubled    int // arrived twice
	Disordered int // arrived out of order
	Again      int // arrived also on an earlier connection, after which the device began anew
	Wrong      int // arrived at a device that they were not meant for, or were not sent
	False      int // how often a device that misses nothing was told

	Resumes  int
	Complete int // those of Resumes without a gap

	// Recovery is how long after the end of the fault every device had a message
	// that was sent after it: the longest of all rounds, or 0 if that means
	// nothing.
	Recovery time.Duration

	Broken []string // each message that is untold, doubled, disordered or wrong
}

// judge judges all that was sent and seen.
func judge(peers []*peer, devices []*device) *Verdict {
	v := new(Verdict)
	gaps := make(map[string][]load.Gap)
	account := &load.Account{Records: make(map[string][]load.Record), Gaps: gaps}
	for _, p := range peers {
		records, told := p.seen()
		for sender, list := range records {
			account.Records[sender] = list
		}
		gaps[p.node] = told
	}
	tapes := make([]*tape, len(devices))
	for i, d := range devices {
		tapes[i] = newTape(d)
		for _, e := range tapes[i].events {
			if e.message != nil {
				reach(account.Records, *e.message)
				v.Received++
			}
		}
		account.Devices = append(account.Devices, tapes[i].lives...)
		v.Again += tapes[i].again
	}
	v.count(account.Records)
	tally, faults := account.Settle()
	v.Doubled, v.Disordered = tally.Doubled, tally.Disordered
	v.Wrong = len(faults) - v.Doubled - v.Disordered
	for _, err := range faults {
		v.Broken = append(v.Broken, err.Error())
	}
	for _, t := range tapes {
		t.follow(account.Records)
		v.settle(t, account.Records, gaps)
	}
	return v
}

// count counts Sends.
func (v *Verdict) count(records map[string][]load.Record) {
	for _, list := range records {
		for i := range list {
			switch list[i].Err {
			case "":
				v.Sent++
			case load.Unknown:
				v.Unknown++
			default:
				v.Down++
			}
		}
	}
}

// reach adds a message of a node that was killed before it could report it.
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

// A tape is what a device has seen, in a form that is easy to query.
type tape struct {
	*device
	events []happening
	on     []visit
	got    map[string]map[int]int // the index of the event, by sender and number
	again  int                    // messages that came in more than one life
	topics map[string][]string    // by target: the topics by which the device gets its messages
	newest []map[string]int64     // of each visit, by topic

	// lives has what came in each time in which the device went on from where it was.
	// To a device that begins anew, a node sends messages that are still arriving,
	// even if the device has got them from another node.
	lives []*load.Device
	born  int // the index of the event that began the last one
}

func newTape(d *device) *tape {
	t := &tape{device: d, got: make(map[string]map[int]int), topics: make(map[string][]string)}
	t.events, t.on = d.seen()
	visits := 0
	for i, e := range t.events {
		switch {
		case e.on:
			if !e.resumed {
				t.live(i, t.on[visits])
			}
			visits++
		case e.gap && len(t.lives) > 0:
			t.lives[len(t.lives)-1].Warn(e.at)
		case e.message != nil:
			t.receive(i, *e.message)
		}
	}
	return t
}

// live begins a life with an event, which begins a visit.
func (t *tape) live(event int, v visit) {
	life := &load.Device{Name: t.Name, User: t.User, Groups: t.Groups, Came: v.from}
	life.Since = 1 << 62 // missing messages are not for Settle to find
	if !v.keeps {
		life.Node = v.node // whose gaps count
	}
	t.lives, t.born = append(t.lives, life), event
}

// receive adds the message of an event.
func (t *tape) receive(event int, r load.Receipt) {
	got := t.got[r.Sender]
	if got == nil {
		got = make(map[int]int)
		t.got[r.Sender] = got
	}
	if at, ok := got[r.N]; ok && at < t.born {
		t.again++
	}
	t.lives[len(t.lives)-1].Take(r)
	got[r.N] = event
}

// follow notes, for each visit and topic, when the newest message that came in it
// was sent. A visit that has ended proves nothing about later messages to the
// topic, which may have been lost with the connection.
func (t *tape) follow(records map[string][]load.Record) {
	for _, e := range t.events {
		if e.on {
			t.newest = append(t.newest, make(map[string]int64))
		} else if e.message != nil {
			// With several topics, nobody knows by which of them it came.
			if topics := t.topicsOf(e.message.Target); len(topics) == 1 {
				newest := t.newest[len(t.newest)-1]
				newest[topics[0]] = max(newest[topics[0]], records[e.message.Sender][e.message.N].Start)
			}
		}
	}
}

// since returns when the device was first connected, or 0 if it never was.
func (t *tape) since() int64 {
	if len(t.on) == 0 {
		return 0
	}
	return t.on[0].from
}

// topicsOf returns the topics by which the device gets messages to a target.
func (t *tape) topicsOf(target string) []string {
	topics, known := t.topics[target]
	if !known {
		topics = t.Topics(target)
		t.topics[target] = topics
	}
	return topics
}

// settle finds the messages that a device misses, and whether it was told.
func (v *Verdict) settle(t *tape, records map[string][]load.Record, gaps map[string][]load.Gap) {
	missing, since := 0, t.since()
	for sender, list := range records {
		// behind has, by target, the event after which the sender's next message
		// should have come. Messages to other targets may come by other partitions,
		// and later.
		got, behind := t.got[sender], make(map[string]int)
		for i := range list {
			r := &list[i]
			if at, ok := got[r.N]; ok {
				behind[r.Target] = at + 1
				continue
			}
			if r.Err != "" || since == 0 || r.Start < since || len(t.topicsOf(r.Target)) == 0 {
				continue
			}
			visits := t.during(r)
			if t.kind == plain && len(visits) == 0 {
				continue // a device that was away knows that
			}
			missing++
			told, late := false, false
			if t.kind != plain {
				told, late = t.told(r, behind[r.Target]-1, after(list[i+1:], got))
			}
			switch {
			case told:
				v.Told++
				if late {
					v.Late++
				}
			case covered(r, visits, gaps):
				v.Told++
			default:
				v.Untold++
				v.Broken = append(v.Broken, fmt.Sprintf("%v misses %s %d to %s, sent from %d to %d, and was not told", t.device, sender, r.N, r.Target, r.Start, r.End))
			}
		}
	}
	v.settleEvents(t, missing)
}

// settleEvents counts the resumes, and the gaps that a device was told for nothing.
func (v *Verdict) settleEvents(t *tape, missing int) {
	been := false // it has been connected: its first attempts may have failed
	for i, e := range t.events {
		if e.gap && missing == 0 {
			v.False++
		}
		if t.kind != plain && e.on && been {
			v.Resumes++
			next := slices.IndexFunc(t.events[i+1:], func(e happening) bool { return e.on || e.gap })
			if e.resumed && (next < 0 || t.events[i+1+next].on) {
				v.Complete++
			}
		}
		been = been || e.on
	}
}

// after returns the index of the event of the first of these records that was
// received.
func after(later []load.Record, got map[int]int) int {
	for i := range later {
		if at, ok := got[later[i].N]; ok {
			return at
		}
	}
	return 1 << 30
}

// told reports whether the device was told that something may be missing at a time
// when it could miss the message, and whether that came only behind a later message
// of the same sender.
func (t *tape) told(r *load.Record, before, after int) (told, late bool) {
	late = true
	for i, e := range t.events {
		if e.gap && (e.at >= r.End || e.at >= r.Start && i > before) {
			told, late = true, late && i > after
		}
	}
	return told, told && late
}

// during returns the visits in which the message should have come.
func (t *tape) during(r *load.Record) (visits []visit) {
	for i, v := range t.on {
		late := func(topic string) bool { return r.End > min(v.to, t.newest[i][topic]) }
		if v.from <= r.Start && (v.to == 0 || !slices.ContainsFunc(t.topicsOf(r.Target), late)) {
			visits = append(visits, v)
		}
	}
	return visits
}

// covered reports whether the node of each of the visits has reported a gap in
// which the message may be lost. For a node that can tell the device itself that is
// not enough.
func covered(r *load.Record, visits []visit, gaps map[string][]load.Gap) bool {
	for _, v := range visits {
		if v.keeps || !slices.ContainsFunc(gaps[v.node], func(g load.Gap) bool { return r.End >= g.Since && r.Start <= g.Until }) {
			return false
		}
	}
	return len(visits) > 0
}
