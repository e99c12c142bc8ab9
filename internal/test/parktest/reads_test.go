//go:build linux

package parktest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// each runs do for all connections concurrently, and ends the test if one fails.
func each(t *testing.T, conns []*wsraw.Conn, do func(*wsraw.Conn) error) {
	t.Helper()
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(func() {
			if err := do(c); err != nil {
				t.Error(err)
			}
		})
	}
	if all.Wait(); t.Failed() {
		t.FailNow()
	}
}

// exchange sends many frames in one write, and waits for the answer to each.
func exchange(c *wsraw.Conn, opcode byte, many int) error {
	frames := make([]wsraw.Frame, many)
	for i := range frames {
		frames[i] = wsraw.Frame{Fin: true, Opcode: opcode, Mask: [4]byte{1, 2, 3, 4}, Payload: []byte("hello")}
	}
	if err := c.WriteFrames(frames...); err != nil {
		return err
	}
	for range frames {
		if _, err := c.ReadFrame(); err != nil {
			return fmt.Errorf("await an answer: %w", err)
		}
	}
	return nil
}

// Bytes that arrive together are read by one call. After a message, a second call
// finds nothing, and the reader waits in Go's poller. So a message that wakes a
// Conn costs only these two calls and the wake. A ping that comes to a parked Conn
// costs one call.
func TestReads(t *testing.T) {
	const conns = 100
	phases := []struct {
		name     string
		opcode   byte
		arrivals int // at each connection, which is parked before the first one
		burst    int // frames in one arrival
		pauses   bool
		reads    int // the most calls for each arrival
	}{
		{"wakes", wsraw.Text, 1, 1, false, 2},
		{"wakes again", wsraw.Text, 1, 1, false, 2},
		{"pings", wsraw.Ping, 1, 1, false, 1},
		{"busy", wsraw.Text, 10, 1, false, 2},
		{"bursts", wsraw.Text, 10, 10, false, 2},
		{"busy and quiet", wsraw.Text, 10, 1, true, 2},
	}
	n := startNode(t, 50*time.Millisecond, "read,recvfrom")
	clients := n.connect(conns)
	each(t, clients, func(c *wsraw.Conn) error { return exchange(c, wsraw.Text, 1) })
	wakes := make([]atomic.Int64, len(phases))
	for i, p := range phases {
		n.parked()
		n.mark("mark " + p.name)
		each(t, clients, func(c *wsraw.Conn) error {
			pause := n.quiet
			for range p.arrivals {
				if pause >= n.quiet {
					wakes[i].Add(1)
				}
				if err := exchange(c, p.opcode, p.burst); err != nil {
					return err
				}
				if pause = 0; p.pauses {
					pause = rand.N(3 * n.quiet)
					time.Sleep(pause)
				}
			}
			return nil
		})
		n.parked()
		n.mark("mark end")
	}
	counts := n.counts()
	for i, p := range phases {
		got, arrivals := counts[p.name], conns*p.arrivals
		most := arrivals * p.reads
		t.Logf("%s: %d arrivals, some %d wakes, %d reads, of which %d found nothing", p.name, arrivals, wakes[i].Load(), got.reads, got.nothing)
		if got.reads < arrivals || got.reads > most+most/20 {
			t.Errorf("%s: %d reads, want %d to %d", p.name, got.reads, arrivals, most)
		}
	}
}

// Parked connections cost no system calls.
func TestIdle(t *testing.T) {
	const few, many = 50, 1000
	n := startNode(t, 500*time.Millisecond, "all")
	for _, conns := range []int{few, many} {
		each(t, n.connect(conns-n.users), func(c *wsraw.Conn) error { return exchange(c, wsraw.Text, 1) })
		n.parked()
		n.mark(fmt.Sprint("mark ", conns))
		time.Sleep(4 * n.quiet)
		n.mark("mark end")
	}
	counts := n.counts()
	a, b := counts[fmt.Sprint(few)], counts[fmt.Sprint(many)]
	t.Logf("%d parked connections: %d system calls; %d: %d", few, a.calls, many, b.calls)
	if a.calls == 0 || b.calls > a.calls+(many-few)/2 || a.reads+b.reads > 0 {
		t.Errorf("with %d parked connections %+v, with %d %+v", few, a, many, b)
	}
}
