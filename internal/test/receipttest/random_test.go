package receipttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// Thousands of concurrent calls go to devices of every manner, which come and go.
func TestRandom(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		nodes := startNodes(t, 3, false, herald.Config{QueueMessages: 64, DropOldest: true}, nil)
		(&trial{nodes: nodes, calls: 3_000}).run(t)
	})
	t.Run("Retention", func(t *testing.T) {
		nodes := startNodes(t, 2, false, herald.Config{Retention: time.Minute}, nil)
		(&trial{nodes: nodes, calls: 500}).run(t)
	})
	t.Run("Redis", func(t *testing.T) {
		server := redistest.Start(t)
		connect := func(c *herald.Config) { c.Redis = server.Client() }
		nodes := startNodes(t, 2, false, herald.Config{}, connect)
		(&trial{nodes: nodes, calls: 1_500}).run(t)
	})
}

// These are the platforms of devices that answer every ping. The node of steady is
// never killed.
const (
	steady = "steady"
	mortal = "mortal"
)

// devices has all devices that have ever existed.
type devices struct {
	mu  sync.Mutex
	all []*client
}

// add returns the number of a new device.
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

// moody behaves differently at each ping.
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

// A trial makes many concurrent calls to users with three devices each.
type trial struct {
	calls  int
	wait   time.Duration // how long a call waits for receipts; 0 means 300 ms
	kills  int           // how often the last node is killed, whose clients then go to a new one
	revive func() *node  // starts the new one

	devices devices

	mu    sync.Mutex
	nodes []*node

	called atomic.Int64
	due    chan struct{} // a kill is due

	receipts, missed, late, failed atomic.Int64 // late messages have arrived, but are in Missed
	refused                        atomic.Int64 // calls that sent nothing
	last                           atomic.Value // the last error of another call, as text
	slowest                        atomic.Int64 // the longest time that a call took beyond its own
}

const users = 20

// at returns the node for the i-th device of a user.
func (tr *trial) at(i int) *node {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.nodes[i%len(tr.nodes)]
}

// dies reports whether the node was killed or may be.
func (tr *trial) dies(n *node) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.kills > 0 && !slices.Contains(tr.nodes[:len(tr.nodes)-1], n)
}

func (tr *trial) run(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	clients := tr.connect(t, ctx)
	tr.due = make(chan struct{}, tr.calls)
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for i := tr.called.Add(1); i <= int64(tr.calls); i = tr.called.Add(1) {
				if tr.kills > 0 && i%int64(tr.calls/tr.kills) == 250 {
					tr.due <- struct{}{}
				}
				for until := time.Now().Add(patience); !tr.call(t, fmt.Sprint("message ", i)); time.Sleep(lease / 10) {
					if time.Now().After(until) {
						t.Errorf("message %d: no node believes the Registry for %v", i, patience)
						break
					}
				}
			}
		})
	}
	for range tr.kills {
		<-tr.due
		tr.kill()
	}
	callers.Wait()
	for i := range users { // however busy the machine is, devices that answer get receipts
		target, until := herald.User(fmt.Sprint("u", i)).On(steady), within(t, patience)
		d, err := tr.at(0).Deliver(until, target, herald.Text("the last"))
		for ; errors.Is(err, herald.ErrRegistryDown) && until.Err() == nil; time.Sleep(lease / 10) {
			d, err = tr.at(0).Deliver(until, target, herald.Text("the last"))
		}
		if err != nil || d.ReceivedTotal != 1 || d.MissedTotal != 0 {
			t.Errorf("user %d: %+v, %v", i, d, err)
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d calls: %d receipts, %d missed, of which %d have come; %d errors, the last %v; %d refusals; %d nodes killed; the slowest took %v beyond its time",
		tr.calls, tr.receipts.Load(), tr.missed.Load(), tr.late.Load(), tr.failed.Load(), tr.last.Load(), tr.refused.Load(), tr.kills, time.Duration(tr.slowest.Load()))
	if tr.receipts.Load() == 0 {
		t.Error("that proves nothing")
	}
}

