package hubtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// A cluster is a number of hubs on one broker, with their clients and the account
// of everything sent through them.
type cluster struct {
	testing.TB
	nodes   []*node
	devices []*device
	rounds  int   // loads and fences so far
	began   int64 // Unix nanoseconds; nothing was sent before

	log     logBuffer
	records map[string][]load.Record // by sender
}

// A node is one hub.
type node struct {
	*herald.Hub
	server *httptest.Server

	mu   sync.Mutex // guards the rest
	gaps []load.Gap
}

// newCluster starts n hubs. wrap may put something between the i-th hub and its
// Bus; it may be nil.
func newCluster(t testing.TB, broker Broker, n int, config herald.Config, wrap func(i int, bus herald.Bus) herald.Bus) *cluster {
	t.Helper()
	c := &cluster{TB: t, began: time.Now().UnixNano(), records: make(map[string][]load.Record)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the hubs:\n%s", c.log.String())
		}
	})
	if broker.NewRegistry == nil {
		broker.NewRegistry = redisRegistries(t)
	}
	for i := range n {
		bus, err := broker.NewBus()
		if err != nil {
			t.Fatalf("Bus of hub %d: %v", i, err)
		}
		if wrap != nil {
			bus = wrap(i, bus)
		}
		c.start(i, bus, broker.NewRegistry, config)
	}
	return c
}

// redisRegistries starts a redis-server, and returns a function that makes
// Registries on it.
func redisRegistries(t testing.TB) func() (herald.Registry, error) {
	server := redistest.Start(t)
	return func() (herald.Registry, error) { return herald.NewRedisRegistry(server.Client(), nil) }
}

// start starts hub i on the Bus.
func (c *cluster) start(i int, bus herald.Bus, newRegistry func() (herald.Registry, error), config herald.Config) {
	c.Helper()
	registry, err := newRegistry()
	if err != nil {
		bus.Close()
		c.Fatalf("Registry of hub %d: %v", i, err)
	}
	if closer, ok := registry.(io.Closer); ok {
		c.Cleanup(func() { closer.Close() })
	}
	n := &node{}
	config.Name = fmt.Sprint("hub", i)
	config.Bus, config.Registry = bus, registry
	config.Authenticate = identify
	config.OnGap = n.onGap
	config.PingInterval = -1 // a slow machine must not take its clients for silent
	config.ProbeInterval = probeInterval
	config.SendTimeout = cmp.Or(config.SendTimeout, patience)
	config.MaxHandshakes, config.HandshakeRatePerAddr, config.HandshakeRatePerUser = -1, -1, -1 // all devices have one address
	config.Logger = slog.New(slog.NewTextHandler(&c.log, nil))
	if n.Hub, err = herald.New(config); err != nil {
		c.Fatalf("hub %d: %v", i, err)
	}
	n.server = httptest.NewServer(n.Hub)
	c.nodes = append(c.nodes, n)
	c.Cleanup(func() { c.stop(n) })
}

// stop shuts the hub down. Its clients have gone. It first waits until the hub has
// noticed that, because then Shutdown does not wait for them.
func (c *cluster) stop(n *node) {
	for deadline := time.Now().Add(patience); n.Stats().Conns > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		c.Errorf("%s: shutdown: %v", n.NodeID(), err)
	}
	n.server.Close()
}

// identify believes the query.
func identify(r *http.Request) (herald.Identity, error) {
	q := r.URL.Query()
	return herald.Identity{User: q.Get("user"), Device: q.Get("device"), Groups: q["group"]}, nil
}

func (n *node) onGap(g herald.Gap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gaps = append(n.gaps, load.NewGap(g))
}

func (n *node) gapsSoFar() []load.Gap {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.gaps)
}

// populate connects two devices of each user, each to another hub.
func (c *cluster) populate() {
	c.Helper()
	for i := range users {
		for j := range 2 {
			c.connect(c.nodes[(i+j)%len(c.nodes)], load.UserName(i), fmt.Sprint("device", j), load.Groups(i, users)...)
		}
	}
}

// A running load is one that the hubs are sending.
type running struct {
	c       *cluster
	stop    chan struct{}
	wg      sync.WaitGroup
	records []map[string][]load.Record // by hub
}

