//go:build linux

package netpoll

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// A watched is one end of a connection that the Poller waits for.
type watched struct {
	peer, conn net.Conn
	raw        syscall.RawConn
	place      Place
	events     atomic.Int32
	came       chan struct{} // gets one for each event
}

func newPoller(t *testing.T) *Poller[*watched] {
	t.Helper()
	p := New(func(w *watched) {
		w.events.Add(1)
		w.came <- struct{}{}
	}, func(err error) { t.Error(err) })
	t.Cleanup(p.Close)
	return p
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func connect(t *testing.T, l net.Listener) *watched {
	t.Helper()
	w := &watched{came: make(chan struct{}, 100)}
	var err error
	if w.peer, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if w.conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	if w.raw, err = w.conn.(*net.TCPConn).SyscallConn(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.peer.Close(); w.conn.Close() })
	return w
}

func (w *watched) arm(p *Poller[*watched]) bool {
	k, ok := p.Prepare(&w.place, w)
	return ok && p.Arm(k, w.raw)
}

// mustArm arms, and fails the test if that is refused.
func (w *watched) mustArm(t *testing.T, p *Poller[*watched]) {
	t.Helper()
	if !w.arm(p) {
		t.Fatal("Arm was refused")
	}
}

// event waits for an event.
func (w *watched) event(t *testing.T) {
	t.Helper()
	select {
	case <-w.came:
	case <-time.After(patience):
		t.Fatal("no event")
	}
}

// settled waits until whatever was under way has been handed to ready: the event of
// another connection comes after it.
func settled(t *testing.T, p *Poller[*watched], l net.Listener) {
	t.Helper()
	for range 2 {
		w := connect(t, l)
		w.peer.Write([]byte("x"))
		w.mustArm(t, p)
		w.event(t)
		w.conn.Close()
		p.Release(&w.place)
	}
}

// An Arm brings one event, whatever comes, and the next Arm another one if something
// can still be read.
func TestArm(t *testing.T) {
	p, l := newPoller(t), listen(t)
	w := connect(t, l)
	w.mustArm(t, p)
	settled(t, p, l)
	if n := w.events.Load(); n != 0 {
		t.Fatalf("%d events, and nothing came", n)
	}
	for range 3 {
		w.peer.Write([]byte("x"))
		w.event(t)
		w.peer.Write([]byte("y")) // nobody waits
		settled(t, p, l)
		if n := len(w.came); n != 0 {
			t.Fatalf("%d more events of one Arm", n)
		}
		w.mustArm(t, p)
		w.event(t) // the bytes are still there
		if _, err := io.ReadFull(w.conn, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		w.mustArm(t, p)
	}
}

// The end of what the peer sends is an event, and so are its reset and a write that
// finds it.
func TestEnds(t *testing.T) {
	p, l := newPoller(t), listen(t)
	for name, end := range map[string]func(w *watched){
		"half":  func(w *watched) { w.peer.(*net.TCPConn).CloseWrite() },
		"close": func(w *watched) { w.peer.Close() },
		"reset": func(w *watched) { w.peer.(*net.TCPConn).SetLinger(0); w.peer.Close() },
	} {
		for _, before := range []bool{true, false} {
			w := connect(t, l)
			if before {
				end(w)
			}
			w.mustArm(t, p)
			if !before {
				end(w)
			}
			w.event(t)
			if _, err := w.conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: something was read", name)
			}
		}
	}
}

// A connection that is closed while it is waited for brings no event, and one that is
// closed already an error.
func TestClosed(t *testing.T) {
	p, l := newPoller(t), listen(t)
	w := connect(t, l)
	w.mustArm(t, p)
	w.conn.Close()
	w.peer.Write([]byte("x"))
	settled(t, p, l)
	if w.arm(p) {
		t.Error("a closed connection was armed")
	}
	if n := w.events.Load(); n != 0 {
		t.Errorf("%d events of a closed connection", n)
	}
	p.Release(&w.place)
	if n := p.table.taken(); n != 0 || w.place != 0 {
		t.Errorf("%d places are taken, this one is %d", n, w.place)
	}
}

