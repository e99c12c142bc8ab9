package redisbus

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/inbox"
	"github.com/heraldgo/herald/internal/redisconn"
)

// A trunk is one connection to Redis, which is never replaced by another. On a
// Cluster it carries the links, in one direction, of all partitions whose slots its
// master has; elsewhere it has one link. Exchanges that come while others wait for
// answers are written together, as soon as all those answers have come.
type trunk struct {
	conn    net.Conn
	server  string        // the address of the other end
	client  *redis.Client // opened the session; from then on only finish uses it
	timeout time.Duration // for an answer
	shared  bool          // by links of several partitions
	lane    *lane         // of the links that publish, if the trunk is shared
	proof   sharedProof

	life  atomic.Uint64 // counts the replies and messages read that were awaited
	dead  chan struct{} // closed when err is set
	ended chan struct{} // closed when the reader has ended
	over  chan struct{} // closed when reader and lane have ended
	once  sync.Once     // closes client

	// Used by the reader alone, on a trunk of subscribed links.

	intake *intake
	count  int   // subscriptions, of all links
	cut    *link // the link whose subscriptions the server is ending, or nil

	// Holds the buffer in which exchanges are joined for one write. Its writer takes
	// it out meanwhile: all of them may be answered, and the next writer come, before
	// the write has returned.
	joined chan []byte

	// The subscribed links, by slot. A map in here is never changed, only replaced.
	routes atomic.Pointer[map[string]*link]

	mu     sync.Mutex
	links  map[*link]struct{} // nil when dead
	flying []*exchange        // written, or about to be; the first is answered next
	queue  []*exchange        // to be written when flying is empty
	err    error              // why the trunk is dead
}

// errUnused is why a trunk without a link ends.
var errUnused = errors.New("herald: no partition uses this connection any more")

func newTrunk(conn net.Conn, timeout time.Duration) *trunk {
	joined := make(chan []byte, 1)
	joined <- nil
	return &trunk{
		conn:    conn,
		joined:  joined,
		server:  conn.RemoteAddr().String(),
		timeout: timeout,
		dead:    make(chan struct{}),
		ended:   make(chan struct{}),
		over:    make(chan struct{}),
	}
}

// add adds a link for the subscriptions of sub, or for publishing if sub is nil. It
// returns nil if the trunk is dead.
func (t *trunk) add(sub *subscriber) *link {
	l := &link{trunk: t, dead: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil
	}
	if t.links == nil {
		t.links = make(map[*link]struct{})
	}
	t.links[l] = struct{}{}
	if sub != nil {
		l.in = newInbound(sub, t)
		t.route(sub.way.slot, l)
	}
	return l
}

// route sets or, if l is nil, deletes the link of a slot. It is called with mu held.
func (t *trunk) route(slot string, l *link) {
	routes := make(map[string]*link)
	if old := t.routes.Load(); old != nil {
		maps.Copy(routes, *old)
	}
	if l == nil {
		delete(routes, slot)
	} else {
		routes[slot] = l
	}
	t.routes.Store(&routes)
}

// share is the part of all partitions whose messages come over this trunk.
func (t *trunk) share() float64 {
	if routes := t.routes.Load(); t.shared && routes != nil {
		return float64(len(*routes)) / float64(len(redisconn.Tags))
	}
	return 1
}

// remove takes a dead link off the trunk. The trunk ends with its last link.
func (t *trunk) remove(l *link) {
	t.mu.Lock()
	delete(t.links, l)
	last, waiting := t.err == nil && len(t.links) == 0, len(t.flying) > 0
	if last {
		t.err = errUnused
	} else if t.err == nil && l.in != nil {
		if slot := l.in.sub.way.slot; (*t.routes.Load())[slot] == l {
			t.route(slot, nil)
		}
	}
	t.mu.Unlock()
	if last {
		t.drop(waiting)
	}
}

// enter notes an exchange, and reports whether the caller is to write it now.
func (t *trunk) enter(e *exchange) (first bool, err error) {
	if e.link != nil {
		if err := e.link.reason(); err != nil {
			return false, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.err != nil:
		return false, t.err
	case len(t.flying) == 0:
		t.flying, e.written = append(t.flying, e), true
		return true, nil
	}
	e.lead = make(chan struct{}, 1)
	t.queue = append(t.queue, e)
	return false, nil
}

// next returns the exchange whose answer comes next, or nil.
func (t *trunk) next() *exchange {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flying) == 0 {
		return nil
	}
	return t.flying[0]
}

