package herald

import (
	"net"
	"syscall"
	"time"
)

// A pace tells when so much comes on a link that messages had better wait for
// each other, as packets do in a network card: to be woken for one message costs
// several times what the message does.
type pace struct {
	messages int // that the reader has counted
	rests    int

	busy  bool
	since time.Time // of messages and rests
}

// A link is busy above 4,000 messages a second, and until there are less than
// some 1,500. Its messages then wait for about a millisecond at most.
const (
	rest         = time.Millisecond
	busyMessages = 64 // within 16 ms
	busyWithin   = 16 * time.Millisecond
	quietRests   = 16 // that took longer than 32 ms, or with less messages than
	quietBelow   = 32
	quietWithin  = 32 * time.Millisecond
	wakeBytes    = readBuffer / 2 // the kernel makes its own buffer larger for more
)

// next is asked when all that has come is read, and answers whether to rest
// before the next read.
func (p *pace) next() bool {
	switch {
	case p.busy:
		if p.rests++; p.rests == quietRests {
			p.begin(p.messages >= quietBelow, quietWithin)
		}
	case p.messages >= busyMessages:
		p.begin(true, busyWithin)
	}
	return p.busy
}

// begin counts anew. The link is busy if it has been, and no longer ago than
// within.
func (p *pace) begin(busy bool, within time.Duration) {
	now := time.Now()
	*p = pace{busy: busy && now.Sub(p.since) < within, since: now}
}

// A linkReader reads from a link's connection.
type linkReader struct {
	conn    net.Conn
	drained bool // the last read has left nothing behind; told of plain TCP alone: TLS gives a record at a time

	// Where conn is plain TCP.

	raw syscall.RawConn
	try func(fd uintptr) bool
	p   []byte
	n   int
	err error
}

func newLinkReader(conn net.Conn) *linkReader {
	r := &linkReader{conn: conn, raw: rawConn(conn)}
	r.try = func(fd uintptr) (ok bool) {
		r.n, r.err, ok = readOnce(fd, r.p)
		return ok
	}
	return r
}

func (r *linkReader) Read(p []byte) (n int, err error) {
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

// rest waits, after a read that has drained the connection, which on Linux does
// not wake the process' poller meanwhile.
func (r *linkReader) rest() {
	r.raw.Control(func(fd uintptr) { wakeAt(fd, wakeBytes) })
	time.Sleep(rest)
	r.raw.Control(func(fd uintptr) { wakeAt(fd, 1) })
}
