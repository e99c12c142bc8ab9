package watchtest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heraldgo/herald/internal/test/redistest"
	"github.com/heraldgo/herald/internal/test/wsraw"
)

// Three nodes watch a room whose 200 members come and go. One node is killed, one
// is paused for longer than its lease, and Redis is restarted without its data. All
// that takes HERALD_WATCH_FOR together, by default ten seconds.
func TestWatch(t *testing.T) {
	all, err := time.ParseDuration(cmp.Or(os.Getenv("HERALD_WATCH_FOR"), "10s"))
	if err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t)
	var watching sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer watching.Wait()
	defer cancel()
	own, err := openNode(ctx, &watching, server.Addr) // it has no members
	if err != nil {
		t.Fatal(err)
	}
	nodes := []process{startProcess(t, server.Addr), startProcess(t, server.Addr), startProcess(t, server.Addr)}
	members := startMembers(t, nodes, 200)

	pause(t, all/5)
	nodes[2].Kill()
	members.dead.Store(2)
	pause(t, all/5)
	nodes[1].Pause()
	pause(t, max(all/5, lease*3/2))
	nodes[1].Continue()
	pause(t, all/5)
	server.Kill()
	server.Restart()
	pause(t, all/5)
	members.settle()

	reports := map[string]func(context.Context) report{"own": own.report, "node 0": nodes[0].report, "node 1": nodes[1].report}
	for name, ask := range reports {
		var r report
		await(t, name, func(ctx context.Context) error {
			r = ask(ctx)
			if r.Err != "<nil>" || !slices.Equal(r.View, r.Sessions) || len(r.View) != members.open() {
				return fmt.Errorf("%d in view, %d sessions, %d members, err %v", len(r.View), len(r.Sessions), members.open(), r.Err)
			}
			return nil
		})
		if len(r.Wrong) > 0 {
			t.Errorf("%s: %d wrong, the first: %s", name, len(r.Wrong), r.Wrong[0])
		}
		t.Logf("%s: told %d times, %d members in the end", name, r.Told, len(r.View))
	}
}

// await calls ask until it returns no error.
func await(t *testing.T, what string, ask func(context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; pause(t, 50*time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := ask(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// pause waits while members come and go.
func pause(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// members come to the room and go, each to a random node each time.
type members struct {
	nodes  []process
	dead   atomic.Int32 // the node that was killed
	ending chan struct{}
	wg     sync.WaitGroup

	reading sync.WaitGroup // for members that stay

	mu   sync.Mutex
	here map[net.Conn]bool // connections that stay when all is over
}

func startMembers(t *testing.T, nodes []process, n int) *members {
	m := &members{nodes: nodes, ending: make(chan struct{}), here: make(map[net.Conn]bool)}
	m.dead.Store(-1)
	for i := range n {
		m.wg.Go(func() { m.run(i) })
	}
	t.Cleanup(func() {
		m.settle()
		m.mu.Lock()
		for c := range m.here {
			c.Close()
		}
		m.mu.Unlock()
		m.reading.Wait()
	})
	return m
}

// run is one member: it connects, stays for a while and goes, or stays at the end.
func (m *members) run(i int) {
	for {
		conn := m.connect(i)
		stay := time.Duration(100+rand.IntN(1500)) * time.Millisecond
		select {
		case <-time.After(stay):
		case <-m.ending:
			if conn != nil {
				m.keep(conn)
			}
			return
		}
		if conn != nil {
			conn.Close()
		}
	}
}

// connect returns nil if the node does not accept it.
func (m *members) connect(i int) net.Conn {
	at := rand.IntN(len(m.nodes))
	if int32(at) == m.dead.Load() {
		return nil
	}
	conn, err := net.DialTimeout("tcp", m.nodes[at].Addr, time.Second)
	if err != nil {
		return nil
	}
	conn.SetDeadline(time.Now().Add(2 * time.Second)) // the node may be paused
	if _, response, err := wsraw.Handshake(conn, fmt.Sprint("/ws?user=", i), nil); err != nil || response.StatusCode != 101 {
		conn.Close()
		return nil
	}
	conn.SetDeadline(time.Time{})
	return conn
}

// keep counts a connection until it ends. Nothing else arrives on it.
func (m *members) keep(conn net.Conn) {
	m.mu.Lock()
	m.here[conn] = true
	m.mu.Unlock()
	m.reading.Go(func() {
		conn.Read(make([]byte, 1))
		m.mu.Lock()
		delete(m.here, conn)
		m.mu.Unlock()
	})
}

// settle lets the members stay that are there.
func (m *members) settle() {
	m.mu.Lock()
	select {
	case <-m.ending:
	default:
		close(m.ending)
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// open returns the number of members that have stayed.
func (m *members) open() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.here)
}
