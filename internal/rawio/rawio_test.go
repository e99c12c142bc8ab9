//go:build unix

package rawio

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection; of one there is the raw one too.
func pair(t *testing.T) (peer, conn net.Conn, raw syscall.RawConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peer, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if raw = Conn(conn); raw == nil {
		t.Fatal("no raw reads and writes of a TCP connection")
	}
	return peer, conn, raw
}

// read waits until something comes, as its users do.
func (r *reader) read(raw syscall.RawConn) ([]byte, error) {
	if err := raw.Read(r.try); err != nil {
		return nil, err
	}
	return r.p[:r.n], r.err
}

type reader struct {
	p   []byte
	n   int
	err error
}

func (r *reader) try(fd uintptr) (ok bool) {
	r.n, r.err, ok = Read(fd, r.p)
	return ok
}

// What is written comes, then the end, and then an error.
func TestRawRead(t *testing.T) {
	peer, conn, raw := pair(t)
	r := &reader{p: make([]byte, 4)}
	var n int
	var err error
	ok := true
	raw.Control(func(fd uintptr) { n, err, ok = Read(fd, r.p) })
	if n != 0 || err != nil || ok {
		t.Errorf("before anything came: %d, %v, %v", n, err, ok)
	}
	peer.Write([]byte("abcdef"))
	var got []byte
	for len(got) < 6 {
		b, err := r.read(raw)
		if err != nil || len(b) == 0 {
			t.Fatalf("%q, %v, after %q", b, err, got)
		}
		got = append(got, b...)
	}
	if string(got) != "abcdef" {
		t.Errorf("got %q", got)
	}
	peer.Close()
	if b, err := r.read(raw); len(b) != 0 || err != io.EOF {
		t.Errorf("at the end: %q, %v", b, err)
	}
	conn.Close()
	if _, err := r.read(raw); err == nil {
		t.Error("a closed connection was read")
	}
}

// A Writer writes what the socket takes, and does not wait for more room.
func TestRawWrite(t *testing.T) {
	peer, conn, raw := pair(t)
	var w Writer
	if n, err := w.Write(raw, []byte("hello")); n != 5 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(peer, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	large := bytes.Repeat([]byte("x"), 1<<20)
	total := 0
	for { // the peer reads nothing
		n, err := w.Write(raw, large)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if n, err := io.CopyN(io.Discard, peer, int64(total)); err != nil {
		t.Errorf("of %d bytes %d came: %v", total, n, err)
	}
	conn.SetWriteDeadline(time.Unix(1, 0))
	if n, err := w.Write(raw, b); n != 0 || !os.IsTimeout(err) {
		t.Errorf("after the deadline: %d, %v", n, err)
	}
	conn.SetWriteDeadline(time.Time{})
	if n := testing.AllocsPerRun(100, func() { w.Write(raw, b) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	conn.Close()
	if n, err := w.Write(raw, b); n != 0 || err == nil {
		t.Errorf("after the close: %d, %v", n, err)
	}
}

// A write to a connection that the other end has reset fails.
func TestRawWriteAfterReset(t *testing.T) {
	peer, _, raw := pair(t)
	peer.(*net.TCPConn).SetLinger(0)
	peer.Close()
	r := &reader{p: make([]byte, 1)}
	if _, err := r.read(raw); err == nil { // the reset has come
		t.Error("a connection that was reset was read")
	}
	var w Writer
	if n, err := w.Write(raw, []byte("x")); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

// If it works, WakeAt keeps a reader asleep until so much has come.
func TestRawWakeAt(t *testing.T) {
	peer, _, raw := pair(t)
	raw.Control(func(fd uintptr) { WakeAt(fd, 100) })
	r := &reader{p: make([]byte, 200)}
	peer.Write(make([]byte, 60))
	come := make(chan int, 1)
	go func() {
		b, _ := r.read(raw)
		come <- len(b)
	}()
	// What was there before the first read may come in two parts.
	peer.Write(make([]byte, 60))
	if n := <-come; n < 1 {
		t.Errorf("%d bytes", n)
	}
	raw.Control(func(fd uintptr) { WakeAt(fd, 1) })
	peer.Close()
	for {
		if b, err := r.read(raw); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%q, %v", b, err)
		}
	}
}

// What is no plain TCP connection is left alone.
func TestConnIsTCP(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Conn(a) != nil {
		t.Error("a pipe has a raw connection")
	}
	_, conn, _ := pair(t)
	conn.Close()
	if raw := Conn(conn); raw != nil {
		if _, err := (&reader{}).read(raw); err == nil {
			t.Error("a closed connection was read")
		}
	}
}

// A descriptor that someone has put into blocking mode does not stop the
// garbage collector.
func TestBlockingMode(t *testing.T) {
	peer, conn, raw := pair(t)
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Fd()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer peer.Close()
	began := make(chan struct{})
	reading.Go(func() {
		r := &reader{p: make([]byte, 1)}
		close(began)
		r.read(raw)
	})
	<-began
	runtime.GC()
}
