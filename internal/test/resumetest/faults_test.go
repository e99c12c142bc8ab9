package resumetest_test

import (
	"sync"
	"testing"

	"github.com/heraldgo/herald/internal/test/redistest"
)

// What breaks between nodes that keep messages and devices that come back: nobody
// misses anything and is not told, and nobody gets anything twice or out of order.
func TestFaults(t *testing.T) {
	var mu sync.Mutex
	var rows []string
	t.Cleanup(func() { table(t, rows) })
	for _, f := range []fault{
		{"client cuts", true, true, func(*trial) {}},
		{"node killed", true, true, (*trial).killNode},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always"), nil)
			v := tr.run(f)
			v.require(t, f, tr.long)
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, v.row(f.name))
		})
	}
}

// killNode kills a node, and starts another one.
func (tr *trial) killNode() {
	p := tr.any()
	tr.leave(p)
	p.kill()
	tr.start()
}
