package receipttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// bubble runs a test in a synctest bubble, with n nodes over pipes.
func bubble(t *testing.T, n int, config herald.Config, test func(t *testing.T, nodes []*node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, startNodes(t, n, true, config, nil)) })
}

// A client's receipt is settled according to its manner, and no later than it must
// be.
func TestManners(t *testing.T) {
	for name, test := range map[string]struct {
		manner   manner
		received bool
		within   time.Duration // when the call ends; 10 s is the end of its context
	}{
		"honest":            {honest, true, 0},
		"pongs and leaves":  {last, true, 0},
		"leaves":            {leaver, false, 0},
		"mute":              {mute, false, 10 * time.Second},
		"liar":              {liar, false, 10 * time.Second},
		"reads nothing":     {nil, false, 10 * time.Second},
		"the second in two": {lazy(2), false, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, herald.Config{}, func(t *testing.T, nodes []*node) {
				c := nodes[1].connect("user=u&platform=ios", test.manner)
				other := nodes[0].connect("user=u", honest)
				began := time.Now()
				d := nodes[0].deliver(within(t, 10*time.Second), herald.User("u"), herald.Text("m"))
				if took := time.Since(began); took > test.within {
					t.Errorf("it took %v", took)
				}
				want := []*client{other}
				if test.received {
					require(t, name, d, append(want, c), nil)
				} else {
					require(t, name, d, want, []*client{c})
					if s := d.Missed[0]; s.User != "u" || s.Platform != "ios" || s.Since.IsZero() {
						t.Errorf("missed is %+v", s)
					}
				}
			})
		})
	}
}

// A pong for the last of several pings answers all of them. One for an older ping
// says nothing about newer ones.
func TestCumulative(t *testing.T) {
	bubble(t, 2, herald.Config{}, func(t *testing.T, nodes []*node) {
		c := nodes[1].connect("user=u", lazy(5))
		old := nodes[1].connect("user=u", stale())
		var wg sync.WaitGroup
		received := make([]map[string]bool, 5)
		for i := range 5 {
			wg.Go(func() {
				d, err := nodes[0].Deliver(within(t, 10*time.Second), herald.User("u"), herald.Text(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
				}
				received[i] = ids(d.Received)
			})
			synctest.Wait() // so that they arrive in this order
		}
		wg.Wait()
		for i, r := range received {
			if !r[c.id] || r[old.id] != (i == 0) {
				t.Errorf("message %d: received by %v", i, r)
			}
		}
	})
}

// If a client has answered no fence, but then answers keepalive's ping, it has
// received everything that was written before that ping.
func TestKeepalive(t *testing.T) {
	bubble(t, 2, herald.Config{PingInterval: 3 * time.Second, PongTimeout: 5 * time.Second}, func(t *testing.T, nodes []*node) {
		c := nodes[1].connect("user=u", lazy(3))
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				d, err := nodes[0].Deliver(within(t, 30*time.Second), herald.User("u"), herald.Text("m"))
				if err != nil {
					t.Error(err)
				}
				require(t, "answered keepalive", d, []*client{c}, nil)
			})
		}
		wg.Wait()
	})
}

