package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// sizes says how much of everything one round does.
type sizes struct {
	users      int // connections, one a user
	bursts     int // of broadcasts
	burst      int // broadcasts in one
	singles    int // broadcasts, each after the last has arrived everywhere
	small, big int // messages of 128 B and of 2 KB
	latency    int // messages, 1,000 a second; five times as many, 10,000 a second
	spread     int // messages at 2 and at 16 nodes
	tls        int // messages over TLS
	quiet      int // topics with one message each
}

var (
	fullSizes  = sizes{users: 5000, bursts: 3, burst: 20, singles: 20, small: 200_000, big: 50_000, latency: 10_000, spread: 200_000, tls: 50_000, quiet: 100_000}
	shortSizes = sizes{users: 5000, bursts: 1, burst: 20, singles: 10, small: 200_000, big: 20_000, latency: 3_000, spread: 100_000, tls: 20_000, quiet: 100_000}
)

const (
	senders  = 64
	patience = 3 * time.Second // without a message, then the rest is lost
	manyUp   = 16
)

// figures are what one round measured, by row.
type figures map[string]float64

// A round measures one contestant once.
type round struct {
	kind  string
	sizes sizes
	redis *redisServer
	seen  figures

	profiles string // the directory for CPU profiles, or ""

	nodes []*node // the first publishes
	load  *load
	next  int // number of the next message
}

// open starts so many nodes and connects every user to one of those that do
// not publish.
func (r *round) open(count int, useTLS bool) error {
	if err := r.redis.flush(); err != nil {
		return err
	}
	for range count {
		n, err := startNode(r.kind, r.redis.addr, useTLS)
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, n)
	}
	var err error
	if r.load, err = newLoad(protocols[r.kind]); err != nil {
		return err
	}
	r.next = 0
	takers := r.takers()
	for i, n := range takers {
		if err := r.load.connectAll(n.addr, i, len(takers), r.sizes.users, 128, useTLS); err != nil {
			return err
		}
	}
	return nil
}

// takers are the nodes with clients: all but the first, or the only one.
func (r *round) takers() []*node {
	return r.nodes[min(1, len(r.nodes)-1):]
}

func (r *round) close() {
	if r.load != nil {
		r.load.close()
		r.load = nil
	}
	for _, n := range r.nodes {
		n.stop()
	}
	r.nodes = nil
}

// count is how many nodes the contestant has where others have two.
func (r *round) count() int {
	if r.kind == "floor" {
		return 1
	}
	return 2
}

// main measures all that needs two nodes.
func (r *round) main() error {
	defer r.close()
	if err := r.idle(); err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"broadcast bursts", r.bursts},
		{"single broadcasts", r.singles},
		{"128 B to users", func() error { return r.sends("user128", r.sizes.small, 128) }},
		{"2 KB to users", func() error { return r.sends("user2k", r.sizes.big, 2048) }},
		{"latency at 1,000 a second", func() error { return r.latency("latency", r.sizes.latency, 1000) }},
		{"latency at 10,000 a second", func() error { return r.latency("latency10k", 5*r.sizes.latency, 10_000) }},
	}
	for _, s := range steps {
		if err := r.profile(s.name); err != nil {
			return err
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return r.profile("")
}

// profile makes every node write a CPU profile of what comes, until the next call.
func (r *round) profile(name string) error {
	if r.profiles == "" || r.kind == "socket.io" {
		return nil
	}
	for i, n := range r.nodes {
		path := ""
		if name != "" {
			path = filepath.Join(r.profiles, fmt.Sprintf("%s %s node %d.pprof", r.kind, name, i+1))
		}
		if _, err := n.do(command{Do: "profile", Path: path}); err != nil {
			return err
		}
	}
	return nil
}

// idle starts the nodes, connects everyone, and looks at what that costs.
func (r *round) idle() error {
	users := r.sizes.users
	r.sizes.users = 0
	if err := r.open(r.count(), false); err != nil {
		return err
	}
	r.sizes.users = users
	taker := r.takers()[0]
	// One client more, so that nothing is counted that any first one costs.
	if err := r.load.connectAll(taker.addr, users, 1, users+1, 1, false); err != nil {
		return err
	}
	before, err := taker.do(command{Do: "settle"})
	if err != nil {
		return err
	}
	cpu, err := r.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := r.load.connectAll(taker.addr, 0, 1, users, 128, false); err != nil {
		return err
	}
	elapsed := time.Since(start)
	after, err := r.cpu()
	if err != nil {
		return err
	}
	n := float64(users)
	r.seen["storm.cpu"] = micros(after-cpu) / n
	r.seen["storm.time"] = elapsed.Seconds()
	time.Sleep(time.Second)
	idle, err := taker.do(command{Do: "settle"})
	if err != nil {
		return err
	}
	r.seen["idle.rss"] = float64(idle.RSS-before.RSS) / n / 1024
	r.seen["idle.memory"] = float64(idle.Memory-before.Memory) / n / 1024
	if r.kind != "socket.io" {
		r.seen["idle.goroutines"] = float64(idle.Goroutines-before.Goroutines) / n
	}
	return nil
}

// cpu is the time of all nodes together.
func (r *round) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, n := range r.nodes {
		a, err := n.do(command{Do: "stats"})
		if err != nil {
			return 0, err
		}
		sum += a.CPU
	}
	return sum, nil
}

