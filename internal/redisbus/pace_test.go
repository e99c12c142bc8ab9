package redisbus

import (
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heraldgo/herald/internal/rawio"
	"github.com/heraldgo/herald/internal/resp"
)

// A link is busy while much comes, and neither for a few messages together nor
// long after.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		// run reads at so many messages a second for a second.
		run := func(rate int) (rests int, resting time.Duration) {
			start := time.Now()
			for read := 0; read < rate; {
				due := int(time.Since(start) * time.Duration(rate) / time.Second)
				if due == read {
					time.Sleep(time.Second / time.Duration(rate))
					continue
				}
				p.messages += due - read
				read = due
				if p.next() {
					before := time.Now()
					p.sleep()
					rests++
					resting += time.Since(before)
				}
			}
			return rests, resting
		}
		for _, step := range []struct {
			rate, least, most int
		}{
			{1000, 0, 0},
			{1900, 0, 0},
			{5000, 450, 1001},  // busy
			{3000, 450, 1001},  // still
			{1000, 0, 10},      // perhaps for a moment
			{1900, 0, 0},       // no longer
			{50000, 900, 1001}, // busy
			{2, 0, 4},          // however late it sees that
		} {
			rests, resting := run(step.rate)
			if rests < step.least || rests > step.most {
				t.Errorf("at %d messages a second there were %d rests, want %d to %d", step.rate, rests, step.least, step.most)
			}
			if resting > time.Duration(rests)*(minRest+restSlack) {
				t.Errorf("%d rests took %v, and nobody was late", rests, resting)
			}
		}
	})
}

// A rest is longer if the last ones took longer than asked.
func TestPaceLate(t *testing.T) {
	p := pace{late: 300 * time.Microsecond}
	synctest.Test(t, func(t *testing.T) {
		rest := func() time.Duration {
			start := time.Now()
			p.sleep()
			return time.Since(start)
		}
		if d := rest(); d != 3*time.Millisecond+restSlack { // 1 ms, and 8 × 0.3
			t.Errorf("a rest of %v", d)
		}
		for range 100 {
			rest()
		}
		if d := rest(); d != minRest+restSlack {
			t.Errorf("a rest of %v, long after anybody was late", d)
		}
		p.late = time.Second
		if d := rest(); d != maxRest+restSlack {
			t.Errorf("a rest of %v, want no more than %v", d, maxRest)
		}
	})
}

// How long a rest takes in truth, on a machine that has nothing else to do.
func BenchmarkRest(b *testing.B) {
	var p pace
	for b.Loop() {
		p.sleep()
	}
}

// A message is handed over while only half of the next has come.
func TestHalfMessage(t *testing.T) {
	server, conn := tcpPair(t)
	sub := &subscriber{inbox: newInbox(), way: singleWay("herald", 0), proofs: newProofs(1, false)}
	trunk := newTrunk(conn, time.Second)
	trunk.intake = &intake{inbox: sub.inbox, proofs: sub.proofs}
	trunk.add(sub)
	go trunk.read()
	message := func(data string) []byte {
		b := []byte(">3\r\n")
		for _, word := range []string{"message", sub.way.prefix + "topic", data} {
			b = resp.AppendWord(b, word)
		}
		return b
	}
	half := len(message("two")) / 2
	server.Write(append(message("one"), message("two")[:half]...))
	expect := func(want string) {
		t.Helper()
		if e, err := sub.inbox.Receive(t.Context()); err != nil || string(e.Packet.Data) != want {
			t.Errorf("received %q, %v, want %q", e.Packet.Data, err, want)
		}
	}
	expect("one")
	server.Write(message("two")[half:])
	expect("two")
	server.Close()
	<-trunk.ended
}

// Only a plain TCP connection is known to be drained; what comes while it
// rests, its end too, is read after that.
func TestLinkReader(t *testing.T) {
	server, conn := tcpPair(t)
	wrapped := newLinkReader(struct{ net.Conn }{conn}, func() {})
	r := newLinkReader(conn, func() {})
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
		r.rest(new(pace))
		writing.Wait()
		if n, err := r.Read(p); n != 1 || err != nil {
			t.Fatalf("%d bytes, %v, after the rest", n, err)
		}
	}
	server.Close()
	r.rest(new(pace))
	if n, err := r.Read(p); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v, want the end", n, err)
	}
}

// A descriptor that someone has put into blocking mode does not stop the
// garbage collector.
func TestBlockingMode(t *testing.T) {
	server, conn := tcpPair(t)
	if rawio.Conn(conn) == nil {
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
	reading.Go(func() { newLinkReader(conn, func() {}).Read(make([]byte, 1)) })
	time.Sleep(10 * time.Millisecond)
	runtime.GC()
}

// tcpPair returns the two ends of a connection.
func tcpPair(t *testing.T) (client, server net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}
