package attacktest

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestEachAttack runs one attack after the other, each against a node of its own,
// and prints a row for each. It checks only that the node survives, and closes the
// connections that it must. The bounds are checked by the tests beside the code.
func TestEachAttack(t *testing.T) {
	d, asked := duration(t)
	if !asked {
		t.Skip("it measures; HERALD_ATTACK=3s prints the table")
	}
	var table []string
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			n := startNode(t, a.setting)
			honest := gather(t, n.Addr, 20, 10, 50*time.Millisecond, a.setting.Compression)
			e := effect{before: n.state(), peak: n.watch()}
			stop := make(chan struct{})
			var victim sync.WaitGroup
			victim.Go(func() { e.victim = logIn(n.Addr, stop) })
			end := n.attack(false, a.name)

			time.Sleep(d) // while the attack goes on
			e.during = n.state()
			e.peak.done()
			close(stop)
			victim.Wait()
			c := end()[a.name]
			untold(t, a.name, c)
			e.back = n.awaitNormal(e.before)
			e.honest = honest.settle()
			e.after = n.report(false)
			table = append(table, e.row(a.name, c))
			t.Log(e.row(a.name, c))
		})
	}
	fmt.Println(header)
	for _, row := range table {
		fmt.Println(row)
	}
}

// backTime is how long a node may take to be back to normal.
const backTime = time.Minute

// awaitNormal waits until the node is as it was before, apart from honest clients
// that it has closed, and returns how long that took. A Conn that was parked before
// may have a goroutine now. Some MB more are allowed, because a Go process keeps
// memory after a peak.
func (n *node) awaitNormal(before state) time.Duration {
	n.t.Helper()
	began := time.Now()
	for {
		now := n.report(true)
		conns := now.Stats["Conns"] <= before.Stats["Conns"]
		goroutines := now.Goroutines <= before.Goroutines+int(now.Stats["Conns"])+20
		if took := time.Since(began); conns && goroutines && now.Memory <= before.Memory+slack {
			return took
		} else if took > backTime {
			n.t.Errorf("not back to normal within %v: Conns %v, before %v; goroutines %d, before %d; memory %s, before %s\nStats %v\n%s",
				took, now.Stats["Conns"], before.Stats["Conns"], now.Goroutines, before.Goroutines, mb(now.Memory), mb(before.Memory), now.Stats, n.log.head())
			return took
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// slack is the memory that a node may keep afterwards: pools, tables that do not
// shrink, and pages that are partly in use.
const slack = 128 << 20