// A sending is what one command to publish came to.
type sending struct {
	cpu       time.Duration // of all nodes
	elapsed   time.Duration // until the last message arrived
	arrived   int64         // deliveries
	bytes     int64         // that clients read
	wanted    int64
	taken     uint64 // memory allocations of the nodes with clients
	allocated uint64 // of all nodes
	redis     time.Duration
}

// send publishes and waits for what comes of it.
func (r *round) send(c command) (sending, error) {
	var s sending
	c.Do, c.Users, c.First = "publish", r.sizes.users, r.next
	r.next += c.Count
	each := int64(1)
	if c.To == "everyone" {
		each = int64(r.load.connected.Load())
	}
	s.wanted = each * int64(c.Count)
	r.load.tally.personal.Store(c.To == "user")
	before, err := r.usage()
	if err != nil {
		return s, err
	}
	tally := &r.load.tally
	had, hadSum, hadBytes, closed := tally.count.Load(), tally.sum.Load(), tally.bytes.Load(), tally.closed.Load()
	start := time.Now()
	a, err := r.nodes[0].do(c)
	if err != nil {
		return s, err
	}
	r.load.await(had+s.wanted, patience)
	s.elapsed = time.Since(start)
	s.arrived, s.bytes = tally.count.Load()-had, tally.bytes.Load()-hadBytes
	if s.arrived < s.wanted {
		s.elapsed -= patience
	}
	after, err := r.usage()
	if err != nil {
		return s, err
	}
	s.cpu, s.taken, s.allocated, s.redis = after.cpu-before.cpu, after.taken-before.taken, after.allocated-before.allocated, after.redis-before.redis
	if lost := s.wanted - s.arrived; lost != 0 || a.Failed > 0 {
		progress("  %s: %d of %d lost, %d calls failed, %d connections closed by the server", r.kind, lost, s.wanted, a.Failed, tally.closed.Load()-closed)
	} else if sum := each * sumOf(c.First, c.Count); tally.sum.Load()-hadSum != sum {
		return s, errors.New("as many messages came as were sent, but not the same")
	}
	if n := tally.strange.Load(); n > 0 {
		return s, fmt.Errorf("%d messages came to the wrong user", n)
	}
	if n := tally.spoilt.Load(); n > 0 {
		return s, fmt.Errorf("%d messages came spoilt", n)
	}
	return s, nil
}

func sumOf(first, count int) int64 {
	return int64(count)*int64(first) + int64(count)*int64(count-1)/2
}

// A usage is what has been used since the start.
type usage struct {
	cpu, redis       time.Duration
	taken, allocated uint64
}

func (r *round) usage() (usage, error) {
	var u usage
	for i, n := range r.nodes {
		a, err := n.do(command{Do: "stats"})
		if err != nil {
			return u, err
		}
		u.cpu += a.CPU
		u.allocated += a.Mallocs
		if i > 0 || len(r.nodes) == 1 {
			u.taken += a.Mallocs
		}
	}
	var err error
	u.redis, err = r.redis.cpu()
	return u, err
}

