package attacktest

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestAllAttacks does all attacks at once to a node with the default Config,
// beside honest clients, whose messages come or are accounted for. The node
// keeps to bounds, and is back to normal within backTime. Unless somebody asked,
// the attacks are gentle, for CI has other tests to run.
func TestAllAttacks(t *testing.T) {
	d, asked := duration(t)
	n := startNode(t, setting{})
	honest := gather(t, n.Addr, 200, 20, 500*time.Millisecond)
	e := effect{before: n.state(), peak: n.watch()}
	stop := make(chan struct{})
	var victim sync.WaitGroup
	victim.Go(func() { e.victim = logIn(n.Addr, stop) })
	var names []string
	for _, a := range attacks {
		if a.setting == (setting{}) {
			names = append(names, a.name)
		}
	}
	end := n.attack(!asked, names...)

	time.Sleep(d) // the attacks'
	e.during = n.state()
	e.peak.done()
	close(stop)
	victim.Wait()
	var all cost
	for name, c := range end() {
		fmt.Printf("%-35s %s\n", name, c.row(d.Seconds()))
		all.add(c)
	}
	e.back = n.awaitNormal(e.before)
	e.honest = honest.settle()
	e.after = n.report(false)
	fmt.Println(header)
	fmt.Println(e.row(fmt.Sprintf("all, %v", d), all))

	f := e.honest
	if f.lost > 0 && e.after.Stats["Gaps"] == 0 {
		t.Errorf("%d of %d messages of honest clients were lost, and no gap was told", f.lost, f.sent)
	}
	if f.twice > 0 || f.untold > 0 {
		t.Errorf("honest clients got %d messages twice, and %d lost their connection without a close frame", f.twice, f.untold)
	}
	if peak := e.during.MemoryPeak; peak > maxMemory {
		t.Errorf("the node took %s, more than %s", mb(peak), mb(maxMemory))
	}
	if peak := e.during.GoroutinesPeak; peak > maxGoroutines {
		t.Errorf("the node had %d goroutines, more than %d", peak, maxGoroutines)
	}
	if t.Failed() {
		t.Logf("log of the node begins with:\n%s", n.log.head())
	}
}

// The bounds are generous: MaxQueuedBytes and as much for garbage, 1 MB for each
// of MaxHandshakes' headers that are as large as net/http lets them be.
const (
	maxMemory     = 2 << 30
	maxGoroutines = 10_000
)
