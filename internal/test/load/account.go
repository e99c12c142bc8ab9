package load

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heraldgo/herald"
)

// A Gap is a herald.Gap in a form that can be encoded.
type Gap struct {
	Since, Until  int64 // Unix nanoseconds
	Cause         string
	All           bool
	Users, Groups []string
	Everyone      bool
}

// NewGap converts g.
func NewGap(g herald.Gap) Gap {
	return Gap{g.Since.UnixNano(), g.Until.UnixNano(), fmt.Sprint(g.Cause), g.All, g.Users, g.Groups, g.Everyone}
}

// covers reports whether a message to the topic, sent in the record's time, may be
// lost in the gap.
func (g *Gap) covers(r *Record, topic string) bool {
	if r.End < g.Since || r.Start > g.Until {
		return false
	}
	kind, name, _ := strings.Cut(topic, ":")
	switch kind {
	case "u":
		return g.All || slices.Contains(g.Users, name)
	case "g":
		return g.All || slices.Contains(g.Groups, name)
	}
	return g.All || g.Everyone
}

// A Device is a client, with what it got.
type Device struct {
	Name   string
	User   string
	Groups []string
	Node   string // the node that it is connected to
	Since  int64  // Unix nanoseconds: it must get what is sent from then on
	Came   int64  // Unix nanoseconds: it may get what was sent before

	mu      sync.Mutex // guards the rest
	arrived []arrival
	warned  int64
}

// An arrival is a message that a device got.
type arrival struct {
	Receipt
	warned int64 // when the device was told last that something may be missing: Unix nanoseconds
}

// String names the device.
func (d *Device) String() string { return fmt.Sprintf("%s of %s on %s", d.Name, d.User, d.Node) }

// Take records a message that has arrived.
func (d *Device) Take(r Receipt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arrived = append(d.arrived, arrival{r, d.warned})
}

// Warn records that the device was told, at a time in Unix nanoseconds, that
// something may be missing.
func (d *Device) Warn(at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warned = at
}

// Forget drops the receipts of senders whose names have the prefix.
func (d *Device) Forget(prefix string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arrived = slices.DeleteFunc(d.arrived, func(r arrival) bool { return strings.HasPrefix(r.Sender, prefix) })
}

// Receipts returns the messages that have arrived, in order.
func (d *Device) Receipts() []Receipt {
	d.mu.Lock()
	defer d.mu.Unlock()
	receipts := make([]Receipt, len(d.arrived))
	for i := range d.arrived {
		receipts[i] = d.arrived[i].Receipt
	}
	return receipts
}

// Topics returns the topics by which the device gets messages to a target. Each is
// written as a target.
func (d *Device) Topics(target string) (topics []string) {
	kind, names, _ := strings.Cut(target, ":")
	if kind == "*" {
		return []string{"*"}
	}
	for name := range strings.SplitSeq(names, ",") {
		if kind == "u" && name == d.User || kind == "g" && slices.Contains(d.Groups, name) {
			topics = append(topics, kind+":"+name)
		}
	}
	return topics
}

// An Account is everything that was sent, and who should have got it.
type Account struct {
	Records map[string][]Record // by sender; the n-th record has the number n
	Devices []*Device
	Gaps    map[string][]Gap // reported gaps, by node
}

// A Tally is what Settle counted.
type Tally struct {
	Sent      int // messages that Send took
	Delivered int
	Failed    int    // calls of Send with an error
	Why       string // what one of these said, if that is known
	Lost      int    // lost inside reported gaps

	Doubled, Disordered int // faults: messages that came twice, and messages that came out of order
}

// String returns the figures as text.
func (t Tally) String() string {
	text := fmt.Sprintf("%d messages sent, %d not, %d delivered, %d lost in gaps", t.Sent, t.Failed, t.Delivered, t.Lost)
	if t.Why != "" {
		text += fmt.Sprintf("; a Send that failed: %q", t.Why)
	}
	return text
}

