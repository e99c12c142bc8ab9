// Package faultrig breaks what is between nodes and their clients, and finds out
// what that did. Nodes in processes of their own, on real servers, send all the
// time. Devices with three kinds of client record what they see. In the end it is
// known, for each message and each device, whether the device has it or was told
// that it may be missing.
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

// Options configure a trial.
type Options struct {
	Bus       string        // the Bus: Redis, Sentinel, Cluster, or the Kind of a Broker
	Retention bool          // whether the nodes have a Retention
	Nodes     int           // their number at the beginning
	Users     int           // their number; each has a device with each kind of client
	Pace      time.Duration // the pause between the messages of a sender; a node has three senders
	Lasts     time.Duration // for how long the fault is repeated; 0 means once

	// HeraldJS is the path of client/js/herald.js. If it is empty, a third kind of
	// device runs heraldclient too instead of client/js.
	HeraldJS string

	// Old is the program of the nodes that an upgrade replaces: this package's
	// node, with an older herald. If it is empty, nodes without a Retention stand
	// for them.
	Old string

	// StartBroker starts the broker of a Bus that is not on Redis. If split is
	// true, it must be possible to cut its servers off from each other.
	StartBroker func(t testing.TB, split bool) *Broker

	calm bool // no device roams
}

// A trial is a run of nodes in processes, devices on them, and what breaks between
// them.
type trial struct {
	t testing.TB
	Options
	*servers

	started int // the number of nodes so far
	devices []*device
	script  *script

	fences    atomic.Int64 // the number of fences sent so far
	measuring sync.WaitGroup

	mu       sync.Mutex
	peers    []*peer // all that have ever run
	alive    []*peer
	isOver   bool // whether the present fault is over
	recovery time.Duration
}

// Run makes a fault happen to nodes and devices that it starts, and returns the
// verdict. It fails the test if something hangs.
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

// lease is the nodes' lease.
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

// living returns the nodes that devices may connect to.
func (tr *trial) living() []*peer {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.alive)
}

func (tr *trial) any() *peer {
	alive := tr.living()
	return alive[rand.IntN(len(alive))]
}

// leave stops devices from connecting to p.
func (tr *trial) leave(p *peer) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.alive = slices.DeleteFunc(tr.alive, func(q *peer) bool { return p == q })
}

// connect starts the devices, and waits until all are connected.
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

// run connects the devices, and makes the fault happen while the nodes send.
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

// happen makes the fault happen once, or for as long as the options say.
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

// over notes that the fault is over, and starts to measure how long it takes until
// every device that does not roam has a message that was sent after it.
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

// reach sends fences to everyone until each device that counts selects has got one.
// By then the devices have got most of what was sent before.
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
		if now.After(next) { // the one before may be lost
			next = now.Add(every)
			tr.any().ask(fmt.Sprint("send fence ", tr.fences.Add(1)))
		}
	}
}

// settled judges. If a device has not been told of a loss, it waits, because a
// missing heartbeat takes a while to be noticed.
func (tr *trial) settled() (v *Verdict) {
	deadline := time.Now().Add(patience)
	for v = judge(tr.peers, tr.devices); len(v.Broken) > 0 && time.Now().Before(deadline); v = judge(tr.peers, tr.devices) {
		time.Sleep(time.Second)
	}
	return v
}

// awaitSent waits until each of the nodes has sent more messages.
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

// awaitUnhealthy waits until each of the nodes is unhealthy.
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

// await polls until ok returns nil.
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