// While the Poller stands still, connections to which something has come are closed,
// and others get their descriptors and their places. No event is mistaken.
func TestDescriptorsUsedAgain(t *testing.T) {
	l := listen(t)
	stand, stood := make(chan struct{}), make(chan struct{})
	var first atomic.Pointer[watched]
	p := New(func(w *watched) {
		if w == first.Load() {
			stood <- struct{}{}
			<-stand
			return
		}
		w.events.Add(1)
		w.came <- struct{}{}
	}, func(err error) { t.Error(err) })
	defer p.Close()
	for round := range 20 {
		// The events of all old ones are taken at once, behind that of halt.
		before, halt := connect(t, l), connect(t, l)
		first.Store(before)
		old := make([]*watched, 100)
		for i := range old {
			old[i] = connect(t, l)
			old[i].arm(p)
		}
		before.peer.Write([]byte("x"))
		before.arm(p)
		<-stood
		halt.peer.Write([]byte("x"))
		halt.arm(p)
		for _, w := range old {
			w.peer.Write([]byte("x"))
		}
		first.Store(halt)
		stand <- struct{}{}
		<-stood
		fds := make(map[uintptr]bool)
		for i, w := range old {
			w.raw.Control(func(fd uintptr) { fds[fd] = true })
			if i%2 == round%2 {
				w.conn.Close()
				p.Release(&w.place)
			}
		}
		again := 0
		young := make([]*watched, 50)
		for i := range young {
			young[i] = connect(t, l)
			young[i].raw.Control(func(fd uintptr) {
				if fds[fd] {
					again++
				}
			})
			young[i].mustArm(t, p)
		}
		if again == 0 {
			t.Fatal("no descriptor was used again")
		}
		stand <- struct{}{}
		for i, w := range old {
			if i%2 != round%2 {
				w.event(t)
			}
		}
		first.Store(nil)
		settled(t, p, l)
		for i, w := range old {
			if n := int(w.events.Load()); n != (i+round)%2 {
				t.Fatalf("round %d: %d events of connection %d", round, n, i)
			}
		}
		for i, w := range young {
			if n := w.events.Load(); n != 0 {
				t.Fatalf("round %d: %d events of new connection %d, to which nothing came", round, n, i)
			}
		}
		for _, w := range append(append(old, young...), before, halt) {
			w.peer.Close()
			w.conn.Close()
			p.Release(&w.place)
		}
	}
	if n := p.table.taken(); n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

// An event of another generation than the slot's is ignored, and so is one for a place
// that never was.
func TestGenerations(t *testing.T) {
	var table table[int]
	var place Place
	old := table.prepare(&place, 1)
	table.withdraw(old)
	if _, ok := table.event(place, old.generation); ok {
		t.Error("an event that was withdrawn")
	}
	now := table.prepare(&place, 2)
	table.withdraw(old) // late
	if v, ok := table.event(place, old.generation); ok {
		t.Errorf("an old event: %d", v)
	}
	if v, ok := table.event(place, now.generation); !ok || v != 2 {
		t.Errorf("the event: %d, %v", v, ok)
	}
	if _, ok := table.event(place, now.generation); ok {
		t.Error("the event came twice")
	}
	last := table.prepare(&place, 3)
	if !last.known || now.known {
		t.Errorf("known are %v and %v", now.known, last.known)
	}
	at := place
	table.release(&place)
	table.withdraw(last)
	if _, ok := table.event(at, last.generation); ok {
		t.Error("an event of a place that was given up")
	}
	var other Place
	if next := table.prepare(&other, 4); other != at || next.known || next.generation == last.generation {
		t.Errorf("the place's next: %+v", next)
	}
	for _, p := range []Place{0, 2, 5000} {
		if _, ok := table.event(p, 0); ok {
			t.Errorf("an event of place %d", p)
		}
	}
}

// Many connections are armed, written to and closed at once. Each event is for its own
// connection, and none is missed.
func TestManyAtOnce(t *testing.T) {
	p, l := newPoller(t), listen(t)
	n := 2000
	if testing.Short() {
		n = 200
	}
	all := make([]*watched, n)
	for i := range all {
		all[i] = connect(t, l)
	}
	var group sync.WaitGroup
	for i, w := range all {
		group.Go(func() {
			for range 5 {
				if !w.arm(p) {
					t.Error("Arm was refused")
					return
				}
				if rand.IntN(2) == 0 {
					time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
				}
				w.peer.Write([]byte{byte(i)})
				w.event(t)
				b := make([]byte, 2)
				if n, err := w.conn.Read(b); n != 1 || b[0] != byte(i) || err != nil {
					t.Errorf("read %v, %v", b[:n], err)
				}
			}
			w.arm(p)
			w.conn.Close()
			p.Release(&w.place)
		})
	}
	group.Wait()
	for i, w := range all {
		if got := w.events.Load(); got != 5 {
			t.Errorf("connection %d: %d events", i, got)
		}
	}
	if n := p.table.taken(); n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

// Close waits for ready, ends the goroutine, and leaves no descriptor. After it Arm
// fails.
func TestClose(t *testing.T) {
	l := listen(t)
	w := connect(t, l)
	before := descriptors(t)
	began, done := make(chan struct{}), atomic.Bool{}
	p := New(func(*watched) {
		close(began)
		time.Sleep(10 * time.Millisecond)
		done.Store(true)
	}, func(err error) { t.Error(err) })
	w.peer.Write([]byte("x"))
	w.mustArm(t, p)
	<-began
	if p.Close(); !done.Load() {
		t.Error("Close has not waited for ready")
	}
	if w.arm(p) {
		t.Error("Arm after Close succeeded")
	}
	if stacks := make([]byte, 1<<20); strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "netpoll.(*Poller[...]).run") {
		t.Error("its goroutine is left")
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d epoll instances, before %d", after, before)
	}
}

// descriptors counts the epoll instances of the process.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if to, _ := os.Readlink(name); strings.Contains(to, "eventpoll") {
			n++
		}
	}
	return n
}

