package redisbus

import (
	"net"
	"syscall"
	"time"

	"github.com/heraldgo/herald/internal/rawio"
)

// A pace tells when so much comes on a link that messages had better wait for
// each other, as packets do in a network card: to be woken for one message costs
// several times what the message does.
type pace struct {
	messages int // that the reader has counted
	rests    int

	busy  bool
	since time.Time     // when messages and rests were last counted from
	late  time.Duration // how much longer than asked rests have lately taken, on average
}

// A link is busy above 2,000 messages a second, and until there are less than
// 1,500. Its messages then wait for about a millisecond at most. They wait for up
// to four on a machine with so much to do that it is late for what is due: there
// messages wait anyway, and a wakeup costs most.
const (
	minRest      = time.Millisecond
	maxRest      = 4 * time.Millisecond
	restSlack    = 50 * time.Microsecond
	perLate      = 8  // a rest is longer by so many times what rests are late
	busyMessages = 64 // within
	busyWithin   = 32 * time.Millisecond
	quietRests   = 4                  // that had, on average,
	quietEach    = time.Second / 1500 // less than one message each so long
	wakeBytes    = readBuffer / 2     // the kernel makes its own buffer larger for more
)

// next is asked when all that has come is read, and answers whether to rest
// before the next read.
func (p *pace) next() bool {
	switch {
	case p.busy:
		if p.rests++; p.rests == quietRests {
			p.begin(time.Duration(p.messages) * quietEach)
		}
	case p.messages >= busyMessages:
		p.begin(busyWithin)
		p.late = 0
	}
	return p.busy
}

// begin counts anew. The link is busy if the last count began no longer ago
// than within.
func (p *pace) begin(within time.Duration) {
	now := time.Now()
	p.busy = now.Sub(p.since) < within
	p.messages, p.rests, p.since = 0, 0, now
}

// sleep waits for a rest: whole milliseconds and a little more. An idle process
// waits in whole milliseconds, rounded down, and then for one more if some of the
// rest is left. That would look like a machine that is late.
func (p *pace) sleep() {
	rest := min(minRest+perLate*p.late, maxRest).Truncate(time.Millisecond) + restSlack
	start := time.Now()
	time.Sleep(rest)
	p.late += (time.Since(start) - rest - p.late) / 8
}

// A linkReader reads from a link's connection.
type linkReader struct {
	conn    net.Conn
	before  func() // is called before each read, which may wait
	drained bool   // the last read has left nothing behind; told of plain TCP alone: TLS gives a record at a time

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

// rest sleeps, after a read that has drained the connection, which on Linux does
// not wake the process' poller meanwhile.
func (r *linkReader) rest(p *pace) {
	r.raw.Control(func(fd uintptr) { rawio.WakeAt(fd, wakeBytes) })
	p.sleep()
	r.raw.Control(func(fd uintptr) { rawio.WakeAt(fd, 1) })
}
