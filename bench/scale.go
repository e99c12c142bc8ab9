package main

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// -scale does each thing that a Hub does with many connections, with n of them and with
// ten times as many, and tells with which power of their number the cost grew.

const (
	scaleFactor = 10
	scaleGroup  = "all"            // the group that everyone joins
	scaleIdle   = 5 * time.Second  // how long nothing is done, to see what that costs
	scaleSends  = 10               // messages of a step that sends
	scaleWithin = 3 * time.Minute  // a step that takes longer has failed
	spareFiles  = 500              // descriptors of a process that are not its clients'
	getToKnow   = 2 * time.Second  // a new node hears of the others in this time
	settleDown  = 10 * time.Second // after this time without a message connections are quiet
)

var idleStep = fmt.Sprint("idle for ", scaleIdle)

// A world is some nodes, of which the first has no clients, and their clients in
// processes of their own.
type world struct {
	redis  *redisServer
	nodes  []*node
	crowds []*node
	users  int // connections, one a user

	sent  int // messages
	costs []cost
}

// A cost is what one step took, and what is held after it.
type cost struct {
	step                 string
	elapsed, hubs, redis time.Duration
	held                 held
}

// held is what the living nodes together and Redis hold.
type held struct {
	hubs, redis int64 // bytes: resident after a garbage collection, and allocated
	goroutines  int
}

// scale runs the steps with users/10 and with users connections over so many nodes, and
// prints the table.
func scale(nodes, users int) error {
	if nodes < 4 {
		return fmt.Errorf("-nodes: %d: must be at least 4: one is killed, one is drained, one has no clients", nodes)
	}
	if users < 100 {
		return fmt.Errorf("-users: %d: must be at least 100", users)
	}
	files, err := openFiles()
	if err != nil {
		return err
	}
	if most := (nodes - 1) * (files - spareFiles); users > most {
		return fmt.Errorf("-users: %d: must be at most %d with %d nodes and %d open files a process", users, most, nodes, files)
	}
	var small, large []cost
	if small, err = scaleAt(nodes, users/scaleFactor, files); err != nil {
		return err
	}
	if large, err = scaleAt(nodes, users, files); err != nil {
		return err
	}
	return printScale(nodes, users, small, large)
}

func openFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("the limit of open files: %w", err)
	}
	return int(min(limit.Cur, 1<<20)), nil
}

func scaleAt(nodes, users, files int) ([]cost, error) {
	w, err := openWorld(nodes, users, files)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	time.Sleep(getToKnow)
	for _, s := range w.steps() {
		if err := w.step(s.name, s.do); err != nil {
			return nil, fmt.Errorf("%d connections: %s: %w", users, s.name, err)
		}
		if s.name == "connect" {
			time.Sleep(settleDown)
		}
	}
	return w.costs, nil
}

// openWorld starts all processes. Nobody is connected yet.
func openWorld(nodes, users, files int) (w *world, err error) {
	w = &world{users: users}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	if w.redis, err = startRedis(); err != nil {
		return nil, err
	}
	for range nodes {
		n, err := startNode("herald", w.redis.addr, false)
		if err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, n)
	}
	for range (users + files - spareFiles - 1) / (files - spareFiles) {
		n, err := startNode(kindClients, "", false)
		if err != nil {
			return nil, err
		}
		w.crowds = append(w.crowds, n)
	}
	return w, nil
}

func (w *world) steps() []struct {
	name string
	do   func() error
} {
	first := w.nodes[0]
	do := func(c command) func() error {
		return func() error { _, err := first.do(c); return err }
	}
	return []struct {
		name string
		do   func() error
	}{
		{"connect", w.connect},
		{idleStep, func() error { time.Sleep(scaleIdle); return nil }},
		{fmt.Sprint(scaleSends, " broadcasts"), func() error { return w.send("everyone") }},
		{"Join of everyone", do(command{Do: "join", To: scaleGroup})},
		{fmt.Sprint(scaleSends, " to the group of all"), func() error { return w.send(scaleGroup) }},
		{"Sessions of the group", func() error { return w.sessions(w.users) }},
		{"Online of all", w.online},
		{"Redis restarted empty", func() error {
			if err := w.redis.restart(); err != nil {
				return err
			}
			return w.await(w.users)
		}},
		{"a node drained", func() error {
			last := len(w.nodes) - 1
			if _, err := w.nodes[last].do(command{Do: "drain"}); err != nil {
				return err
			}
			return w.await(w.users - w.placed(last))
		}},
		{"a node killed", func() error {
			last := len(w.nodes) - 1
			drained, killed := w.placed(last), w.placed(last-1)
			w.nodes[last-1].stop()
			return w.await(w.users - drained - killed)
		}},
	}
}

