package resumetest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/test/load"
	"github.com/heraldgo/herald/internal/test/netproxy"
	"github.com/heraldgo/herald/internal/test/redistest"
)

// faultsEnv says for how long each fault is repeated. Without it each comes once.
const faultsEnv = "HERALD_FAULTS"

// A trial is nodes in processes, devices on them, and what breaks between them.
type trial struct {
	t      *testing.T
	long   bool
	server *redistest.Server    // nil if there is a set
	set    *redistest.Sentinels // nil if there is one Redis
	rdb    *redis.Client        // past the proxies
	step   func(time.Duration)  // of Redis' clock

	settings
	devices []*tape
	started int // nodes so far

	mu    sync.Mutex
	peers []*peer // that have ever been
	alive []*peer
}

// newTrial starts nodes. One of server and set is nil.
func newTrial(t *testing.T, server *redistest.Server, set *redistest.Sentinels) *trial {
	t.Helper()
	tr := &trial{
		t: t, server: server, set: set, long: os.Getenv(faultsEnv) != "",
		settings: settings{Lease: time.Second, Retention: 5 * time.Minute, Users: 8, Pace: 100 * time.Millisecond},
	}
	if tr.long {
		tr.Users, tr.Pace = 100, 30*time.Millisecond
	}
	if server != nil {
		tr.rdb = server.Client()
	} else {
		tr.rdb = set.Client()
	}
	for range 3 {
		tr.start()
	}
	return tr
}

// start starts one more node.
func (tr *trial) start() *peer {
	tr.t.Helper()
	s := tr.settings
	tr.started++
	s.Name = fmt.Sprint("node", tr.started)
	var proxy *netproxy.Proxy
	if tr.server != nil {
		proxy = netproxy.Start(tr.t, tr.server.Addr)
		s.Redis = proxy.Addr
	} else {
		s.Master, s.Sentinels, s.Via = redistest.MasterName, tr.set.Addrs(), make(map[string]string)
		for _, addr := range s.Sentinels {
			s.Via[addr] = addr
		}
		for _, server := range tr.set.Servers {
			s.Via[server.Addr] = server.Addr
		}
	}
	p := startPeer(tr.t, s)
	p.proxy = proxy
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.peers, tr.alive = append(tr.peers, p), append(tr.alive, p)
	return p
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

// A fault is what breaks, and what it may do.
type fault struct {
	name    string
	survive bool // the data: nothing may be missing at a device that can come back
	quiet   bool // nobody is told that something may be missing
	happen  func(tr *trial)
}

// run connects the devices, and has the fault happen while the nodes send.
func (tr *trial) run(f fault) *verdict {
	tr.t.Helper()
	ctx, stop := context.WithCancel(tr.t.Context())
	var running, roaming sync.WaitGroup
	defer running.Wait()
	defer stop()
	peers := tr.living()
	for i := range tr.Users {
		for k := range kinds {
			d := &tape{kind: k, trial: tr, Device: load.Device{
				Name: [...]string{"stays", "roams", "plain"}[k], User: load.UserName(i), Groups: load.Groups(i, tr.Users),
			}}
			d.peer.Store(peers[(i+int(k))%len(peers)])
			tr.devices = append(tr.devices, d)
			running.Go(func() { d.run(ctx) })
		}
	}
	for _, d := range tr.devices {
		tr.await("a connection of "+d.String(), func() error {
			if events, _ := d.seen(); len(events) == 0 {
				return errNotYet
			}
			return nil
		})
	}
	rest, settle := context.WithCancel(ctx)
	defer settle()
	for _, d := range tr.devices {
		if d.kind == roams {
			roaming.Go(func() { d.roam(rest) })
		}
	}
	tr.happen(f)
	settle()
	roaming.Wait()
	for _, p := range tr.living() {
		p.ask("stop")
	}
	tr.fence()
	return tr.settled()
}

// happen has the fault happen once, or for as long as the environment says.
func (tr *trial) happen(f fault) {
	tr.t.Helper()
	lasts, _ := time.ParseDuration(os.Getenv(faultsEnv))
	for began, first := time.Now(), true; first || time.Since(began) < lasts; first = false {
		tr.awaitSent(20)
		f.happen(tr)
		tr.awaitHealthy()
	}
	tr.awaitSent(20)
}

// settled judges. Who has not been told of what is missing may be told yet: that a
// heartbeat is missing takes a while to be noticed.
func (tr *trial) settled() (v *verdict) {
	deadline := time.Now().Add(patience)
	for v = judge(tr.peers, tr.devices); len(v.untold) > 0 && time.Now().Before(deadline); v = judge(tr.peers, tr.devices) {
		time.Sleep(time.Second)
	}
	return v
}

// fence waits until every device has got what was sent before.
func (tr *trial) fence() {
	tr.t.Helper()
	n := 0
	for _, d := range tr.devices {
		next := time.Now()
		tr.await("the end at "+d.String(), func() error {
			if now := time.Now(); now.After(next) { // it may be lost
				n++
				next = now.Add(2 * time.Second)
				if err := tr.any().ask(fmt.Sprint("send fence ", n)); err != nil {
					return err
				}
			}
			if d.fenced() == 0 {
				return errNotYet
			}
			return nil
		})
	}
}

// awaitSent waits until every living node has sent so much more.
func (tr *trial) awaitSent(more int) {
	tr.t.Helper()
	for _, p := range tr.living() {
		sent := p.sent()
		tr.await("messages of "+p.node, func() error {
			if p.sent() < sent+more {
				return errNotYet
			}
			return nil
		})
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
		tr.await("red health of "+p.node, func() error {
			if p.ask("health") == nil {
				return errNotYet
			}
			return nil
		})
	}
}

var errNotYet = errors.New("not yet")

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

// require fails the test unless the verdict is what the fault may do.
func (v *verdict) require(t *testing.T, f fault, long bool) {
	t.Helper()
	for i, text := range v.untold {
		if t.Error(text); i == 9 {
			t.Errorf("and %d more", len(v.untold)-10)
			break
		}
	}
	if f.survive && v.missing > 0 {
		t.Errorf("%d messages are missing, and the data survived", v.missing)
	}
	// A machine that stands still for seconds has the nodes doubt each other.
	if f.quiet && long && (v.false > 0 || v.complete*100 < v.resumes*99) {
		t.Errorf("told %d times that something may be missing; of %d resumes %d were complete", v.false, v.resumes, v.complete)
	}
}

// table prints the rows, under a headline.
func table(t *testing.T, rows []string) {
	slices.Sort(rows)
	t.Logf("\n%s\n%s", tableHead, strings.Join(rows, "\n"))
}
