package receipts

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// A record is what Fences have settled.
type record struct {
	received, missed []uint64 // ids
}

func (r *record) settle(w Wanted, received bool) {
	if received {
		r.received = append(r.received, w.ID)
	} else {
		r.missed = append(r.missed, w.ID)
	}
}

func (r *record) require(t *testing.T, received, missed []uint64) {
	t.Helper()
	if !slices.Equal(r.received, received) || !slices.Equal(r.missed, missed) {
		t.Errorf("received %v and missed %v, want %v and %v", r.received, r.missed, received, missed)
	}
}

func payload(token Token) []byte { return binary.BigEndian.AppendUint64(nil, uint64(token)) }

// three returns Fences with three fences that are queued. Their tokens are 10, 20
// and 30.
func three() (*Fences, *record, []*byte) {
	r := &record{}
	f := NewFences(r.settle)
	ends := []*byte{new(byte), new(byte), new(byte)}
	for i, end := range ends {
		f.Add(Wanted{ID: uint64(i + 1), Until: 100}, Token(10*(i+1)), end, 0)
		f.Queued(end)
	}
	return f, r, ends
}

func TestPong(t *testing.T) {
	for _, strange := range [][]byte{nil, payload(0), payload(31), payload(20)[1:], append(payload(20), 0), []byte("12345678")} {
		f, r, _ := three()
		f.Pong(strange)
		r.require(t, nil, nil)
	}
	f, r, _ := three()
	f.Pong(payload(20))
	r.require(t, []uint64{1, 2}, nil)
	f.Pong(payload(10))
	f.Pong(payload(20))
	r.require(t, []uint64{1, 2}, nil)
	f.LoseAll()
	r.require(t, []uint64{1, 2}, []uint64{3})
	f.Pong(payload(30))
	if r.require(t, []uint64{1, 2}, []uint64{3}); !f.Empty() {
		t.Error("a fence is open after the end")
	}
	var none *Fences
	if none.Pong(payload(0)) || !none.Empty() {
		t.Error("a fence is seen, and there is none")
	}
	none.Lose(new(byte))
	none.Queued(new(byte))
	none.LoseAll()
}

// Each fence asks for one pong, and one that says something else is still that.
func TestAsked(t *testing.T) {
	f, _, _ := three()
	for i := range 5 {
		if asked := f.Pong(nil); asked != (i < 3) {
			t.Errorf("pong %d: asked for: %v", i+1, asked)
		}
	}
	for i := range 2 * MaxFences {
		f.Add(Wanted{ID: uint64(i), Until: 100}, Token(i), new(byte), 0)
	}
	for i := range 2 * MaxFences {
		if asked := f.Pong(nil); asked != (i < MaxFences) {
			t.Fatalf("pong %d: asked for: %v", i+1, asked)
		}
	}
}

// What was dropped is missed, though a later fence is answered.
func TestLose(t *testing.T) {
	f, r, ends := three()
	f.Lose(ends[1])
	f.Lose(ends[1])
	f.Lose(new(byte))
	r.require(t, nil, []uint64{2})
	f.Pong(payload(20))
	r.require(t, nil, []uint64{2})
	f.Pong(payload(30))
	r.require(t, []uint64{1, 3}, []uint64{2})
}

// A ping that goes before what waits carries no fence that waits.
func TestWritten(t *testing.T) {
	f, r, ends := three()
	other := new(byte)
	for _, test := range []struct {
		waiting []*byte
		want    Token
	}{
		{nil, 30},
		{[]*byte{other, other}, 30},
		{[]*byte{ends[2]}, 20},
		{[]*byte{other, ends[1], other, ends[2], other}, 10},
		{ends, 0},
	} {
		if token, ok := f.Written(test.waiting); token != test.want || ok != (test.want != 0) {
			t.Errorf("%d waiting: %d, %v; want %d", len(test.waiting), token, ok, test.want)
		}
	}
	// One that is about to be queued is not written, whether it is in the queue or not.
	end := new(byte)
	f.Add(Wanted{ID: 4, Until: 100}, 40, end, 0)
	for _, waiting := range [][]*byte{nil, {end}} {
		if token, _ := f.Written(waiting); token != 30 {
			t.Errorf("the ping carries %d", token)
		}
	}
	f.Pong(payload(40)) // for it may have been written and answered
	r.require(t, []uint64{1, 2, 3, 4}, nil)
}

// Fences are bounded, in number and in time.
func TestBounds(t *testing.T) {
	r := &record{}
	f := NewFences(r.settle)
	for i := range MaxFences + 2 {
		f.Add(Wanted{ID: uint64(i), Until: int64(i)}, Token(i), new(byte), 0)
	}
	r.require(t, nil, []uint64{0, 1})
	f.Add(Wanted{ID: 9999, Until: 9999}, 9999, new(byte), 10)
	r.require(t, nil, []uint64{0, 1})
	if len(f.open) != MaxFences-8+1 {
		t.Errorf("%d are open", len(f.open))
	}
	f.Pong(payload(9)) // which nobody waits for
	r.require(t, nil, []uint64{0, 1})
	f.Pong(payload(10))
	r.require(t, []uint64{10}, []uint64{0, 1})
}

