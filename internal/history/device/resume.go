package device

import "github.com/heraldgo/herald/internal/history"

func (c *cursor) ask(most int) Ask {
	c.state = asked
	c.round++
	return Ask{Round: c.round, From: c.at, Most: most}
}

// Join says that the device is about to hold one more topic of the partition. It
// holds it already, but the subscription is not confirmed. A survey under way was
// asked for without the topic and could pass what is sent to it meanwhile, so it is
// asked for again. Before Start nothing is asked: those topics are covered from the
// client's position on, so one survey has to have them all.
func (d *Device) Join(partition int) Step {
	if c := &d.cursors[partition]; c.round == 0 || c.state != asked {
		return Step{}
	}
	return d.Start(partition)
}

// Surveyed takes the answer to a survey.
func (d *Device) Surveyed(partition int, round uint64, survey history.Survey) Step {
	var s Step
	c := &d.cursors[partition]
	if c.state != asked || round != c.round {
		return s
	}
	if !survey.Whole {
		c.miss(&s, partition)
	}
	c.at = history.Point{Epoch: survey.End.Epoch, Offset: survey.From}
	c.backlog = history.Backlog{Survey: survey}
	d.read(&s, partition)
	return s
}

// miss says that something may be missing, before anything that lies behind it: the
// connection may end before the verdict.
func (c *cursor) miss(s *Step, partition int) {
	c.told = true
	s.Frames = append(s.Frames, Frame{Kind: Gap, Partition: partition})
}

// read asks for the next page. If there is none, what is recent comes next.
func (d *Device) read(s *Step, partition int) {
	c := &d.cursors[partition]
	if page := c.backlog.Page(d.limits.Page); len(page) > 0 {
		c.state = reading
		c.round++
		s.Ask = Ask{Round: c.round, From: c.at, Offsets: c.backlog.Offsets, Page: len(page)}
		return
	}
	c.at.Offset = c.backlog.End.Offset
	d.follow(s, partition)
}

// Follow goes on with what is recent, now that there is room.
func (d *Device) Follow(partition int, round uint64) Step {
	var s Step
	if c := &d.cursors[partition]; c.state == trailing && round == c.round {
		d.follow(&s, partition)
	}
	return s
}

// follow takes what is recent. If that is little enough, the cursor goes live.
// Otherwise follow takes one page: asking the log again would take longer, and under
// a flood the cursor would never go live.
func (d *Device) follow(s *Step, partition int) {
	c := &d.cursors[partition]
	left, ok := d.recent(partition)
	if !ok {
		s.Ask = c.ask(d.limits.Survey)
		return
	}
	if len(left) > d.limits.Live {
		d.takeAll(s, partition, left[:min(len(left), d.limits.Page)])
		c.state = trailing
		c.round++
		s.Ask = Ask{Round: c.round, From: c.at, Near: true}
		return
	}
	end := Frame{Kind: Mark, Partition: partition, At: c.at, Verdict: Complete}
	if c.told {
		end.Verdict = Incomplete
	}
	s.Frames = append(s.Frames, end)
	d.takeAll(s, partition, left)
	c.state = live
}

func (d *Device) takeAll(s *Step, partition int, packets []history.Packet) {
	for _, p := range packets {
		if f, ok := d.take(partition, p, d.host.Open(p.Body)); ok {
			s.Frames = append(s.Frames, f)
		}
	}
}

// recent returns the packets that the host has handed on behind the cursor, if it
// still has all of them. It returns at least a page, and more than Live, if there are
// as many.
func (d *Device) recent(partition int) (left []history.Packet, ok bool) {
	packets, ok := d.host.Recent(partition, d.cursors[partition].at)
	for _, p := range packets {
		if len(left) > d.limits.Live && len(left) >= d.limits.Page {
			break
		}
		if d.host.Holds(p.Topic) {
			left = append(left, p)
		}
	}
	return left, ok
}

// Entries takes what was read. ok is false if it could not be read because the log is
// in another epoch.
func (d *Device) Entries(partition int, round uint64, entries []history.Entry, ok bool) Step {
	var s Step
	c := &d.cursors[partition]
	if c.state != reading || round != c.round {
		return s
	}
	if !ok {
		s.Ask = c.ask(d.limits.Survey)
		return s
	}
	through, whole := c.backlog.Took(entries)
	if !whole {
		c.miss(&s, partition)
	}
	for _, e := range entries {
		p := history.Packet{Body: e.Body, Kept: true, Born: e.Born, At: history.Point{Epoch: c.at.Epoch, Offset: e.Offset}}
		if !d.holds(e) {
			continue
		}
		if f, ok := d.take(partition, p, d.host.Open(e.Body)); ok {
			s.Frames = append(s.Frames, f)
		}
	}
	c.at.Offset = through
	d.read(&s, partition)
	return s
}

// holds reports whether the device holds a topic of the entry now: it may have left
// others while it was away.
func (d *Device) holds(e history.Entry) bool {
	for _, link := range e.Links {
		if d.host.Holds(link.Topic) {
			return true
		}
	}
	return false
}
