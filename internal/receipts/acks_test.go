package receipts

import (
	"math/rand/v2"
	"testing"

	"github.com/heraldgo/herald/internal/history"
)

func place(epoch history.Epoch, offset history.Offset) Place {
	return Place{At: history.Point{Epoch: epoch, Offset: offset}}
}

// queue has the message of a place queued.
func (f *Fences) queue(p Place) *byte {
	end := new(byte)
	f.Place(p, end)
	return end
}

// What was sent up to the place is received, of whatever epoch, and nothing else.
func TestAck(t *testing.T) {
	for name, test := range map[string]struct {
		ack      Place
		received int // of five
	}{
		"before the first":  {place(1, 9), 0},
		"the first":         {place(1, 10), 1},
		"between":           {place(1, 15), 1},
		"the second":        {place(1, 20), 2},
		"behind its epoch":  {place(1, 1<<64-1), 2},
		"the next epoch":    {place(2, 5), 3},
		"far ahead":         {place(2, 1<<64-1), 3},
		"an unknown epoch":  {place(3, 100), 0},
		"another partition": {Place{1, history.Point{Epoch: 1, Offset: 20}}, 0},
		"nothing":           {Place{}, 0},
	} {
		r := &record{}
		f := NewFences(r.settle)
		for i, p := range []Place{place(1, 10), place(1, 20), place(2, 5), place(2, 6), place(2, 7)} {
			f.Expect(Wanted{ID: uint64(i + 1), Until: 100}, p, 0)
		}
		for _, p := range []Place{place(1, 10), place(1, 20), place(2, 5)} {
			f.Sent(f.queue(p))
		}
		f.queue(place(2, 6)) // which is not sent, and the last has no frame
		f.Ack(test.ack)
		if r.require(t, []uint64{1, 2, 3}[:test.received], nil); t.Failed() {
			t.Fatal(name)
		}
		f.LoseAll()
		if len(r.received) != test.received || len(r.missed) != 5-test.received {
			t.Errorf("%s: in the end received %v and missed %v", name, r.received, r.missed)
		}
	}
	var none *Fences
	none.Ack(place(1, 1))
	if none.Place(place(1, 1), new(byte)) != 0 || none.Pass(place(1, 1)) != 0 {
		t.Error("something is expected, and there is nothing")
	}
}

// One message alone is placed, sent and acknowledged, or passed.
func TestAckOfOne(t *testing.T) {
	r := &record{}
	f := NewFences(r.settle)
	f.Expect(Wanted{ID: 1, Until: 100}, place(1, 10), 0)
	end := f.queue(place(1, 10))
	f.Ack(place(1, 10))
	r.require(t, nil, nil)
	f.Sent(end)
	f.Ack(place(1, 10))
	r.require(t, []uint64{1}, nil)
	f.Expect(Wanted{ID: 2, Until: 100}, place(1, 11), 0)
	if left := f.Pass(place(1, 11)); left != 0 {
		t.Errorf("%d are expected", left)
	}
	r.require(t, []uint64{1}, []uint64{2})
}

// A pong proves nothing of what is to be acknowledged, an acknowledgement nothing of
// what is to be answered, and no ping carries what it does not answer.
func TestBothKinds(t *testing.T) {
	f, r, _ := three()
	f.Expect(Wanted{ID: 4, Until: 100}, place(1, 1), 0)
	f.Expect(Wanted{ID: 5, Until: 100}, place(1, 3), 0)
	end := f.queue(place(1, 1))
	f.Sent(end)
	ping := new(byte)
	f.Add(Wanted{ID: 6, Until: 100}, 60, ping, 0)
	f.Queued(ping)
	last := f.queue(place(1, 3)) // which others have overtaken
	f.Sent(last)
	for _, waiting := range [][]*byte{{ping, last}, {last, ping}, {ping}} {
		if token, _ := f.Written(waiting); token != 30 {
			t.Errorf("the ping carries %d", token)
		}
	}
	if token, _ := f.Written([]*byte{last}); token != 60 {
		t.Errorf("the ping carries %d", token)
	}
	f.Pong(payload(0)) // the token of none
	r.require(t, nil, nil)
	f.Pong(payload(60))
	r.require(t, []uint64{1, 2, 3, 6}, nil)
	f.Ack(place(1, 2))
	r.require(t, []uint64{1, 2, 3, 6, 4}, nil)
	f.Lose(last)
	r.require(t, []uint64{1, 2, 3, 6, 4}, []uint64{5})
}