// connect connects all devices, which come back until ctx is done. The first device
// of each user answers every ping, and is on a node that is never killed.
func (tr *trial) connect(t *testing.T, ctx context.Context) *sync.WaitGroup {
	manners := []manner{honest, moody, moody}
	if tr.kills > 0 {
		manners = []manner{honest, honest, moody}
	}
	var clients, connected sync.WaitGroup
	connected.Add(users * len(manners))
	for i := range users {
		for j, m := range manners {
			place, query := i+j, fmt.Sprintf("user=u%d&group=g%d", i, i%4)
			switch {
			case j == 0:
				query += "&platform=" + steady
			case tr.kills > 0 && j == 1:
				query += "&platform=" + mortal
			}
			if tr.kills > 0 {
				place = []int{i % 2, 2, i % 3}[j]
			}
			clients.Go(func() {
				first := sync.OnceFunc(connected.Done)
				defer first()
				began := time.Now()
				for ctx.Err() == nil {
					n, device := tr.at(place), tr.devices.add()
					c, err := n.tryConnect(fmt.Sprint(query, "&device=", device))
					if err != nil {
						if tr.dies(n) || errors.Is(err, errNotReady) && time.Since(began) < patience {
							time.Sleep(lease / 100)
							continue
						}
						t.Error(err)
						return
					}
					tr.devices.put(device, c)
					first()
					end := context.AfterFunc(ctx, func() { c.Close() })
					c.run(m)
					end()
					began = time.Now()
				}
			})
		}
	}
	connected.Wait()
	return &clients
}

// kill starts a new node in place of the last one, which it kills without a
// goodbye.
func (tr *trial) kill() {
	n := tr.revive()
	tr.mu.Lock()
	last := &tr.nodes[len(tr.nodes)-1]
	n, *last = *last, n
	tr.mu.Unlock()
	n.kill()
}

// call sends to a random target, and compares the receipts with what the clients
// saw. It returns false if nothing was sent because the Registry could not be
// trusted: after a node has died, or while the machine is too busy to renew leases.
func (tr *trial) call(t *testing.T, text string) (sent bool) {
	wait := cmp.Or(tr.wait, 300*time.Millisecond)
	n, target := tr.at(rand.IntN(len(tr.nodes))), herald.User(fmt.Sprint("u", rand.IntN(users)))
	switch rand.IntN(10) {
	case 0:
		target = herald.Group(fmt.Sprint("g", rand.IntN(4)), fmt.Sprint("g", rand.IntN(4)))
	case 1:
		target = herald.User(fmt.Sprint("u", rand.IntN(users)), fmt.Sprint("u", rand.IntN(users)))
	}
	if tr.kills > 0 && rand.IntN(20) == 0 { // for longer than a lease, whose end may have to end the call
		n, target, wait = tr.at(rand.IntN(len(tr.nodes)-1)), target.On(mortal), 4*lease
	}
	m := herald.Text(text)
	if rand.IntN(5) == 0 {
		m = m.Volatile()
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	began := time.Now()
	d, err := n.Deliver(ctx, target, m)
	over := time.Since(began) - wait
	if over > patience {
		t.Errorf("%q took %v more than its time", text, over)
	}
	for old := tr.slowest.Load(); int64(over) > old && !tr.slowest.CompareAndSwap(old, int64(over)); old = tr.slowest.Load() {
	}
	if errors.Is(err, herald.ErrRegistryDown) {
		tr.refused.Add(1)
		return false
	}
	if err != nil {
		tr.failed.Add(1)
		tr.last.Store(err.Error())
		if !errors.Is(err, context.DeadlineExceeded) && !tr.dies(n) { // a machine may be too busy to send in time
			t.Error(err)
		}
		return true
	}
	tr.receipts.Add(int64(len(d.Received)))
	tr.missed.Add(int64(len(d.Missed)))
	for _, s := range d.Missed {
		if c := tr.devices.get(s.Device); c != nil && c.has(text) {
			tr.late.Add(1)
		}
	}
	check(t, &tr.devices, d, text)
	return true
}

// check compares the receipts with what the clients have seen.
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
