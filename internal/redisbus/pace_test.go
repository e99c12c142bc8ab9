package redisbus

import (
	"cmp"
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

// A link on a busy machine rests while much comes, and neither for a few messages
// together nor long after.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := new(busyMachine)
		share := 1.0
		p := pace{share: func() float64 { return share }, processors: machine}
		// run reads at so many messages a second for a second.
		run := func(rate int) (rests int) {
			start := time.Now()
			for read := 0; read < rate; {
				due := int(time.Since(start) * time.Duration(rate) / time.Second)
				if due == read {
					time.Sleep(time.Second / time.Duration(rate))
					continue
				}
				p.messages += due - read
				read = due
				if p.rests() {
					time.Sleep(restFor)
					rests++
				}
			}
			return rests
		}
		for _, step := range []struct {
			rate        int
			busy        bool // the machine
			least, most int
			share       float64 // 0 is 1
		}{
			{rate: 50000},
			{rate: 1000, busy: true, most: 11}, // perhaps for a moment
			{rate: 1900, busy: true},
			{rate: 5000, busy: true, least: 230, most: 251},
			{rate: 1600, busy: true, least: 200, most: 251}, // still
			{rate: 1000, busy: true, most: 11},
			{rate: 1900, busy: true}, // no longer
			{rate: 50000, busy: true, least: 230, most: 251},
			{rate: 2, busy: true}, // however late it sees that
			{rate: 50000, busy: true, least: 230, most: 251},
			{rate: 50000},
			{rate: 1000, busy: true, most: 11},
			{rate: 1000, busy: true, least: 230, most: 251, share: 1. / 3},
			{rate: 550, busy: true, least: 130, most: 251, share: 1. / 3}, // still
			{rate: 450, busy: true, most: 40, share: 1. / 3},
			{rate: 600, busy: true, share: 1. / 3}, // no longer
			{rate: 2, busy: true},
			{rate: 450, busy: true, share: 1. / 16}, // a rest would collect too little
			{rate: 600, busy: true, least: 130, most: 251, share: 1. / 16},
		} {
			machine.busy = step.busy
			share = cmp.Or(step.share, 1)
			if rests := run(step.rate); rests < step.least || rests > step.most {
				t.Errorf("at %d messages a second there were %d rests, want %d to %d", step.rate, rests, step.least, step.most)
			}
		}
	})
}

// A trunk that partitions of a Cluster share has as much of the messages as it has of
// the partitions.
func TestShare(t *testing.T) {
	_, conn := tcpPair(t)
	alone, shared := newTrunk(conn, time.Second), newTrunk(conn, time.Second)
	shared.shared = true
	var links []*link
	for _, way := range clusterWays("herald", true)[:4] {
		links = append(links, shared.add(&subscriber{way: way}))
	}
	alone.add(&subscriber{way: singleWay("herald", 0)})
	if one, quarter := alone.share(), shared.share(); one != 1 || quarter != 0.25 {
		t.Errorf("the shares are %v and %v, want 1 and 0.25", one, quarter)
	}
	shared.remove(links[0])
	if left := shared.share(); left != 3./16 {
		t.Errorf("the share of three partitions is %v", left)
	}
}

type busyMachine struct{ busy bool }

func (m *busyMachine) Busy() bool { return m.busy }

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