// What will not come is missed.
func TestPass(t *testing.T) {
	r := &record{}
	f := NewFences(r.settle)
	for i := range 3 {
		f.Expect(Wanted{ID: uint64(i), Until: 100}, place(1, history.Offset(i)), 0)
	}
	if left := f.Place(place(1, 1), new(byte)); left != 2 {
		t.Errorf("%d are expected", left)
	}
	if left := f.Pass(place(1, 1)); left != 2 { // it has come
		t.Errorf("%d are expected", left)
	}
	if left := f.Pass(place(1, 2)); left != 1 {
		t.Errorf("%d are expected", left)
	}
	r.require(t, nil, []uint64{2})
	if left := f.Place(place(1, 2), new(byte)); left != 1 {
		t.Errorf("%d are expected", left)
	}
	f.Expect(Wanted{ID: 9, Until: 200}, place(1, 9), 150) // nobody waits for the others
	f.LoseAll()
	r.require(t, nil, []uint64{2, 9})
}

// An acknowledgement is some comparisons, and allocates nothing.
func TestAckAllocates(t *testing.T) {
	f := NewFences(func(Wanted, bool) {})
	for i := range 2 * MaxFences {
		f.Expect(Wanted{Until: 100}, place(1, history.Offset(100+i)), 0)
	}
	for i := range MaxFences {
		f.Sent(f.queue(place(1, history.Offset(100+MaxFences+i))))
	}
	if n := testing.AllocsPerRun(100, func() { f.Ack(place(1, 1)) }); n != 0 || len(f.open) != MaxFences {
		t.Errorf("it allocates %v times, and %d are open", n, len(f.open))
	}
}

// Whatever comes in whatever order, a receipt is given only for what the client has
// processed, and each is settled once.
func TestAcksInAnyOrder(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 2))
		type message struct {
			id  uint64
			end *byte
			at  Place
		}
		var waiting, queue, there []message // the client has read none of the last
		processed := make(map[uint64]bool)
		settled := make(map[uint64]bool)
		f := NewFences(func(w Wanted, received bool) {
			if settled[w.ID] {
				t.Errorf("seed %d: %d is settled twice", seed, w.ID)
			}
			if settled[w.ID] = true; received && !processed[w.ID] {
				t.Errorf("seed %d: a receipt for %d, which is not processed", seed, w.ID)
			}
		})
		var at Place // where the client is
		var acks []Place
		next, epoch := uint64(0), history.Epoch(1)
		for range 300 {
			switch random.IntN(8) {
			case 0, 1:
				next++
				if random.IntN(20) == 0 {
					epoch++
				}
				m := message{id: next, end: new(byte), at: place(epoch, history.Offset(next))}
				f.Expect(Wanted{ID: m.id, Until: 1}, m.at, 0)
				waiting = append(waiting, m)
			case 2:
				if len(waiting) > 0 {
					f.Place(waiting[0].at, waiting[0].end)
					queue, waiting = append(queue, waiting[0]), waiting[1:]
				}
			case 3:
				if len(queue) > 0 {
					f.Sent(queue[0].end)
					there, queue = append(there, queue[0]), queue[1:]
				}
			case 4: // dropped
				if len(queue) > 0 && random.IntN(4) == 0 {
					f.Lose(queue[0].end)
					queue = queue[1:]
				}
			case 5: // the client processes one, and may say so
				if len(there) > 0 {
					processed[there[0].id] = true
					at, there = there[0].at, there[1:]
					acks = append(acks, at)
				}
			case 6: // what it has said arrives, or only a later part of it
				if n := len(acks); n > 0 {
					i := random.IntN(n)
					f.Ack(acks[i])
					acks = acks[i+1:]
				}
			case 7: // what it said arrives late, and again
				f.Ack(at)
			}
		}
		f.LoseAll()
		for id := range next {
			if !settled[id+1] {
				t.Errorf("seed %d: %d is not settled", seed, id+1)
			}
		}
	}
}
