package receipttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/heraldtest"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// Thousands of calls at the same time, to devices of every manner, which come and go.
func TestRandom(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		testRandom(t, startNodes(t, 3, false, herald.Config{QueueMessages: 64, DropOldest: true}, nil), 3_000)
	})
	t.Run("Redis", func(t *testing.T) {
		server := redistest.Start(t)
		connect := func(c *herald.Config) { c.Redis = server.Client() }
		testRandom(t, startNodes(t, 2, false, herald.Config{}, connect), 1_500)
	})
}

// steady is the platform of the devices that answer every ping.
const steady = "steady"

// devices are all that there have ever been.
type devices struct {
	mu  sync.Mutex
	all []*client
}

// add returns the name of a new device.
func (s *devices) add() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, nil)
	return len(s.all) - 1
}

func (s *devices) put(device int, c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[device] = c
}

func (s *devices) get(device string) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := strconv.Atoi(device)
	if err != nil || i >= len(s.all) {
		return nil
	}
	return s.all[i]
}

// moody is another manner for each ping.
func moody(c *client, f wsraw.Frame) error {
	switch n := rand.IntN(20); {
	case n == 0:
		return leaver(c, f)
	case n == 1:
		return last(c, f)
	case n < 4:
		return mute(c, f)
	case n < 6 && isPing(f):
		return liar(c, f)
	case n == 6:
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // it stalls
	}
	return honest(c, f)
}

