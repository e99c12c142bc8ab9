package redisbus

import (
	"net"
	"syscall"
	"time"

	"github.com/heraldgo/herald/internal/cpu"
	"github.com/heraldgo/herald/internal/rawio"
)

// A pace decides when the reader of a link lets messages collect, as network cards do
// with packets: being woken for one message costs several times what the message
// does. They collect if many come on a machine that has no processors to spare. There
// messages wait anyway; elsewhere they would wait for nothing.
type pace struct {
	messages int // how many were read since the count began
	busy     bool
	since    time.Time // when the count began

	share      func() float64 // of the node's messages that come over this link, about
	processors interface{ Busy() bool }
}

// A link becomes busy above its share of 2,000 messages a second, and stays busy down to
// three quarters of that. Below 500 a second a rest would collect no second message.
const (
	busyMessages = 64 // how many are timed
	busyRate     = 2000
	leastRate    = 500

	restFor   = 4 * time.Millisecond
	wakeBytes = readBuffer / 2 // for more the kernel would enlarge its buffer
)

// processors is shared by all links of the process.
var processors cpu.Gauge

// rests reports whether to rest before the next read. It is called when all that has
// come is read.
func (p *pace) rests() bool {
	if !p.busy && p.messages < busyMessages {
		return false
	}
	rate := max(busyRate*p.share(), leastRate)
	if p.busy {
		rate *= 0.75
	}
	within := time.Duration(busyMessages / rate * float64(time.Second))
	now := time.Now()
	if taken := now.Sub(p.since); p.messages >= busyMessages || taken >= within {
		p.busy = taken < within
		p.messages, p.since = 0, now
	}
	return p.busy && p.processors.Busy()
}

// A linkReader reads from a link's connection.
type linkReader struct {
	conn    net.Conn
	before  func() // called before each read, which may block
	drained bool   // the last read emptied the socket; known of plain TCP alone: TLS returns one record at a time

	// If conn is plain TCP.

	raw syscall.RawConn
	try func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

func newLinkReader(conn net.Conn, before func()) *linkReader {
	r := &linkReader{conn: conn, before: before, raw: rawio.Conn(conn)}
	r.try = func(fd uintptr) (ok bool) {
		r.n, r.err, ok = rawio.Read(fd, r.p)
		return ok
	}
	return r
}

func (r *linkReader) Read(p []byte) (n int, err error) {
	r.before()
	if r.raw == nil {
		n, err = r.conn.Read(p)
	} else {
		r.p, r.n, r.err = p, 0, nil
		if err = r.raw.Read(r.try); err == nil {
			n, err = r.n, r.err
		}
	}
	r.drained = r.raw != nil && n < len(p)
	return n, err
}

// rest sleeps, after a read that has drained the connection. On Linux what comes
// meanwhile does not wake the process' poller.
func (r *linkReader) rest() {
	r.raw.Control(func(fd uintptr) { rawio.WakeAt(fd, wakeBytes) })
	time.Sleep(restFor)
	r.raw.Control(func(fd uintptr) { rawio.WakeAt(fd, 1) })
}
