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
	since time.Time // of messages, while not busy
}

// A link is busy above 4,000 messages a second, and until there are less than
// 2,000. Its messages then wait for a millisecond at most.
const (
	rest         = time.Millisecond
	busyMessages = 64 // within 16 ms
	busyWithin   = 16 * time.Millisecond
	quietRests   = 16 // with less messages than
	quietBelow   = 32
	wakeBytes    = readBuffer / 2 // wake a resting link
)

// next is asked when all that has come is read, and answers whether to rest
// before the next read.
func (p *pace) next() bool {
	switch {
	case p.busy:
		if p.rests++; p.rests == quietRests {
			p.busy = p.messages >= quietBelow
			p.messages, p.rests = 0, 0
		}
	case p.messages >= busyMessages:
		now := time.Now()
		p.busy = now.Sub(p.since) < busyWithin
		p.since = now
		p.messages, p.rests = 0, 0
	}
	return p.busy
}

// A linkReader reads from a link's connection.
type linkReader struct {
	conn    net.Conn
	drained bool // the last read has left nothing behind

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
	r.drained = n < len(p)
	return n, err
}

// rest waits. A plain TCP connection does not wake the process meanwhile,
// unless its buffer fills.
func (r *linkReader) rest() {
	if r.raw != nil {
		r.raw.Control(func(fd uintptr) { wakeAt(fd, wakeBytes) })
		defer r.raw.Control(func(fd uintptr) { wakeAt(fd, 1) })
	}
	time.Sleep(rest)
}