// send begins a load from every hub. count is the number of messages from each
// sender; with 0 they send until finish.
func (c *cluster) send(count int, pace time.Duration) *running {
	c.rounds++
	l := &running{c: c, stop: make(chan struct{}), records: make([]map[string][]load.Record, len(c.nodes))}
	for i, n := range c.nodes {
		order := load.Order{Sender: senderName(c.rounds, i), Senders: senders, Users: users, Count: count, Pace: pace}
		l.wg.Go(func() { l.records[i] = order.Run(context.Background(), n.Hub, l.stop) })
	}
	return l
}

// senderName returns the prefix of the names of a hub's senders.
func senderName(round, hub int) string { return strconv.Itoa(round) + "." + strconv.Itoa(hub) }

// finish stops the load, waits for its end, and keeps its records.
func (l *running) finish() {
	l.c.Helper()
	close(l.stop)
	l.wait()
}

// wait is finish for a load with a count, which ends by itself.
func (l *running) wait() {
	l.c.Helper()
	l.wg.Wait()
	for _, records := range l.records {
		for sender, list := range records {
			l.c.records[sender] = list
		}
	}
}

// settle ends the test if a message is not accounted for or a client was
// disconnected. It waits a while, because a gap may be reported a little after
// messages arrive again: it ends only when every hub has been heard.
func (c *cluster) settle() load.Tally {
	c.Helper()
	for deadline := time.Now().Add(gapPatience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, faults := c.account(); len(faults) == 0 {
			break
		}
	}
	for _, d := range c.devices {
		if err := d.disconnected(); err != nil {
			c.Errorf("%v was disconnected: %v", &d.Device, err)
		}
	}
	for _, n := range c.nodes {
		c.await("OnGap of "+n.NodeID(), func() error {
			if told, counted := len(n.gapsSoFar()), n.Stats().Gaps; uint64(told) != counted {
				return fmt.Errorf("told of %d gaps of %d", told, counted)
			}
			return nil
		})
		for _, g := range n.gapsSoFar() {
			if g.Since < c.began || g.Until < g.Since {
				c.Errorf("%s reported a gap that can not be:%s", n.NodeID(), load.Describe([]load.Gap{g}))
			}
		}
		if s := n.Stats(); s.Dropped+s.Malformed+s.TooSlow+s.Disconnected+s.Panics > 0 {
			c.Errorf("%s: %+v", n.NodeID(), s)
		}
	}
	total, faults := c.account()
	for i, err := range faults {
		if i == 10 {
			c.Errorf("and %d more", len(faults)-i)
			break
		}
		c.Error(err)
	}
	if c.Failed() {
		c.Log(total)
		c.FailNow() // the checks that follow would say the same
	}
	return total
}

// account compares what has arrived with what was sent so far.
func (c *cluster) account() (load.Tally, []error) {
	account := load.Account{Records: c.records, Gaps: make(map[string][]load.Gap)}
	for _, d := range c.devices {
		account.Devices = append(account.Devices, &d.Device)
	}
	for _, n := range c.nodes {
		account.Gaps[n.NodeID()] = n.gapsSoFar()
	}
	return account.Settle()
}

// expectNoGaps fails the test if a hub has reported more gaps than before.
func (c *cluster) expectNoGaps(before []int) {
	c.Helper()
	for i, n := range c.nodes {
		if gaps := n.gapsSoFar(); len(gaps) > before[i] {
			c.Errorf("%s reported gaps without a fault:%s", n.NodeID(), load.Describe(gaps[before[i]:]))
		}
	}
}

// gaps returns how many gaps each hub has reported.
func (c *cluster) gaps() (counts []int) {
	for _, n := range c.nodes {
		counts = append(counts, len(n.gapsSoFar()))
	}
	return counts
}

// awaitHealthy waits until all hubs are healthy.
func (c *cluster) awaitHealthy() {
	c.Helper()
	c.await("health of all hubs", func() error {
		var errs []error
		for _, n := range c.nodes {
			if err := n.Health(); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", n.NodeID(), err))
			}
		}
		return errors.Join(errs...)
	})
}

// await polls until ok returns nil.
func (c *cluster) await(what string, ok func() error) {
	c.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}

// A logBuffer collects what the hubs log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