func testRandom(t *testing.T, nodes []*node, calls int) {
	const users = 20
	all := &devices{}
	manners := []manner{honest, moody, moody}
	ctx, stop := context.WithCancel(t.Context())
	var clients, connected sync.WaitGroup
	connected.Add(users * len(manners))
	for i := range users {
		for j, m := range manners {
			query := fmt.Sprintf("user=u%d&group=g%d", i, i%4)
			if j == 0 {
				query += "&platform=" + steady
			}
			clients.Go(func() {
				first := sync.OnceFunc(connected.Done)
				defer first()
				for ctx.Err() == nil {
					device := all.add()
					c, err := nodes[(i+j)%len(nodes)].tryConnect(fmt.Sprint(query, "&device=", device))
					if err != nil {
						t.Error(err)
						return
					}
					all.put(device, c)
					first()
					end := context.AfterFunc(ctx, func() { c.Close() })
					c.run(m)
					end()
				}
			})
		}
	}
	connected.Wait()
	var next, receipts, missed atomic.Int64
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(calls) {
					return
				}
				text := fmt.Sprint("message ", i)
				d, err := deliverOne(nodes[rand.IntN(len(nodes))], users, text)
				if err != nil {
					t.Error(err)
					continue
				}
				receipts.Add(int64(len(d.Received)))
				missed.Add(int64(len(d.Missed)))
				check(t, all, d, text)
			}
		})
	}
	callers.Wait()
	for i := range users { // however busy the machine is, who answers has receipts
		target := herald.User(fmt.Sprint("u", i)).On(steady)
		if d := nodes[0].deliver(within(t, patience), target, herald.Text("the last")); d.ReceivedTotal != 1 || d.MissedTotal != 0 {
			t.Errorf("user %d: %+v", i, d)
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d receipts, %d missed", receipts.Load(), missed.Load())
}

// deliverOne sends to a target at random.
func deliverOne(n *node, users int, text string) (herald.Delivery, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	target := herald.User(fmt.Sprint("u", rand.IntN(users)))
	switch rand.IntN(10) {
	case 0:
		target = herald.Group(fmt.Sprint("g", rand.IntN(4)), fmt.Sprint("g", rand.IntN(4)))
	case 1:
		target = herald.User(fmt.Sprint("u", rand.IntN(users)), fmt.Sprint("u", rand.IntN(users)))
	}
	m := herald.Text(text)
	if rand.IntN(5) == 0 {
		m = m.Volatile()
	}
	d, err := n.Deliver(ctx, target, m)
	if errors.Is(err, context.DeadlineExceeded) { // a machine that is busy
		err = nil
	}
	return d, err
}

// check holds the receipts to what the clients have seen.
func check(t *testing.T, all *devices, d herald.Delivery, text string) {
	seen := make(map[string]bool)
	for _, s := range d.Received {
		if c := all.get(s.Device); c == nil || c.times(text) != 1 {
			t.Errorf("a receipt of %s for %q, which has not arrived once", s.ID, text)
		}
		if seen[s.ID] {
			t.Errorf("%s is listed twice", s.ID)
		}
		seen[s.ID] = true
	}
	for _, s := range d.Missed {
		if seen[s.ID] {
			t.Errorf("%s is listed twice", s.ID)
		}
		seen[s.ID] = true
	}
	if len(d.Received) != d.ReceivedTotal || len(d.Missed) != d.MissedTotal {
		t.Errorf("%d and %d sessions, and totals of %d and %d", len(d.Received), len(d.Missed), d.ReceivedTotal, d.MissedTotal)
	}
}

// A WebSocket library that knows nothing of herald gives receipts while it reads.
func TestCoder(t *testing.T) {
	nodes := startNodes(t, 2, false, herald.Config{}, nil)
	dial := func(user string) *websocket.Conn {
		t.Helper()
		conn, err := nodes[1].dial()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		ws, _, err := websocket.Dial(within(t, patience), "ws://"+conn.RemoteAddr().String()+"/?user="+user, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		if _, _, err := ws.Read(within(t, patience)); err != nil { // its id
			t.Fatal(err)
		}
		return ws
	}
	reads := dial("reads")
	dial("asleep")
	read := make(chan string, 1)
	go func() {
		_, b, _ := reads.Read(context.Background())
		read <- string(b)
		reads.Read(context.Background())
	}()
	d := nodes[0].deliver(within(t, patience), herald.User("reads"), herald.Text("m"))
	if got := <-read; got != "m" || d.ReceivedTotal != 1 || d.MissedTotal != 0 {
		t.Errorf("read %q, and %+v", got, d)
	}
	if d := nodes[0].deliver(within(t, time.Second), herald.User("asleep"), herald.Text("m")); d.ReceivedTotal != 0 || d.MissedTotal != 1 {
		t.Errorf("nobody reads: %+v", d)
	}
}

// While the Bus is cut nothing is sent. What it loses is missed when the call ends:
// the message, or the report of its receipt.
func TestBusFaults(t *testing.T) {
	network, registry := herald.NewMemoryNetwork(), herald.NewMemoryRegistry()
	var buses []*heraldtest.FaultyBus
	nodes := startNodes(t, 2, false, herald.Config{ProbeInterval: -1}, func(c *herald.Config) {
		bus := heraldtest.NewFaultyBus(network)
		buses = append(buses, bus)
		c.Bus, c.Registry = bus, registry
	})
	c := nodes[1].connect("user=u", honest)
	for i, bus := range []*heraldtest.FaultyBus{buses[1], buses[0]} {
		bus.Lose(true)
		text := fmt.Sprint("lost by ", i)
		require(t, text, nodes[0].deliver(within(t, 2*time.Second), herald.User("u"), herald.Text(text)), nil, []*client{c})
		if c.has(text) != (i == 1) {
			t.Errorf("%s: it has come: %v", text, i == 0)
		}
		bus.Heal()
		require(t, "healed", nodes[0].deliver(within(t, patience), herald.User("u"), herald.Text("healed")), []*client{c}, nil)
	}
	buses[0].Cut()
	if _, err := nodes[0].Deliver(within(t, patience), herald.User("u"), herald.Text("cut")); !errors.Is(err, herald.ErrBusDown) {
		t.Errorf("while the Bus is cut: %v", err)
	}
	buses[0].Heal()
}
