// Package faultrig breaks what is between nodes and their clients, and finds what
// that did: nodes in processes of their own, on real servers, send all the time;
// devices with three kinds of client take down what they see; and of each message it
// is known in the end whether each device has it, or was told that it may be missing.
package faultrig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/load"
)

const patience = 30 * time.Second

// Options say what a trial is made of.
type Options struct {
	Bus       string        // what carries the messages: Redis, Sentinel, Cluster, or a broker
	Retention bool          // the nodes keep messages
	Nodes     int           // at the beginning
	Users     int           // each has a device with each kind of client
	Pace      time.Duration // between the messages of a sender, of which a node has three
	Lasts     time.Duration // for how long the fault is repeated; if 0 it comes once

	// HeraldJS is the path of client/js/herald.js. If it is empty there is no Node, and
	// a third kind of device runs heraldclient too.
	HeraldJS string

	// Old is the program of the nodes from which is upgraded: this one's node, with an
	// older herald. If it is empty nodes that keep nothing stand for them.
	Old string

	// StartBroker starts the broker of a Bus that is not on Redis. If split is true its
	// servers must be such that they can be cut off from each other.
	StartBroker func(t testing.TB, split bool) *Broker

	calm bool // no device roams
}

// A trial is nodes in processes, devices on them, and what breaks between them.
type trial struct {
	t testing.TB
	Options
	*servers

	started int // nodes so far
	devices []*device
	script  *script

	fences    atomic.Int64 // so many were sent
	measuring sync.WaitGroup

	mu       sync.Mutex
	peers    []*peer // that have ever been
	alive    []*peer
	isOver   bool // the present fault
	recovery time.Duration
}

// Run has a fault happen to nodes and devices that it starts, and returns what came
// of it. It fails the test if something hangs.
func Run(t testing.TB, f Fault, o Options) *Verdict {
	t.Helper()
	if f.adjust != nil {
		f.adjust(&o)
	}
	tr := &trial{t: t, Options: o, servers: startServers(t, f, o)}
	if o.HeraldJS != "" {
		tr.script = startScript(t, o.HeraldJS)
	}
	for range o.Nodes {
		if f.Upgrade {
			tr.startWith(cmp.Or(o.Old, os.Args[0]), false)
		} else {
			tr.start(o.Retention)
		}
	}
	return tr.run(f)
}

// lease is that of the nodes.
const lease = time.Second

// start starts one more node.
func (tr *trial) start(keeps bool) { tr.startWith(os.Args[0], keeps) }

// startWith starts one more node that runs a program.
func (tr *trial) startWith(program string, keeps bool) {
	tr.t.Helper()
	tr.started++
	s := settings{Name: fmt.Sprint("node", tr.started), Lease: lease, Users: tr.Users, Pace: tr.Pace}
	if keeps {
		s.Retention = 5 * time.Minute
	}
	p := tr.servers.connect(tr.t, &s, tr.started-1)
	p.start(program, s)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.peers, tr.alive = append(tr.peers, p), append(tr.alive, p)
}

// living returns the nodes that devices may go to.
func (tr *trial) living() []*peer {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.alive)
}

func (tr *trial) any() *peer {
	alive := tr.living()
	return alive[rand.IntN(len(alive))]
}

// leave has no device go to a node any more.
func (tr *trial) leave(p *peer) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.alive = slices.DeleteFunc(tr.alive, func(q *peer) bool { return p == q })
}

// connect makes the devices, and waits until all are connected.
func (tr *trial) connect(ctx context.Context, running *sync.WaitGroup) {
	tr.t.Helper()
	peers := tr.living()
	for i := range tr.Users {
		for k := goClient; k <= plain; k++ {
			d := &device{kind: k, roams: k != plain && i%2 == 0 && !tr.calm, trial: tr, Device: load.Device{
				Name: k.String() + " client", User: load.UserName(i), Groups: load.Groups(i, tr.Users),
			}}
			switch {
			case k == plain:
				d.client = &plainDevice{device: d}
			case k == jsClient && tr.script != nil:
				d.client = tr.script.add(d)
			default:
				d.client = &goDevice{device: d}
			}
			d.peer.Store(peers[(i+int(k))%len(peers)])
			tr.devices = append(tr.devices, d)
			running.Go(func() { d.client.run(ctx) })
		}
	}
	for _, d := range tr.devices {
		tr.await("a connection of "+d.String(), func() error { return yet(d.connected(true)) })
	}
}

