package herald

import (
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A link is busy while much comes, and neither for a few messages together nor
// long after.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		// read is a read of so many messages, and the rest after it.
		read := func(messages int, after time.Duration) (rested bool) {
			p.messages += messages
			rested = p.next()
			time.Sleep(after)
			return rested
		}
		for range 1000 {
			if read(1, time.Millisecond) {
				t.Fatal("1,000 messages a second are too many")
			}
		}
		for range 100 {
			if read(40, 20*time.Millisecond) {
				t.Fatal("2,000 messages a second are too many")
			}
		}
		busy := func(messages int, d time.Duration) (rests int) {
			for range d / time.Millisecond {
				if read(messages, time.Millisecond) {
					rests++
				}
			}
			return rests
		}
		if n := busy(5, time.Second); n < 950 {
			t.Errorf("of 1,000 reads at 5,000 messages a second %d rested", n)
		}
		if n := busy(3, time.Second); n != 1000 {
			t.Errorf("of 1,000 reads at 3,000 messages a second %d rested: the link was busy", n)
		}
		if n := busy(1, time.Second); n > 2*quietRests {
			t.Errorf("at 1,000 messages a second %d reads rested", n)
		}
		busy(5, time.Second)
		rests := 0
		for range 1000 {
			if read(2, time.Second) {
				rests++
			}
		}
		if rests > 2*quietRests {
			t.Errorf("at two messages a second %d reads rested", rests)
		}
	})
}

// Only a plain TCP connection is known to be drained; what comes while it
// rests, its end too, is read after that.
func TestLinkReader(t *testing.T) {
	server, conn := tcpPair(t)
	wrapped := newLinkReader(struct{ net.Conn }{conn})
	r := newLinkReader(conn)
	p := make([]byte, 4)
	server.Write([]byte("one"))
	if n, err := wrapped.Read(p); n != 3 || err != nil || wrapped.drained {
		t.Errorf("%d bytes, %v, drained %v", n, err, wrapped.drained)
	}
	if r.raw == nil {
		return // no connection rests on this system
	}
	for range 100 {
		server.Write([]byte("first"))
		if n, err := r.Read(p); n != 4 || err != nil || r.drained {
			t.Fatalf("%d bytes, %v, drained %v, while one is left", n, err, r.drained)
		}
		if n, err := r.Read(p); n != 1 || err != nil || !r.drained {
			t.Fatalf("%d bytes, %v, drained %v, of the last", n, err, r.drained)
		}
		var writing sync.WaitGroup
		writing.Go(func() { server.Write([]byte("x")) })
		r.rest()
		writing.Wait()
		if n, err := r.Read(p); n != 1 || err != nil {
			t.Fatalf("%d bytes, %v, after the rest", n, err)
		}
	}
	server.Close()
	r.rest()
	if n, err := r.Read(p); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v, want the end", n, err)
	}
}

// A descriptor that someone has put into blocking mode does not stop the
// garbage collector.
func TestBlockingMode(t *testing.T) {
	server, conn := tcpPair(t)
	if rawConn(conn) == nil {
		return // it is not read this way on this system
	}
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Fd()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer server.Close()
	reading.Go(func() { newLinkReader(conn).Read(make([]byte, 1)) })
	time.Sleep(10 * time.Millisecond)
	runtime.GC()
}
