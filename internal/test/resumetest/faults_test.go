package resumetest_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/redistest"
)

// What breaks between nodes that keep messages and devices that come back: nobody
// misses anything and is not told, and nobody gets anything twice or out of order.
func TestFaults(t *testing.T) {
	faults := []fault{
		{"client cuts", true, true, func(*trial) {}},
		{"node killed", true, true, (*trial).killNode},
		{"node paused", true, true, (*trial).pauseNode},
		{"rolling restart", true, true, (*trial).restartNodes},
		{"redis restarted, data kept", true, false, (*trial).restartRedis},
		{"redis restarted, data lost", false, false, (*trial).restartRedis},
		{"links killed", true, false, (*trial).killLinks},
		{"black hole", true, false, (*trial).blackhole},
		{"keys flushed", false, false, (*trial).flush},
		{"out of memory", true, false, (*trial).fill},
		{"no replicas", true, false, (*trial).demandReplicas},
		{"clock an hour back", true, false, (*trial).turnBack},
		{"clock an hour on", false, false, (*trial).turnOn},
	}
	if os.Getenv(faultsEnv) != "" { // it takes Sentinels tens of seconds to agree
		faults = append(faults,
			fault{"sentinel: master killed", false, false, (*trial).killMaster},
			fault{"sentinel: there and back", false, false, (*trial).swapMasters})
	}
	var mu sync.Mutex
	var rows []string
	t.Cleanup(func() { table(t, rows) })
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrialOf(t, f.name)
			v := tr.run(f)
			v.require(t, f, tr.long)
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, v.row(f.name))
		})
	}
}

// newTrialOf starts nodes on the servers that a fault needs.
func newTrialOf(t *testing.T, fault string) *trial {
	t.Helper()
	args := []string{"--appendonly", "yes", "--appendfsync", "always"}
	switch {
	case strings.HasPrefix(fault, "sentinel"):
		return newTrial(t, nil, redistest.StartSentinels(t))
	case strings.HasPrefix(fault, "clock"):
		clocked := redistest.StartWithClock(t, args...)
		tr := newTrial(t, clocked.Server, nil)
		tr.step = clocked.Step
		return tr
	case strings.HasSuffix(fault, "lost"):
		args = nil
	}
	return newTrial(t, redistest.Start(t, args...), nil)
}

// killMaster kills the master. It comes back as a replica.
func (tr *trial) killMaster() {
	old := tr.set.Master()
	old.Kill()
	tr.set.AwaitFailover(old)
	old.Restart()
	tr.set.AwaitOneMaster()
}

// swapMasters has the Sentinels appoint other masters until the first one is master
// again: A to B to A, with a third server in between at times.
func (tr *trial) swapMasters() {
	first := tr.set.Master()
	for master := tr.set.Failover(); master != first; master = tr.set.Failover() {
		tr.set.AwaitOneMaster()
		tr.awaitHealthy()
		tr.awaitSent(5)
	}
	tr.set.AwaitOneMaster()
}

// killNode kills a node, and starts another one.
func (tr *trial) killNode() {
	p := tr.any()
	tr.leave(p)
	p.kill()
	tr.start()
}

// pauseNode stops a node for twice its lease. Its devices stay.
func (tr *trial) pauseNode() {
	p := tr.any()
	p.pause()
	pause(tr.t.Context(), 2*tr.Lease)
	p.resume()
}

// restartNodes replaces nodes by others, in order.
func (tr *trial) restartNodes() {
	old := tr.living()
	if !tr.long {
		old = old[:1]
	}
	for _, p := range old {
		tr.start()
		tr.leave(p)
		p.ask("stop")
		p.ask("shutdown")
		p.kill()
	}
}

// restartRedis kills Redis, and starts it again once all nodes know.
func (tr *trial) restartRedis() {
	tr.server.Kill()
	tr.awaitUnhealthy(tr.living()...)
	tr.server.Restart()
}

// killLinks has Redis close every connection.
func (tr *trial) killLinks() {
	for _, kind := range []string{"pubsub", "normal"} {
		if err := tr.rdb.ClientKillByFilter(tr.t.Context(), "TYPE", kind, "SKIPME", "yes").Err(); err != nil {
			tr.t.Fatal(err)
		}
	}
}

// blackhole loses what a node and Redis send each other, until the node knows.
func (tr *trial) blackhole() {
	p := tr.any()
	p.proxy.Blackhole(true)
	tr.awaitUnhealthy(p)
	p.proxy.Blackhole(false)
}

func (tr *trial) flush() {
	if err := tr.rdb.FlushAll(tr.t.Context()).Err(); err != nil {
		tr.t.Fatal(err)
	}
}

// fill has Redis refuse to write, as if its memory were full.
func (tr *trial) fill() { tr.refuse("maxmemory", "1", "0") }

// demandReplicas has Redis refuse to write, as if its replicas were gone.
func (tr *trial) demandReplicas() { tr.refuse("min-replicas-to-write", "1", "0") }

// refuse changes a setting until every node has had Sends refused.
func (tr *trial) refuse(setting, to, from string) {
	tr.configure(setting, to)
	for _, p := range tr.living() {
		failed := p.failed()
		tr.await("a Send that is refused", func() error {
			if p.failed() == failed {
				return errNotYet
			}
			return nil
		})
	}
	tr.configure(setting, from)
}

func (tr *trial) configure(setting, value string) {
	if err := tr.rdb.ConfigSet(tr.t.Context(), setting, value).Err(); err != nil {
		tr.t.Fatal(err)
	}
}

// turnBack turns Redis' clock back by an hour.
func (tr *trial) turnBack() { tr.step(-time.Hour) }

// turnOn turns Redis' clock on by an hour: what is kept is too old then.
func (tr *trial) turnOn() { tr.step(time.Hour) }
