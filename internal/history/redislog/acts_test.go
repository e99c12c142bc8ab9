package redislog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/packet"
	"github.com/heraldgo/herald/internal/history/store"
)

// drafts makes a batch, sometimes a large one or one of unkept messages only.
func (u *run) drafts() (batch []store.Draft) {
	most, unkept := 4, u.rand.IntN(10) == 0
	if u.rand.IntN(10) == 0 {
		most = usual.drafts
	}
	for range 1 + u.rand.IntN(min(most, int(u.log.config.Limits.Segment))) {
		u.body++
		d := store.Draft{Body: u.newBody(), Unkept: unkept || u.rand.IntN(4) == 0}
		for range 1 + u.rand.IntN(3) {
			d.Topics = append(d.Topics, topics[u.rand.IntN(len(topics))])
		}
		batch = append(batch, d)
	}
	return batch
}

// newBody returns a body that differs from all others, with extensions of any
// length.
func (u *run) newBody() []byte {
	n := u.rand.IntN(packet.MaxExtensions + 1)
	if n < 2 || u.rand.IntN(2) == 0 {
		return fmt.Appendf(nil, begins+"%d\x00%s", u.body, strings.Repeat("x", u.rand.IntN(40)))
	}
	return fmt.Appendf([]byte{1, 1, 1 << 4, byte(n), 4, byte(n - 2)}, "%s%d\x00", strings.Repeat("x", n-2), u.body)
}

func (u *run) append() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known, segment, batch := u.pick(), u.guess, u.drafts()
	if u.rand.IntN(20) == 0 {
		segment = u.rand.Uint64N(10)
	}
	fresh := len(u.twin.Segments())
	reply, err := u.log.Append(u.ctx(), known, segment, batch)
	want := u.twin.Append(u.caller(known), segment, batch)
	published := want.Published
	want.Published = nil
	same(u, "append", reply, want, err)
	packets := u.r.packets(u.t)
	same(u, "packets", packets, published, nil)
	u.met(known, reply.End)
	u.count("append")
	switch reply.Outcome {
	case store.Taken:
		u.count("taken")
		if !slices.ContainsFunc(batch, func(d store.Draft) bool { return !d.Unkept }) {
			u.count("unkept batch")
		}
		if len(u.twin.Segments()) > fresh {
			u.count("segment begun")
		}
	case store.WrongEpoch:
		u.count("wrong epoch")
	case store.WrongSegment:
		u.guess = reply.Segment
		u.count("wrong segment")
	}
	if reply.End.Offset == 0 {
		u.count("new table")
	}
}

func (u *run) fence() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known, number := u.pick(), u.rand.Uint64()
	end, err := u.log.Fence(u.ctx(), known, number)
	want := u.twin.Fence(u.caller(known))
	same(u, "fence", end, want, err)
	at, n, err := packet.ParseFence([]byte(u.r.hear(u.t, "f")))
	same(u, "what the fence published", fmt.Sprint(at, n), fmt.Sprint(want, number), err)
	u.met(known, end)
}

func (u *run) trim() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known := u.pick()
	if err := u.log.Trim(u.ctx(), known); err != nil {
		u.t.Error(err)
	}
	for i, call := range u.r.calls {
		c := store.Caller{Server: u.r.replID(u.t), Now: call.now, Known: known, Fresh: call.fresh, Agreed: call.agreed}
		if i > 0 {
			c.Known.Offset = 0
		}
		n, due := u.twin.Due(c.Now)
		if call.named < 0 {
			u.twin.Fence(c) // it begins an epoch or a segment if one is due
			continue
		}
		if removed := u.twin.Trim(c, uint64(call.named)); !removed || !due || n != uint64(call.named) {
			u.t.Errorf("segment %d was removed, and %d is due, %v", call.named, n, due)
		}
		u.count("segment removed")
	}
	last := u.r.calls[len(u.r.calls)-1]
	if n, due := u.twin.Due(last.now); due {
		u.t.Errorf("segment %d is due still", n)
	}
	if n := u.r.stale(u.t); n > 0 {
		u.t.Errorf("%d topics of which nothing is kept are there still", n)
	}
}

