package attacktest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestAllAttacks runs all attacks at once against a node with the default Config
// and compression, beside honest clients, some of which compress. All their
// messages must arrive or be accounted for. The node must stay within bounds, and
// be back to normal within backTime. Unless HERALD_ATTACK is set, the attacks are
// gentle, because CI has other tests to run.
func TestAllAttacks(t *testing.T) {
	d, asked := duration(t)
	n := startNode(t, compressing)
	honest := gather(t, n.Addr, 200, 20, 500*time.Millisecond, true)
	e := effect{before: n.state(), peak: n.watch()}
	stop := make(chan struct{})
	var victim sync.WaitGroup
	victim.Go(func() { e.victim = logIn(n.Addr, stop) })
	var names []string
	for _, a := range attacks {
		if a.setting == (setting{}) || a.setting == compressing {
			names = append(names, a.name)
		}
	}
	end := n.attack(!asked, names...)

	time.Sleep(d) // while the attacks go on
	e.during = n.state()
	e.peak.done()
	close(stop)
	victim.Wait()
	var all cost
	for name, c := range end() {
		untold(t, name, c)
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
	if f.changed > 0 || f.packed == 0 {
		t.Errorf("honest clients got %d messages changed, and %d compressed", f.changed, f.packed)
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

// untold fails the test if an attack was never told what it must be told.
func untold(t *testing.T, name string, c cost) {
	t.Helper()
	i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
	if want := attacks[i].told; want != "" && c.Answers[want] == 0 {
		t.Errorf("%s: never %s; %s", name, want, counts(c.Answers))
	}
}

// The bounds are generous: MaxQueuedBytes and as much garbage, and 1 MB of headers,
// which is the most that net/http takes, for each of MaxHandshakes.
const (
	maxMemory     = 2 << 30
	maxGoroutines = 10_000
)