// placed is how many connections the node of this number was given.
func (w *world) placed(node int) int {
	takers := len(w.nodes) - 1
	return (w.users + takers - node) / takers
}

// connect connects the users, an equal part of each node's from each crowd.
func (w *world) connect() error {
	errs := make(chan error)
	for part := range w.crowds {
		go func() { errs <- w.connectPart(part) }()
	}
	var all []error
	for range w.crowds {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (w *world) connectPart(part int) error {
	takers := w.nodes[1:]
	for i, n := range takers {
		c := command{Do: "connect", Addr: n.addr, First: i + part*len(takers), Step: len(takers) * len(w.crowds), Users: w.users}
		if _, err := w.crowds[part].do(c); err != nil {
			return err
		}
	}
	return nil
}

// send sends some messages to everyone or to a group of all, each after the last has
// arrived everywhere.
func (w *world) send(to string) error {
	for range scaleSends {
		a, err := w.nodes[0].do(command{Do: "publish", To: to, Count: 1, Senders: 1, Size: 128, First: w.sent})
		if err != nil {
			return err
		}
		if a.Failed > 0 {
			return errors.New("a Send failed")
		}
		w.sent++
		err = w.until(w.sent*w.users, "messages that arrived", func() (int, error) {
			sum := 0
			for _, crowd := range w.crowds {
				a, err := crowd.do(command{Do: "tally"})
				if err != nil {
					return 0, err
				}
				sum += a.Number
			}
			return sum, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) sessions(want int) error {
	a, err := w.nodes[0].do(command{Do: "sessions", To: scaleGroup})
	if err == nil && a.Number != want {
		err = fmt.Errorf("%d Sessions, not %d", a.Number, want)
	}
	return err
}

func (w *world) online() error {
	a, err := w.nodes[0].do(command{Do: "online", Users: w.users})
	if err == nil && a.Number != w.users {
		err = fmt.Errorf("%d are online, not %d", a.Number, w.users)
	}
	return err
}

// await waits until the cluster has so many connections.
func (w *world) await(want int) error {
	return w.until(want, "connections", func() (int, error) {
		a, err := w.nodes[0].do(command{Do: "count"})
		if err != nil {
			return -1, nil // while Redis is away
		}
		return a.Number, nil
	})
}

func (w *world) until(want int, what string, count func() (int, error)) error {
	for end := time.Now().Add(scaleWithin); ; time.Sleep(20 * time.Millisecond) {
		n, err := count()
		switch {
		case err != nil:
			return err
		case n == want:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%d %s after %v, not %d", n, what, scaleWithin, want)
		}
	}
}

// step notes what do takes of those nodes that it leaves alive.
func (w *world) step(name string, do func() error) error {
	before, redis, err := w.usage()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := do(); err != nil {
		return err
	}
	c := cost{step: name, elapsed: time.Since(start)}
	after, redisAfter, err := w.usage()
	if err != nil {
		return err
	}
	for i := range after {
		if !w.nodes[i].stopped() {
			c.hubs += after[i] - before[i]
		}
	}
	if c.redis = redisAfter; redisAfter >= redis { // it has not started anew
		c.redis -= redis
	}
	if c.held, err = w.holds(); err != nil {
		return err
	}
	w.costs = append(w.costs, c)
	if name == idleStep {
		w.costs = append(w.costs, cost{step: name + ", the node without clients", elapsed: c.elapsed, hubs: after[0] - before[0], redis: c.redis})
	}
	progress("%d connections: %s: %v", w.users, name, c.elapsed.Round(time.Millisecond))
	return nil
}

// usage returns the CPU of each node, 0 of one that is dead, and that of Redis.
func (w *world) usage() (hubs []time.Duration, redis time.Duration, err error) {
	for _, n := range w.nodes {
		if n.stopped() {
			hubs = append(hubs, 0)
			continue
		}
		a, err := n.do(command{Do: "stats"})
		if err != nil {
			return nil, 0, err
		}
		hubs = append(hubs, a.CPU)
	}
	redis, err = w.redis.cpu()
	return hubs, redis, err
}

// holds collects the garbage of all nodes, and tells what is left.
func (w *world) holds() (h held, err error) {
	for _, n := range w.nodes {
		if n.stopped() {
			continue
		}
		a, err := n.do(command{Do: "settle"})
		if err != nil {
			return h, err
		}
		h.hubs += a.RSS
		h.goroutines += a.Goroutines
	}
	used, err := w.redis.number("memory", "used_memory")
	h.redis = int64(used)
	return h, err
}

func (w *world) stop() {
	for _, n := range slices.Concat(w.crowds, w.nodes) {
		n.stop()
	}
	if w.redis != nil {
		w.redis.stop()
	}
}
