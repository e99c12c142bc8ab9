package mqttbus

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A link is one connection to the broker, and never gets another. One goroutine at a
// time calls do, another reads.
type link struct {
	conn     net.Conn
	quickAck func() // to be called after a read
	r        *bufio.Reader
	timeout  time.Duration // for an answer
	limits   limits
	in       *inbound // nil if nothing is subscribed
	born     time.Time

	life  atomic.Uint64 // reads that brought something
	dead  chan struct{} // closed when err is set
	ended chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	current *exchange // that waits for answers
	err     error     // why the link is dead
}

// An answer is what a packet of ours waits for. Its packet identifier is its
// place in the exchange, counted from 1; PINGRESP, which has none, is last.
type answer struct {
	kind byte // packets.PUBACK, …
	done bool
	code byte // reason code of PUBACK

	// Of SUBACK and UNSUBACK.

	topics []string // herald's
	names  []string // their MQTT topics
	codes  []byte   // reason codes, one for each
}

// An exchange is a number of packets that are written together. The reader
// owns the answers from the write on until done is closed.
type exchange struct {
	answers []answer
	left    int
	done    chan struct{}
}

// lastWords is how long the reader may take to read what the broker said before it
// hung up.
const lastWords = 500 * time.Millisecond

// maxPatience is how many timeouts answers may take while other things come: a broker
// that sends those without end would keep the link for ever.
const maxPatience = 10

// do writes bytes, which are packets, and waits until all have been answered,
// or the link is dead, for the reason err. written says how many bytes may
// have gone out. A link that reads nothing for its timeout is dead.
func (l *link) do(bytes []byte, answers []answer) (written int, err error) {
	e := &exchange{answers: answers, left: len(answers), done: make(chan struct{})}
	l.mu.Lock()
	err = l.err
	l.current = e
	l.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if written, err = l.write(bytes); err != nil {
		select { // the reader may find out why
		case <-l.dead:
		case <-time.After(lastWords):
		}
		l.fail(err)
	}
	life := l.life.Load()
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	waited := 0
	for err == nil {
		select {
		case <-e.done:
			return written, nil
		case <-l.dead:
			err = l.reason()
		case <-timer.C:
			waited++
			if now := l.life.Load(); now != life && waited < maxPatience {
				life = now
				timer.Reset(l.timeout)
				continue
			}
			l.fail(fmt.Errorf("mqttbus: the broker has not answered for %v", time.Duration(waited)*l.timeout))
		}
	}
	<-l.ended // from here on the exchange is ours again
	if e.left == 0 {
		return written, nil
	}
	return written, l.reason()
}

// writeChunk is how much must go out within the timeout.
const writeChunk = 64 << 10

// write writes bytes; after an error the link must not be used. If the link is
// subscribed they go out in one piece, because the reader also writes, and neither
// may come between the other's packets.
func (l *link) write(bytes []byte) (written int, err error) {
	chunk := len(bytes)
	if l.in == nil {
		chunk = writeChunk
	}
	for err == nil && written < len(bytes) {
		l.conn.SetWriteDeadline(time.Now().Add(l.timeout))
		var n int
		n, err = l.conn.Write(bytes[written:min(written+chunk, len(bytes))])
		written += n
	}
	if err != nil {
		err = fmt.Errorf("write to the broker: %w", err)
	}
	return written, err
}

// fail makes the link dead, for the reason err. It does not block.
func (l *link) fail(err error) {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
	}
	l.mu.Unlock()
	if first {
		close(l.dead)
		l.hangUp()
	}
}

// hangUp closes the connection without a word.
func (l *link) hangUp() {
	conn := l.conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn() // tls.Conn.Close writes, and may block
	}
	conn.Close()
}

// close makes the link dead and waits for its reader.
func (l *link) close(err error) {
	l.fail(err)
	<-l.ended
}

// reason returns why the link is dead, or nil.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