// completed takes the first exchange off, since all its commands are answered. If it
// was the last of a write, those in the queue are written next.
func (t *trunk) completed() {
	t.mu.Lock()
	e := t.flying[0]
	n := copy(t.flying, t.flying[1:])
	t.flying[n] = nil
	t.flying = t.flying[:n]
	var leader *exchange
	if n == 0 && len(t.queue) > 0 {
		leader = t.queue[0]
		bytes := 0
		for n < len(t.queue) && (n == 0 || bytes+len(t.queue[n].bytes) <= maxPublishBytes) {
			bytes += len(t.queue[n].bytes)
			t.queue[n].written = true
			n++
		}
		t.flying = append(t.flying, t.queue[:n]...)
		rest := copy(t.queue, t.queue[n:])
		clear(t.queue[rest:])
		t.queue = t.queue[:rest]
	}
	t.mu.Unlock()
	if t.intake != nil {
		t.intake.flush()
	}
	close(e.done)
	if leader != nil {
		leader.lead <- struct{}{}
	}
}

// writeAll writes all exchanges that are due, in one write.
func (t *trunk) writeAll() (n int, err error) {
	bytes := (<-t.joined)[:0]
	t.mu.Lock()
	for _, e := range t.flying {
		bytes = append(bytes, e.bytes...)
	}
	t.mu.Unlock()
	n, err = t.write(bytes)
	if cap(bytes) > 2*maxPublishBytes {
		bytes = nil
	}
	t.joined <- bytes
	return n, err
}

// write writes, and makes the trunk dead if that takes too long. Any other error it
// leaves to the reader: Redis may have said why before it closed.
func (t *trunk) write(p []byte) (n int, err error) {
	t.conn.SetWriteDeadline(time.Now().Add(t.timeout))
	n, err = t.conn.Write(p)
	if isTimeout(err) {
		t.fail(err)
	}
	return n, err
}

// fail makes the trunk dead, and all its links, for the reason err. It does
// not block.
func (t *trunk) fail(err error) {
	t.mu.Lock()
	first, waiting := t.err == nil, len(t.flying) > 0
	var links map[*link]struct{}
	if first {
		t.err = err
		links, t.links = t.links, nil
	}
	t.mu.Unlock()
	if !first {
		return
	}
	for l := range links {
		l.end(err)
	}
	t.drop(waiting)
}

// drop closes the connection of a dead trunk. waiting reports whether exchanges wait for
// answers.
func (t *trunk) drop(waiting bool) {
	close(t.dead)
	conn := t.conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn() // tls.Conn.Close writes, and may block
	}
	// A reset discards what the kernel has not sent yet. That would come late, behind
	// publishes on the next link.
	if t, ok := conn.(*net.TCPConn); ok && waiting {
		t.SetLinger(0)
	}
	conn.Close()
}

// run reads until the trunk is dead, and ends the lane then.
func (t *trunk) run() {
	defer close(t.over)
	t.read()
	if t.lane != nil {
		t.lane.batch.Close(errAside)
	}
}

// finish waits for the goroutines of a trunk if it is dead.
func (t *trunk) finish() {
	if t.reason() == nil {
		return
	}
	<-t.over
	t.once.Do(func() { t.client.Close() })
}

// reason returns why the trunk is dead, or nil.
func (t *trunk) reason() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// An intake hands the packets that come on a trunk to the inbox.
type intake struct {
	inbox  *inbox.Inbox[Event]
	proofs *proofs
	events []Event // read and not yet in the inbox
}

func (in *intake) take(e Event) {
	in.events = append(in.events, e)
	if len(in.events) == maxEvents {
		in.flush()
	}
}

// flush moves what has been read to the inbox.
func (in *intake) flush() {
	if len(in.events) == 0 {
		return
	}
	in.inbox.Push(in.events, Event{Kind: KindDown, Since: in.proofs.oldest(), Err: errInboxFull})
	clear(in.events)
	in.events = in.events[:0]
}

// maxEvents is how many packets go to the inbox together.
const maxEvents = 256