// run connects the devices, and has the fault happen while the nodes send.
func (tr *trial) run(f Fault) *Verdict {
	tr.t.Helper()
	ctx, stop := context.WithCancel(tr.t.Context())
	var running, roaming sync.WaitGroup
	defer tr.measuring.Wait()
	defer running.Wait()
	defer roaming.Wait()
	defer stop()
	tr.connect(ctx, &running)
	rest, settle := context.WithCancel(ctx)
	defer settle()
	for _, d := range tr.devices {
		if d.roams {
			roaming.Go(func() { d.roam(rest) })
		}
	}
	tr.happen(f)
	settle()
	roaming.Wait()
	for _, p := range tr.living() {
		p.ask("stop")
	}
	tr.reach(func(*device) bool { return true })
	v := tr.settled()
	v.Recovery = tr.recovery
	return v
}

// happen has the fault happen once, or for as long as the options say.
func (tr *trial) happen(f Fault) {
	tr.t.Helper()
	for began, first := time.Now(), true; first || time.Since(began) < tr.Lasts; first = false {
		tr.awaitSent(tr.living(), 20)
		tr.isOver = f.happen == nil
		if f.happen != nil {
			f.happen(tr)
			tr.over()
		}
		tr.awaitHealthy()
		tr.measuring.Wait()
	}
	tr.awaitSent(tr.living(), 20)
}

// over says that what broke is whole again, and has the time measured until every
// device that does not roam has a message that was sent after.
func (tr *trial) over() {
	if tr.isOver {
		return
	}
	tr.isOver = true
	began := time.Now()
	tr.measuring.Go(func() {
		tr.reach(func(d *device) bool { return !d.roams })
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.recovery = max(tr.recovery, time.Since(began))
	})
}

// reach sends to everyone until each of the devices that count has something that was
// sent since. What was sent before it has by then, mostly.
func (tr *trial) reach(counts func(*device) bool) {
	first := tr.fences.Load()
	every := 50 * time.Millisecond
	if len(tr.devices) > 1000 {
		every = 2 * time.Second
	}
	lacks := func(d *device) bool { return counts(d) && int64(d.fenced()) <= first }
	began := time.Now()
	for next := began; slices.ContainsFunc(tr.devices, lacks); time.Sleep(10 * time.Millisecond) {
		now := time.Now()
		if now.Sub(began) > 2*patience {
			i := slices.IndexFunc(tr.devices, lacks)
			tr.t.Errorf("nothing new has come to %v in %v", tr.devices[i], now.Sub(began))
			return
		}
		if now.After(next) { // it may be lost
			next = now.Add(every)
			tr.any().ask(fmt.Sprint("send fence ", tr.fences.Add(1)))
		}
	}
}

// settled judges. Who has not been told of what is missing may be told yet: that a
// heartbeat is missing takes a while to be noticed.
func (tr *trial) settled() (v *Verdict) {
	deadline := time.Now().Add(patience)
	for v = judge(tr.peers, tr.devices); len(v.Broken) > 0 && time.Now().Before(deadline); v = judge(tr.peers, tr.devices) {
		time.Sleep(time.Second)
	}
	return v
}

// awaitSent waits until each of the nodes has sent so much more.
func (tr *trial) awaitSent(peers []*peer, more int) {
	tr.t.Helper()
	for _, p := range peers {
		sent := p.sent()
		tr.await("messages of "+p.node, func() error { return yet(p.sent() >= sent+more) })
	}
}

func (tr *trial) awaitHealthy() {
	tr.t.Helper()
	for _, p := range tr.living() {
		tr.await("health of "+p.node, func() error { return p.ask("health") })
	}
}

// awaitUnhealthy waits until all the nodes say that they are not well.
func (tr *trial) awaitUnhealthy(peers ...*peer) {
	tr.t.Helper()
	for _, p := range peers {
		tr.await("red health of "+p.node, func() error { return yet(p.ask("health") != nil) })
	}
}

var errNotYet = errors.New("not yet")

func yet(ok bool) error {
	if ok {
		return nil
	}
	return errNotYet
}

// await polls for what nobody announces.
func (tr *trial) await(what string, ok func() error) {
	tr.t.Helper()
	deadline := time.Now().Add(2 * patience)
	for err := ok(); err != nil; err = ok() {
		if time.Now().After(deadline) {
			tr.t.Fatalf("waited in vain for %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