// Settle compares what the devices got with what was sent. No device may get a
// message twice or out of order, nor one that was not meant for it or not sent. A
// message that a device did not get must lie in a gap that its node has reported
// for every topic by which the message could have come. It returns each fault.
func (a *Account) Settle() (total Tally, faults []error) {
	byTarget := make(map[string][]sent)
	for sender, records := range a.Records {
		for i := range records {
			r := &records[i]
			byTarget[r.Target] = append(byTarget[r.Target], sent{sender, r})
			switch r.Err {
			case "":
				total.Sent++
			case Down, Unknown:
				total.Failed++
				total.Why = cmp.Or(total.Why, r.Why)
			default:
				faults = append(faults, fmt.Errorf("message %s %d to %s: %s", sender, r.N, r.Target, r.Err))
			}
		}
	}
	for _, d := range a.Devices {
		got, wrong := a.settleReceived(d, &total)
		faults = append(faults, wrong...)
		total.Delivered += len(got)
		for target, messages := range byTarget {
			topics := d.Topics(target)
			if len(topics) == 0 {
				continue
			}
			for _, m := range messages {
				if m.Err != "" || m.Start < d.Since || got[key{m.sender, m.N}] {
					continue
				}
				if a.excused(d.Node, m.Record, topics) {
					total.Lost++
					continue
				}
				faults = append(faults, fmt.Errorf("%v did not get message %s %d to %s, sent %v to %v; gaps of the node:%s",
					d, m.sender, m.N, target, clockTime(m.Start), clockTime(m.End), Describe(a.Gaps[d.Node])))
			}
		}
	}
	return total, faults
}

// excused reports whether a message may have been lost on all of the topics.
func (a *Account) excused(node string, r *Record, topics []string) bool {
	for _, topic := range topics {
		if !slices.ContainsFunc(a.Gaps[node], func(g Gap) bool { return g.covers(r, topic) }) {
			return false
		}
	}
	return true
}

// sent is a message of a load, and its sender.
type sent struct {
	sender string
	*Record
}

type key struct {
	sender string
	n      int
}

// A stream is the messages that a device got from one sender by the same topics.
type stream struct {
	topics []string
	last   int // the highest number
}

// settleReceived checks the messages that a device got.
func (a *Account) settleReceived(d *Device, total *Tally) (got map[key]bool, faults []error) {
	got = make(map[key]bool)
	streams := make(map[string][]stream) // by sender
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%v got "+format, append([]any{d}, args...)...))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, arrived := range d.arrived {
		r := arrived.Receipt
		records, topics := a.Records[r.Sender], d.Topics(r.Target)
		switch {
		case r.N >= len(records) || records[r.N].Target != r.Target:
			fault("%v, which nobody sent", r)
		case records[r.N].Err != "" && records[r.N].Err != Unknown:
			fault("%v, whose Send said %q", r, records[r.N].Err)
		case len(topics) == 0:
			fault("%v, which was not meant for it", r)
		case got[key{r.Sender, r.N}]:
			total.Doubled++
			fault("%v twice", r)
		}
		got[key{r.Sender, r.N}] = true
		known := streams[r.Sender]
		same := slices.IndexFunc(known, func(s stream) bool { return slices.Equal(s.topics, topics) })
		if same < 0 {
			same, known = len(known), append(known, stream{topics, -1})
			streams[r.Sender] = known
		}
		for _, s := range known {
			// Whichever topic brought the later message, this one was sent to the
			// same topic before.
			if s.last > r.N && subset(s.topics, topics) && !(r.N < len(records) && a.partly(d, &records[r.N], topics, arrived.warned)) {
				total.Disordered++
				fault("%v after number %d: out of order", r, s.last)
			}
		}
		known[same].last = max(known[same].last, r.N)
	}
	return got, faults
}

// partly reports whether a message to several topics may have failed to come by one
// of them: its Send may have failed for that topic, the device may have connected in
// between, or was told that something may be missing.
func (a *Account) partly(d *Device, r *Record, topics []string, warned int64) bool {
	lost := func(topic string) bool {
		return slices.ContainsFunc(a.Gaps[d.Node], func(g Gap) bool { return g.covers(r, topic) })
	}
	return len(topics) > 1 && (r.Err == Unknown || r.Start < max(d.Came, warned) || slices.ContainsFunc(topics, lost))
}

func subset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// Describe lists gaps, each on a line of its own.
func Describe(gaps []Gap) string {
	var b strings.Builder
	for _, g := range gaps {
		fmt.Fprintf(&b, "\n\t%v to %v, all %v: %s", clockTime(g.Since), clockTime(g.Until), g.All, g.Cause)
	}
	return b.String()
}

func clockTime(nanos int64) string { return time.Unix(0, nanos).Format("15:04:05.000000") }