func TestCall(t *testing.T) {
	a, b, n := ID{"a", 1}, ID{"a", 2}, ID{"b", 1}
	for name, test := range map[string]struct {
		do               func(c *Call)
		received, missed int
		done             bool
	}{
		"nobody has answered": {func(c *Call) {}, 0, 2, false},
		"both received":       {func(c *Call) { c.Take(a); c.Take(b); c.Settle(a, true); c.Settle(b, true) }, 2, 0, true},
		"settled twice":       {func(c *Call) { c.Settle(a, false); c.Settle(a, true); c.Settle(b, true); c.Settle(b, false) }, 1, 1, true},
		"one more":            {func(c *Call) { c.Take(n); c.Settle(a, true); c.Settle(b, true) }, 2, 1, false},
		"one more received":   {func(c *Call) { c.Take(n); c.Settle(a, true); c.Settle(b, true); c.Settle(n, true) }, 3, 0, true},
		"a stranger":          {func(c *Call) { c.Settle(n, true) }, 0, 2, false},
		"taken after all":     {func(c *Call) { c.Settle(a, true); c.Take(a); c.Settle(b, true) }, 2, 0, true},
		"spared":              {func(c *Call) { c.Spare(a); c.Spare(n); c.Settle(b, true); c.Spare(b) }, 1, 0, true},
		"a node that tells":   {func(c *Call) { c.Settle(a, true); c.Settle(b, true); c.Await("n", 5) }, 2, 5, false},
		"a node has told":     {func(c *Call) { c.Settle(a, true); c.Settle(b, true); c.Await("n", 5); c.Told("n") }, 2, 0, true},
		"a node has gone": {func(c *Call) {
			c.Await("n", 5)
			c.Await("m", 3)
			c.Take(a)
			c.GiveUp(func(id ID, s State) bool { return s == Listed }, func(node string) bool { return node == "n" })
			c.Settle(a, true)
		}, 1, 9, false},
	} {
		c := NewCall()
		c.List(a)
		c.List(a)
		c.List(b)
		if !c.Untaken() {
			t.Errorf("%s: nobody is listed", name)
		}
		test.do(c)
		if c.Done() && (c.Untaken() || len(c.Nodes()) > 0) {
			t.Errorf("%s: all are settled, and there is something to look for", name)
		}
		if received, missed := c.Count(); received != test.received || missed != test.missed || c.Done() != test.done {
			t.Errorf("%s: %d received, %d missed, done %v", name, received, missed, c.Done())
		}
		received := 0
		for _, has := range c.All() {
			if has {
				received++
			}
		}
		if received != test.received {
			t.Errorf("%s: %d of all have received it, want %d", name, received, test.received)
		}
	}
}

// A Call waits for the nodes that have yet to tell, and for no others.
func TestCallAwaits(t *testing.T) {
	c := NewCall()
	expect := func(when string, want bool) {
		t.Helper()
		if c.Awaiting() != want {
			t.Errorf("%s: awaiting %v", when, c.Awaiting())
		}
	}
	expect("at first", false)
	c.Await("n", 5)
	c.Await("m", 0)
	expect("two nodes", true)
	c.Told("n")
	expect("one has told", true)
	c.Told("m")
	expect("both have", false)
}

// The first fence counts as written once it was queued, and not before.
func TestFirstWritten(t *testing.T) {
	f := NewFences(func(Wanted, bool) {})
	end := new(byte)
	f.Add(Wanted{ID: 1, Until: 100}, 10, end, 0)
	if token, ok := f.Written(nil); ok {
		t.Errorf("%d is written and was not queued", token)
	}
	f.Queued(end)
	if token, ok := f.Written(nil); !ok || token != 10 {
		t.Errorf("%d, %v is written", token, ok)
	}
	if token, ok := f.Written([]*byte{end}); ok {
		t.Errorf("%d is written and waits", token)
	}
	if n := len(AppendFence(nil, 10)); n != FenceSize {
		t.Errorf("a fence has %d bytes, want %d", n, FenceSize)
	}
}

// A world of one connection, in which anything may happen in any order, keeps the
// promise: no receipt for what the client has not got, one answer for each, and
// only the newest that is written in a ping.
func TestFencesInAnyOrder(t *testing.T) {
	type message struct {
		id    uint64
		token Token
		end   *byte
	}
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		var queue []message
		got := make(map[uint64]bool)
		settled := make(map[uint64]bool)
		var pings []Token // the client's, to be answered
		f := NewFences(func(w Wanted, received bool) {
			if settled[w.ID] {
				t.Errorf("seed %d: %d is settled twice", seed, w.ID)
			}
			if settled[w.ID] = true; received && !got[w.ID] {
				t.Errorf("seed %d: a receipt for %d, which has not arrived", seed, w.ID)
			}
		})
		next := uint64(0)
		for range 200 {
			switch random.IntN(6) {
			case 0, 1:
				next++
				m := message{next, Token(random.Uint64()), new(byte)}
				f.Add(Wanted{ID: m.id, Until: 1}, m.token, m.end, 0)
				queue = append(queue, m)
				f.Queued(m.end)
			case 2: // written, and it arrives
				if len(queue) > 0 {
					got[queue[0].id] = true
					pings = append(pings, queue[0].token)
					queue = queue[1:]
				}
			case 3: // dropped
				if len(queue) > 0 && random.IntN(4) == 0 {
					f.Lose(queue[0].end)
					queue = queue[1:]
				}
			case 4: // keepalive
				var ends []*byte
				for _, m := range queue {
					ends = append(ends, m.end)
				}
				if token, ok := f.Written(ends); ok {
					pings = append(pings, token)
				}
			case 5: // the client answers the last of its pings, or some, or nonsense
				if n := len(pings); n > 0 {
					f.Pong(payload(pings[n-1-random.IntN(n)]))
					pings = pings[random.IntN(n+1):]
				}
				f.Pong(payload(Token(random.Uint64())))
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

func ExampleFences() {
	f := NewFences(func(w Wanted, received bool) { fmt.Println(w.ID, received) })
	end := new(byte)
	f.Add(Wanted{ID: 7}, 42, end, 0)
	f.Queued(end)
	f.Pong([]byte{0, 0, 0, 0, 0, 0, 0, 42})
	// Output: 7 true
}