func (r *round) bursts() error {
	var cpu time.Duration
	var arrived int64
	for range r.sizes.bursts {
		s, err := r.send(command{To: "everyone", Count: r.sizes.burst, Senders: r.sizes.burst, Size: 128})
		if err != nil {
			return err
		}
		cpu += s.cpu
		arrived += s.arrived
	}
	r.seen["burst.cpu"] = micros(cpu) / float64(arrived)
	return nil
}

func (r *round) singles() error {
	var arrived int64
	before, err := r.cpu()
	if err != nil {
		return err
	}
	for range r.sizes.singles {
		c := command{Do: "publish", To: "everyone", Count: 1, Senders: 1, Size: 128, First: r.next}
		r.next++
		had := r.load.tally.count.Load()
		if _, err := r.nodes[0].do(c); err != nil {
			return err
		}
		r.load.await(had+int64(r.load.connected.Load()), patience)
		arrived += r.load.tally.count.Load() - had
	}
	after, err := r.cpu()
	if err != nil {
		return err
	}
	r.seen["single.cpu"] = micros(after-before) / float64(arrived)
	return nil
}

// sends sends messages to users, as fast as the senders can.
func (r *round) sends(row string, count, size int) error {
	s, err := r.send(command{To: "user", Count: count, Senders: senders, Size: size})
	if err != nil {
		return err
	}
	n := float64(s.arrived)
	r.seen[row+".cpu"] = micros(s.cpu) / n
	r.seen[row+".rate"] = n / s.elapsed.Seconds()
	r.seen[row+".lost"] = float64(s.wanted - s.arrived)
	if r.kind != "floor" {
		r.seen[row+".redis"] = micros(s.redis) / float64(count)
	}
	if r.kind != "socket.io" {
		r.seen[row+".allocs"] = float64(s.taken) / n
		r.seen[row+".allallocs"] = float64(s.allocated) / n
	}
	return nil
}

// latency sends so many messages to users, rate of them a second.
func (r *round) latency(row string, count, rate int) error {
	_, err := r.timed(row, command{To: "user", Count: count, Rate: rate, Size: 128})
	return err
}

// timed sends, and sees how long each message takes.
func (r *round) timed(row string, c command) (sending, error) {
	t := &r.load.tally
	t.mu.Lock()
	t.latencies = make([]time.Duration, 0, c.Count)
	t.mu.Unlock()
	t.timed.Store(true)
	defer t.timed.Store(false)
	s, err := r.send(c)
	t.mu.Lock()
	seen := t.latencies
	t.mu.Unlock()
	if err != nil {
		return s, err
	}
	slices.Sort(seen)
	for name, per := range map[string]int{"p50": 500, "p99": 990, "p99.9": 999} {
		if len(seen) > 0 {
			r.seen[row+"."+name] = micros(seen[len(seen)*per/1000]) / 1000
		}
	}
	return s, nil
}

// spread measures sends to users at 2 and at 16 nodes.
func (r *round) spread() error {
	var cost [2]float64
	for i, count := range []int{2, manyUp} {
		err := func() error {
			defer r.close()
			if err := r.open(count, false); err != nil {
				return err
			}
			for _, n := range r.nodes { // the storm's garbage is no part of this
				if _, err := n.do(command{Do: "settle"}); err != nil {
					return err
				}
			}
			if err := r.profile(fmt.Sprintf("sends at %d nodes", count)); err != nil {
				return err
			}
			s, err := r.send(command{To: "user", Count: r.sizes.spread, Senders: senders, Size: 128})
			cost[i] = micros(s.cpu) / float64(max(s.arrived, 1))
			if err != nil {
				return err
			}
			return r.profile("")
		}()
		if err != nil {
			return fmt.Errorf("%d nodes: %w", count, err)
		}
	}
	r.seen["nodes.2"], r.seen["nodes.16"], r.seen["nodes.factor"] = cost[0], cost[1], cost[1]/cost[0]
	return nil
}

// tls measures sends to users whose connections are over TLS.
func (r *round) tls() error {
	defer r.close()
	r.sizes.users = 1000
	if err := r.open(2, true); err != nil {
		return err
	}
	s, err := r.send(command{To: "user", Count: r.sizes.tls, Senders: senders, Size: 128})
	if err != nil {
		return err
	}
	r.seen["tls.cpu"] = micros(s.cpu) / float64(s.arrived)
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