func (u *run) forget() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known, some := u.pick(), u.someTopics()
	if len(some) == 0 || len(some) > u.log.bounds.asked/2 {
		some = topics[:1] // otherwise a call would be several calls of the twin
	}
	if err := u.log.Forget(u.ctx(), known, some); err != nil {
		u.t.Error(err)
	}
	u.twin.Forget(u.caller(known), some)
	u.count("forgotten")
}

func (u *run) renew() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known := u.pick()
	epoch := known.Epoch
	if u.rand.IntN(4) == 0 {
		epoch = u.known[u.rand.IntN(len(u.known))].Epoch
	}
	end, err := u.log.Renew(u.ctx(), known, epoch)
	same(u, "renew", end, u.twin.Renew(u.caller(known), epoch), err)
	u.met(known, end)
	if end.Epoch != epoch && known.Offset == 0 {
		u.count("renewed")
	}
}

// start starts a node, which may want to keep more or less than the others.
func (u *run) start() {
	config := u.log.config
	config.Limits.Bytes = 100 + 1000*u.rand.IntN(3)
	config.Copies = NewBudget(int(config.Copies.most))
	next := New(config)
	next.bounds, next.copies.least = u.log.bounds, u.log.copies.least
	u.log = next
	u.count("node started")
}

func (u *run) someTopics() (some []string) {
	for _, topic := range topics {
		if u.rand.IntN(2) == 0 {
			some = append(some, topic)
		}
	}
	return some
}

func (u *run) survey() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known, from, some, most := u.pick(), u.pick(), u.someTopics(), 1+u.rand.IntN(40)
	if from.Offset -= min(from.Offset, history.Offset(u.rand.IntN(30))); u.rand.IntN(5) == 0 {
		from.Offset = 0
	}
	copied := u.log.copies.budget.used.Load()
	s, err := u.log.Survey(u.ctx(), known, from, some, most)
	if u.log.copies.budget.used.Load() > copied {
		u.count("copied")
	}
	want := u.twin.Survey(u.caller(known), from, some, most)
	if len(s.Entries) > 0 {
		reader := u.caller(known)
		reader.Known = history.Point{} // so that it has no effect
		entries, _ := u.twin.Read(reader, want.End.Epoch, want.Offsets)
		same(u, "entries of the survey", fmt.Sprint(s.Entries), fmt.Sprint(entries), err)
		u.count("survey read")
	}
	s.Entries = nil
	same(u, "survey", s, want, err)
	u.met(known, s.End)
	switch {
	case s.Whole && len(s.Offsets) > 0:
		u.count("whole")
	case s.Fork.Parent != 0:
		u.count("forked")
	case len(s.Offsets) == most:
		u.count("cut")
	}
}

func (u *run) read() {
	u.t.Helper()
	u.expire(0)
	u.r.forget()
	known, at := u.pick(), u.known[len(u.known)-1]
	var offsets, more []history.Offset
	for o := at.Offset - min(at.Offset, 100) + 1; o <= at.Offset+2; o++ {
		switch u.rand.IntN(4) {
		case 0, 1:
			offsets = append(offsets, o)
		case 2:
			more = append(more, o)
		}
	}
	x, ok, err := u.log.Read(u.ctx(), known, at.Epoch, offsets, more)
	looked := offsets
	if ok {
		all := slices.Concat(offsets, more)
		looked = all[:max(len(offsets), min(len(x.Offsets), len(all)))]
		slices.Sort(looked)
		same(u, "offsets of a read", x.Offsets, looked, err)
	}
	want, wantOK := u.twin.Read(u.caller(known), at.Epoch, looked)
	same(u, "read", fmt.Sprintf("%v %v", x.Entries, ok), fmt.Sprintf("%v %v", want, wantOK), err)
	switch {
	case !ok:
		u.count("read elsewhere")
	case len(x.Entries) < len(x.Offsets):
		u.count("read missing")
	case len(x.Offsets) > len(offsets):
		u.count("read ahead")
	}
}
