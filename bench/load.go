package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A load is the clients of one contestant: the same for all, and cheap.
// Plain sockets are read by one goroutine with epoll, for a goroutine a
// client would cost more than some servers do.
type load struct {
	protocol protocol
	poller   *poller // of plain sockets
	tally    tally

	connected atomic.Int64

	// Of -compress. What comes is put aside, and taken when all has been sent, so that
	// inflating takes no time of the servers'.
	later  bool
	bodies bodies // what the messages are, or nil

	mu       sync.Mutex
	conns    []net.Conn // over TLS
	arrivals []arrival  // while later
}

// An arrival is what one call has read for a client.
type arrival struct {
	c  *client
	b  []byte
	at time.Time
}

// A tally counts what arrives. Count and sum together tell whether every
// message has arrived, once.
type tally struct {
	count   atomic.Int64
	sum     atomic.Int64 // of the messages' numbers
	strange atomic.Int64 // while personal, messages for another user
	closed  atomic.Int64 // connections that the server has closed
	bytes   atomic.Int64 // that were read
	spoilt  atomic.Int64 // messages that are not what was sent, or cannot be inflated

	personal atomic.Bool // messages are to users
	timed    atomic.Bool // their latencies are noted

	mu        sync.Mutex
	latencies []time.Duration
}

func newLoad(p protocol) (*load, error) {
	poller, err := newPoller()
	if err != nil {
		return nil, err
	}
	l := &load{protocol: p, poller: poller}
	poller.run(l.take)
	return l, nil
}

// A client is one connection.
type client struct {
	user  int // its number
	users int // there are in all: a message to one has a number that leaves user as the rest
	fd    int
	conn  net.Conn // over TLS, else nil
	rest  []byte   // of a frame that has not come in whole

	inflater *inflater // nil if compression is not agreed on
	message  []byte    // the fragments of a message that has not come in whole
	packed   bool      // it is compressed
}

// connectAll connects clients for the users first, first+step, … below users,
// at most so many at a time.
func (l *load) connectAll(addr string, first, step, users, atOnce int, useTLS bool) error {
	var next atomic.Int64
	next.Store(int64(first - step))
	errs := make([]error, atOnce)
	var connecting sync.WaitGroup
	for n := range atOnce {
		connecting.Go(func() {
			for errs[n] == nil {
				i := int(next.Add(int64(step)))
				if i >= users {
					return
				}
				if err := l.connect(addr, &client{user: i, users: users}, useTLS); err != nil {
					errs[n] = fmt.Errorf("client %d: %w", i, err)
				}
			}
		})
	}
	connecting.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *load) connect(addr string, c *client, useTLS bool) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if useTLS {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // of our own child, on loopback
	}
	g, err := connect(conn, l.protocol, user(c.user))
	if err != nil {
		conn.Close()
		return err
	}
	c.rest, c.inflater = g.rest(), g.inflater
	conn.SetDeadline(time.Time{})
	l.connected.Add(1)
	if useTLS {
		c.conn = conn
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
		go l.readTLS(c)
		return nil
	}
	return l.poller.add(conn.(*net.TCPConn), c)
}

func (l *load) readTLS(c *client) {
	buf := make([]byte, 8<<10)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			l.tally.closed.Add(1)
			return
		}
		l.take(c, buf[:n])
	}
}

// take takes what has been read for c.
func (l *load) take(c *client, b []byte) {
	if b == nil {
		l.tally.closed.Add(1)
		return
	}
	l.tally.bytes.Add(int64(len(b)))
	if l.later {
		l.mu.Lock()
		l.arrivals = append(l.arrivals, arrival{c, slices.Clone(b), time.Now()})
		l.mu.Unlock()
		return
	}
	l.takeNow(c, b, 0)
}

// catchUp takes what has been put aside.
func (l *load) catchUp() {
	l.mu.Lock()
	arrivals := l.arrivals
	l.arrivals = nil
	l.mu.Unlock()
	for _, a := range arrivals {
		l.takeNow(a.c, a.b, a.at.UnixNano())
	}
}

// takeNow takes what was read for c at a time, or, if that is 0, just now.
func (l *load) takeNow(c *client, b []byte, now int64) {
	if len(c.rest) > 0 {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	each := func(number int, at int64) {
		t := &l.tally
		t.count.Add(1)
		t.sum.Add(int64(number))
		if t.personal.Load() && number%c.users != c.user {
			t.strange.Add(1)
		}
		if t.timed.Load() {
			if now == 0 {
				now = time.Now().UnixNano()
			}
			t.mu.Lock()
			t.latencies = append(t.latencies, time.Duration(now-at))
			t.mu.Unlock()
		}
	}
	for {
		opcode, size, length, ok := frameHeader(b)
		if !ok || len(b) < size+length {
			break
		}
		first, payload := b[0], b[size:size+length]
		b = b[size+length:]
		switch opcode {
		case opPing:
			c.write(maskedFrame(opPong, payload))
		case opClose:
			c.write(maskedFrame(opClose, payload))
		case opText, opBinary, opMore:
			var whole bool
			var err error
			if payload, whole, err = c.unpack(first, payload); err != nil {
				l.tally.spoilt.Add(1)
			}
			if !whole {
				continue
			}
			findMessages(payload, each)
			if l.bodies != nil {
				l.tally.spoilt.Add(l.bodies.spoilt(payload))
			}
			if l.protocol.answer != nil {
				if p := l.protocol.answer(opcode, payload); p != nil {
					c.write(maskedFrame(opcode, p))
				}
			}
		}
	}
	c.rest = append(c.rest[:0], b...)
}

// unpack returns the message of a frame with its first byte, unless more of it is to come.
func (c *client) unpack(first byte, payload []byte) (message []byte, whole bool, err error) {
	if first&15 != opMore {
		c.packed = first&compressed != 0
	}
	if first&final == 0 || len(c.message) > 0 {
		c.message = append(c.message, payload...)
		payload = c.message
	}
	if first&final == 0 {
		return nil, false, nil
	}
	c.message = nil
	if c.packed {
		payload, err = c.inflater.inflate(payload)
	}
	return payload, err == nil, err
}

// write writes a few bytes, for which a socket has always room.
func (c *client) write(b []byte) {
	if c.conn != nil {
		c.conn.Write(b)
	} else {
		syscall.Write(c.fd, b)
	}
}

// await waits until count messages have arrived, or none has come for patience.
func (l *load) await(count int64, patience time.Duration) {
	last, since := int64(-1), time.Now()
	for {
		l.catchUp()
		n := l.tally.count.Load()
		if n >= count {
			return
		}
		if n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > patience {
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// close drops every connection.
func (l *load) close() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	l.poller.close()
}