// If the system refuses, that is told once, and no event is awaited. A Poller that is
// closed before it is started never is.
func TestRefused(t *testing.T) {
	l := listen(t)
	told := 0
	p := New(func(*watched) { t.Error("an event") }, func(error) { told++ })
	defer p.Close()
	ws := []*watched{connect(t, l), connect(t, l)}
	for _, w := range ws {
		w.mustArm(t, p)
		p.Release(&w.place) // the kernel knows the connection, and the Poller does not
		if w.arm(p) {
			t.Error("a connection was armed that the kernel refuses")
		}
		w.peer.Write([]byte("x"))
	}
	if told != 1 {
		t.Errorf("%d times told", told)
	}
	p = New(func(*watched) {}, func(err error) { t.Error(err) })
	p.Close()
	if ws[0].place = 0; ws[0].arm(p) {
		t.Error("a closed Poller was started")
	}
}

// If Go's poller does not take the instance, nobody could wait for it: connections would
// be armed and never be heard of. So there is no Poller then. A file that cannot be
// waited for is refused in the same way as an instance beyond max_user_watches.
func TestNotInGoPoller(t *testing.T) {
	fd, err := syscall.Open(filepath.Join(t.TempDir(), "file"), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if file, _, err := pollable(fd); err == nil {
		file.Close()
		t.Error("a file that Go's poller refuses was taken")
	}
	if err := syscall.Close(fd); err != syscall.EBADF {
		t.Errorf("the descriptor is left: %v", err)
	}
}