// A client that is found silent has missed the messages that it has not answered.
func TestSilent(t *testing.T) {
	bubble(t, 2, herald.Config{PingInterval: 3 * time.Second, PongTimeout: 5 * time.Second}, func(t *testing.T, nodes []*node) {
		c := nodes[1].connect("user=u", mute)
		began := time.Now()
		d := nodes[0].deliver(context.Background(), herald.User("u"), herald.Text("m"))
		require(t, "silent", d, nil, []*client{c})
		if took := time.Since(began); took < 5*time.Second || took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Without a deadline of the caller, a call ends after a minute. If its context is
// canceled, it ends at once.
func TestBounds(t *testing.T) {
	bubble(t, 2, herald.Config{PingInterval: -1}, func(t *testing.T, nodes []*node) {
		c := nodes[1].connect("user=u", mute)
		began := time.Now()
		require(t, "no deadline", nodes[0].deliver(context.Background(), herald.User("u"), herald.Text("m")), nil, []*client{c})
		if took := time.Since(began); took != time.Minute {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		began = time.Now()
		require(t, "canceled", nodes[0].deliver(ctx, herald.User("u"), herald.Text("m")), nil, []*client{c})
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// A message that a queue drops is missed at once.
func TestDrops(t *testing.T) {
	for name, test := range map[string]struct {
		config herald.Config
		more   int // messages that follow
	}{
		"the oldest":      {herald.Config{QueueMessages: 4, DropOldest: true}, 4},
		"too slow":        {herald.Config{QueueMessages: 4}, 4},
		"over the budget": {herald.Config{MaxSendSize: 100, MaxQueuedBytes: 10_000, DropOldest: true}, 300},
		"closed for it":   {herald.Config{MaxSendSize: 100, MaxQueuedBytes: 10_000}, 300},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, test.config, func(t *testing.T, nodes []*node) {
				c := nodes[0].connect("user=u", nil) // over a pipe the first write waits
				if err := nodes[0].Send(t.Context(), herald.User("u"), herald.Text("blocks")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				done := make(chan herald.Delivery, 1)
				began := time.Now()
				go func() {
					d, err := nodes[0].Deliver(within(t, 30*time.Second), herald.User("u"), herald.Text("first"))
					if err != nil {
						t.Error(err)
					}
					done <- d
				}()
				synctest.Wait()
				for range test.more {
					nodes[0].Send(t.Context(), herald.User("u"), herald.Text("more"))
				}
				require(t, name, <-done, nil, []*client{c})
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
	t.Run("volatile", func(t *testing.T) {
		bubble(t, 1, herald.Config{QueueMessages: 4}, func(t *testing.T, nodes []*node) {
			c := nodes[0].connect("user=u", nil)
			idle := nodes[0].connect("user=u", honest)
			for range 3 {
				nodes[0].Send(t.Context(), herald.User("u"), herald.Text("fills"))
			}
			synctest.Wait()
			began := time.Now()
			d := nodes[0].deliver(within(t, 30*time.Second), herald.User("u"), herald.Text("m").Volatile())
			require(t, "volatile", d, []*client{idle}, []*client{c})
			if took := time.Since(began); took != 0 {
				t.Errorf("it took %v", took)
			}
		})
	})
}

// Every kind of target gets receipts.
func TestTargets(t *testing.T) {
	bubble(t, 3, herald.Config{}, func(t *testing.T, nodes []*node) {
		a := nodes[1].connect("user=a&group=g&group=h&platform=ios", honest)
		b := nodes[2].connect("user=b&group=h&platform=web", honest)
		c := nodes[2].connect("user=b", honest)
		gone := nodes[2].connect("user=c", leaver)
		gone.Close()
		<-gone.done
		synctest.Wait()
		absent := &client{id: "nowhere-x.7"}
		for name, test := range map[string]struct {
			target           herald.Target
			received, missed []*client
		}{
			"users":            {herald.User("a", "b", "a", "nobody"), []*client{a, b, c}, nil},
			"nobody":           {herald.User(), nil, nil},
			"absent":           {herald.User("nobody"), nil, nil},
			"groups":           {herald.Group("g", "h"), []*client{a, b}, nil},
			"except":           {herald.Group("h").Except(b.id), []*client{a}, nil},
			"except user":      {herald.User("a", "b").ExceptUser("b"), []*client{a}, nil},
			"on":               {herald.User("a", "b").On("web", ""), []*client{b, c}, nil},
			"on nothing":       {herald.User("a").On(), nil, nil},
			"connections":      {herald.Connection(a.id, c.id, gone.id, absent.id), []*client{a, c}, []*client{gone, absent}},
			"connections once": {herald.Connection(a.id, a.id).Except(b.id), []*client{a}, nil},
			"connections on":   {herald.Connection(a.id, b.id, c.id).On("web").Except(c.id), []*client{b}, nil},
		} {
			d := nodes[0].deliver(within(t, 30*time.Second), test.target, herald.Text(name))
			require(t, name, d, test.received, test.missed)
			synctest.Wait() // a copy would arrive behind it
			for _, c := range test.received {
				if n := c.times(name); n != 1 {
					t.Errorf("%s: it has arrived %d times", name, n)
				}
			}
			for _, s := range d.Received {
				if s.User == "" || s.Since.IsZero() {
					t.Errorf("%s: received by %+v", name, s)
				}
			}
		}
		time.Sleep(2 * time.Second) // the nodes tell the Registry how many connections they have
		d := nodes[0].deliver(within(t, 30*time.Second), herald.Everyone(), herald.Text("all"))
		if d.ReceivedTotal != 3 || d.MissedTotal != 0 || d.Received != nil || d.Missed != nil {
			t.Errorf("everyone: %+v", d)
		}
	})
}

// If a message cannot be sent, the call returns an error, and nothing is sent.
func TestErrors(t *testing.T) {
	bubble(t, 1, herald.Config{MaxSendSize: 100}, func(t *testing.T, nodes []*node) {
		n := nodes[0]
		c := n.connect("user=u", mute)
		for name, test := range map[string]struct {
			target  herald.Target
			message herald.Message
		}{
			"no target":     {herald.Target{}, herald.Text("m")},
			"no user":       {herald.User(""), herald.Text("m")},
			"no connection": {herald.Connection("x"), herald.Text("m")},
			"too large":     {herald.User("u"), herald.Text(strings.Repeat("x", 101))},
			"no UTF-8":      {herald.User("u"), herald.Text("\xff")},
		} {
			if d, err := n.Deliver(t.Context(), test.target, test.message); !errors.Is(err, herald.ErrInvalid) || d.MissedTotal != 0 {
				t.Errorf("%s: %+v, %v", name, d, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := n.Deliver(ctx, herald.User("u"), herald.Text("m")); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that is done: %v", err)
		}
		ended := make(chan error)
		go func() {
			_, err := n.Deliver(t.Context(), herald.User("u"), herald.Text("last"))
			ended <- err
		}()
		synctest.Wait()
		if !c.has("last") || c.has("m") {
			t.Error("what was to be sent has not come, or what was not has")
		}
		go n.Shutdown(within(t, 40*time.Second))
		if err := <-ended; err != nil && !errors.Is(err, herald.ErrClosed) { // unless the last report is faster
			t.Errorf("Deliver while the Hub shuts down: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := n.Deliver(t.Context(), herald.User("u"), herald.Text("m")); !errors.Is(err, herald.ErrClosed) {
			t.Errorf("Deliver after Shutdown: %v", err)
		}
	})
}

// With more than a thousand sessions, only numbers are returned.
func TestMany(t *testing.T) {
	bubble(t, 2, herald.Config{}, func(t *testing.T, nodes []*node) {
		for i := range 1_000 {
			nodes[i%2].connect("user=u&group=g", honest)
		}
		d := nodes[0].deliver(within(t, 30*time.Second), herald.Group("g"), herald.Text("m"))
		if len(d.Received) != 1_000 || d.ReceivedTotal != 1_000 || d.MissedTotal != 0 {
			t.Errorf("%d received, %d, %d missed", len(d.Received), d.ReceivedTotal, d.MissedTotal)
		}
		nodes[0].connect("user=u&group=g", mute)
		d = nodes[0].deliver(within(t, 30*time.Second), herald.Group("g"), herald.Text("m"))
		if d.Received != nil || d.Missed != nil || d.ReceivedTotal != 1_000 || d.MissedTotal != 1 {
			t.Errorf("%d received, %d, %d missed", len(d.Received), d.ReceivedTotal, d.MissedTotal)
		}
	})
}

// Pongs that answer a fence do not count against MessageRate.
func TestPongsAreFree(t *testing.T) {
	bubble(t, 1, herald.Config{MessageRate: 5}, func(t *testing.T, nodes []*node) {
		c := nodes[0].connect("user=u", honest)
		for range 50 {
			require(t, "fast", nodes[0].deliver(within(t, 30*time.Second), herald.User("u"), herald.Text("m")), []*client{c}, nil)
		}
		lying := nodes[0].connect("user=liar", liar)
		require(t, "lying", nodes[0].deliver(within(t, 30*time.Second), herald.User("liar"), herald.Text("m")), nil, []*client{lying})
		terse := nodes[0].connect("user=terse", empty)
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				d, err := nodes[0].Deliver(within(t, time.Second), herald.User("terse"), herald.Text("m"))
				if err != nil {
					t.Error(err)
				}
				require(t, "terse", d, nil, []*client{terse})
			})
		}
		calls.Wait()
		if s := nodes[0].Stats(); s.TooFast != 1 {
			t.Errorf("%d are too fast, and only the liar is", s.TooFast)
		}
	})
}

// A receipt does not wait for OnMessage to return, even if OnMessage itself asked
// for it.
func TestWhileOnMessageRuns(t *testing.T) {
	var received chan herald.Delivery // made where it is used, because a channel belongs to one bubble
	config := herald.Config{OnMessage: func(ctx context.Context, c *herald.Conn, m herald.Message) {
		ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
		defer cancel()
		d, err := c.Hub().Deliver(ctx, herald.User(c.User()), m)
		if err != nil {
			t.Error(err)
		}
		received <- d
	}}
	ask := wsraw.Frame{Fin: true, Opcode: wsraw.Text, Payload: []byte("m")}
	for _, interval := range []time.Duration{0, -1} {
		config.PingInterval = interval
		bubble(t, 1, config, func(t *testing.T, nodes []*node) {
			received = make(chan herald.Delivery, 1)
			c := nodes[0].connect("user=u", honest)
			began := time.Now()
			c.WriteFrames(ask)
			require(t, "a pipe", <-received, []*client{c}, nil)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	received = make(chan herald.Delivery, 1)
	c := startNodes(t, 1, false, config, nil)[0].connect("user=u", honest)
	c.WriteFrames(ask)
	require(t, "TCP", <-received, []*client{c}, nil)
}

// A session that is still listed, but left before the message came, is missed as
// soon as it is no longer listed.
func TestListedAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
		var handles []*heraldtest.FaultyRegistry
		nodes := startNodes(t, 2, true, herald.Config{Lease: time.Hour}, func(c *herald.Config) {
			handles = append(handles, heraldtest.NewFaultyRegistry(registry))
			c.Bus, c.Registry = network.Bus(), handles[len(handles)-1]
		})
		c := nodes[1].connect("user=u", honest)
		handles[1].Cut() // it does not learn of the end
		c.Close()
		<-c.done
		synctest.Wait()
		time.AfterFunc(10*time.Second, handles[1].Heal)
		began := time.Now()
		require(t, "gone", nodes[0].deliver(t.Context(), herald.User("u"), herald.Text("m")), nil, []*client{c})
		if took := time.Since(began); took < 10*time.Second || took == time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}
