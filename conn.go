package herald

import (
	"context"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/conflate"
	"github.com/heraldgo/herald/internal/deflate"
	"github.com/heraldgo/herald/internal/rate"
)

// A Conn is one socket of one device of a user. Any goroutine may call its methods at any
// time. Callbacks may, too.
type Conn struct {
	hub *Hub

	// Its state and its queue. Each message that is enqueued looks at these, so they lie
	// together.

	mu         sync.Mutex
	state      connState
	accepted   bool // OnConnect has returned nil, perhaps while the Conn was closing
	registered bool // the Registry has been asked to add it
	deflates   bool // the client has agreed on compression; never changes
	queue      queue
	cause      error         // why it ended
	timer      *time.Timer   // kills it; nil unless it is closing and has a socket
	killed     chan struct{} // closed by kill, if somebody waits for it

	unlisted chan presenceResult // gets the Registry's answer to its removal; nil until it closes

	// The connection, from the upgrade on.

	socket      socket
	subprotocol string

	// Who it is.

	counter  uint64
	identity Identity
	remote   string
	since    atomic.Int64 // Unix microseconds, the Registry's; 0 before its answer
	ctx      context.Context
	cancel   context.CancelCauseFunc

	handshake atomic.Pointer[context.CancelCauseFunc] // ends what the handshake waits for; nil after it

	memberships memberships // guarded by index.mu

	// Limits.

	expires atomic.Int64 // Unix nanoseconds; 0 if never
	reading atomic.Int64 // on clock: since when a message or a control frame has been coming in; 0 if none is
	pinged  atomic.Int64 // on clock: when it was pinged, if no bytes have come since; otherwise 0
	rate    rate.Bucket  // used by whoever has the turn to read
	flow    rate.Bucket  // for bytes; keepalive leaves it to the reader
}

// ID returns the id of the connection, <node>.<counter>, which no other
// connection ever has.
func (c *Conn) ID() string { return c.hub.id + "." + strconv.FormatUint(c.counter, 10) }

// User returns the user that Authenticate named.
func (c *Conn) User() string { return c.identity.User }

// Identity returns what Authenticate returned, even if groups or the expiry have changed
// since. Groups are sorted, each once. The slice and the map are the caller's; Local is
// not copied.
func (c *Conn) Identity() Identity {
	id := c.identity
	id.Groups = slices.Clone(id.Groups)
	id.Meta = maps.Clone(id.Meta)
	return id
}

// Session returns what the Registry knows of the connection.
func (c *Conn) Session() Session {
	return Session{
		ID:         c.ID(),
		User:       c.identity.User,
		Device:     c.identity.Device,
		Platform:   c.identity.Platform,
		Node:       c.hub.id,
		RemoteAddr: c.remote,
		Since:      c.sinceTime(),
		Meta:       maps.Clone(c.identity.Meta),
	}
}

func (c *Conn) isAccepted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.accepted
}

func (c *Conn) sinceTime() time.Time {
	if us := c.since.Load(); us != 0 {
		return time.UnixMicro(us)
	}
	return time.Time{}
}

// Hub returns the Hub that the connection is on.
func (c *Conn) Hub() *Hub { return c.hub }

// Context returns a context that has the values of ConnContext's, and is done when the
// connection ends or begins to close. Its cause is the one that OnDisconnect gets.
func (c *Conn) Context() context.Context { return c.ctx }

// Done returns a channel that is closed when the connection ends or begins to close.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Groups returns the groups that the connection belongs to, in no order. Once it begins
// to close, they are those that it belonged to then.
func (c *Conn) Groups() []string { return c.hub.index.groupsOf(c) }

// Subprotocol returns the subprotocol that was agreed on, or "".
func (c *Conn) Subprotocol() string { return c.subprotocol }

// Send queues a message for this socket alone. It never blocks. The error is ErrClosed;
// or ErrTooSlow if the queue is full, and then the connection is closed; or it wraps
// ErrInvalid.
func (c *Conn) Send(m Message) error {
	if err := m.check(c.hub.config.MaxSendSize); err != nil {
		return err
	}
	frame := deflate.Frame{Plain: m.frame()}
	if c.queue.log.comesBack() {
		frame.Plain = headed(&bare, frame.Plain)
	}
	var key *conflate.Key
	if m.key != "" {
		key = &conflate.Key{Sum: conflate.SumOf(byte(targetConnection), []string{c.ID()}, m.key)}
	}
	if err := c.enqueue(frame.For(c.deflates), m.volatile, key); err != errDropped {
		return err
	}
	return nil
}

// Join makes the connection a member of the groups. When it returns nil, a Send to them
// from any node reaches the connection. It may be called from OnConnect and OnMessage.
// Once the connection has begun to close, the error is ErrClosed. If it would have more
// than MaxGroups, the error wraps ErrLimit, and it has joined none of them.
func (c *Conn) Join(ctx context.Context, groups ...string) error {
	return c.hub.calls.local(ctx, c, call{op: opJoin, groups: groups})
}

// Leave ends the membership in the groups.
func (c *Conn) Leave(ctx context.Context, groups ...string) error {
	return c.hub.calls.local(ctx, c, call{op: opLeave, groups: groups})
}

// Close begins to close the connection: what is queued is written, then a
// close frame, and the client has CloseTimeout to answer. It does not wait.
// Until OnConnect has returned nil, what is queued is dropped instead.
// The first close wins; later ones do nothing. The code and the reason are those
// that [Hub.Disconnect] takes; for others the error wraps ErrInvalid.
func (c *Conn) Close(code StatusCode, reason string) error {
	if err := code.check(reason); err != nil {
		return err
	}
	c.shut(&CloseError{Code: code, Reason: reason})
	return nil
}

// SetExpiry sets the time at which the connection is closed with StatusExpired, within
// about a second. The zero time means never.
func (c *Conn) SetExpiry(t time.Time) {
	switch {
	case t.IsZero():
		c.expires.Store(0)
	case t.Unix() >= math.MaxInt64/int64(time.Second): // beyond what nanoseconds can tell
		c.expires.Store(math.MaxInt64)
	case t.Unix() <= 0:
		c.expires.Store(1)
	default:
		c.expires.Store(t.UnixNano())
	}
}

// A connState is how far a Conn has come. It never goes back.
//
//	 born ──upgrade──▶ held ──accept──▶ open
//	   │                 │                │
//	  shut              shut             shut
//	   ▼                 ▼                │
//	barred ─upgrade─▶ closing ◀───────────┘
//	                     │
//	                     ├── the client broke the protocol ──▶ half
//	                     │                                      │
//	                     └── the client has closed ─────────────┴─▶ hangup
//
// kill takes a Conn from any of these states to dead: after an error of the
// socket, CloseTimeout after the close began, from hangup once all is written, and
// from half once the client has closed its side.
type connState uint8

const (
	connBorn    connState = iota // it has no socket yet; what is queued waits
	connHeld                     // what is queued waits for OnConnect
	connOpen                     // OnConnect has returned nil
	connBarred                   // it is to be closed as soon as it has a socket
	connClosing                  // what is queued is written, and the close frame last
	connHalf                     // and then the sending side is closed
	connHangup                   // and then the socket is closed
	connDead                     // the socket is closed, if there was one
)

// closing reports whether the queue takes nothing more.
func (s connState) closing() bool { return s > connOpen }

// writing reports whether what is queued may be written.
func (s connState) writing() bool { return s == connOpen || s >= connClosing && s < connDead }

func (c *Conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.closing()
}

// attach notes that the Conn has its socket.
func (c *Conn) attach() {
	c.hub.wg.Add(1) // done by kill
	c.mu.Lock()
	if c.state == connBorn {
		c.state = connHeld
	} else { // barred: its queue was full before it was born, or it was evicted
		c.beginClose()
	}
	start := c.claim()
	c.mu.Unlock()
	c.start(start)
}

// accept notes that OnConnect has returned nil, and lets the Conn's messages flow. A Conn
// that is closing by now is accepted, too, because OnDisconnect is due.
func (c *Conn) accept() {
	c.mu.Lock()
	c.accepted = true
	if c.state == connHeld {
		c.state = connOpen
	}
	start := c.claim()
	c.mu.Unlock()
	c.start(start)
}

// shut begins to close the connection; see Close. It drops what is queued if the Conn is
// not open, or is closed because it is too slow. It returns false if the Conn is closing
// already.
func (c *Conn) shut(cause *CloseError) bool {
	c.mu.Lock()
	if c.state.closing() {
		c.mu.Unlock()
		return false
	}
	c.cause = cause
	c.unlisted = make(chan presenceResult, 1)
	c.socket.left.Store(c.mayStillSend())
	q := &c.queue
	dropped := 0
	if c.state != connOpen || cause.err == ErrTooSlow {
		dropped = q.clear()
	}
	change := q.settle()
	q.closeFrame = closeFrame(cause.Code, cause.Reason)
	if c.state == connBorn {
		c.state = connBarred
	} else {
		c.beginClose()
	}
	start := c.claim()
	c.mu.Unlock()
	c.hub.stats.droppedClosed.Add(uint64(dropped))
	c.hub.budget.change(change)
	c.start(start)
	c.depart()
	return true
}

// beginClose begins the close of a Conn that has a socket, and bounds it. The
// caller holds c.mu.
func (c *Conn) beginClose() {
	c.state = connClosing
	c.timer = time.AfterFunc(c.hub.config.CloseTimeout, func() { c.kill(nil) })
	c.hub.closing.add(c)
}

// tooSlow closes a Conn because of what waits in its queue, and adds to count, unless the
// Conn is closing already.
func (c *Conn) tooSlow(count *atomic.Uint64) {
	if c.shut(&CloseError{Code: StatusTooSlow, Reason: "too slow", err: ErrTooSlow}) {
		count.Add(1)
	}
}

// advance takes a Conn that is closing to half or hangup, unless it is further, and
// reports whether it is closing.
func (c *Conn) advance(to connState) bool {
	c.mu.Lock()
	closing := c.state.closing()
	if c.state >= connClosing {
		c.state = max(c.state, to)
	}
	c.mu.Unlock()
	c.finish()
	return closing
}

// finish closes the sending side of a Conn that is half closed, and kills one that is to
// hang up, if all is written.
func (c *Conn) finish() {
	c.mu.Lock()
	state := c.state
	done := c.queue.owner == ownerNone && !c.queue.hasWork()
	c.mu.Unlock()
	switch {
	case !done:
	case state == connHalf:
		if conn, ok := c.socket.conn.(interface{ CloseWrite() error }); ok {
			conn.CloseWrite()
		}
	case state == connHangup:
		c.kill(nil)
	}
}

// kill ends the Conn at once, and closes its socket. The first cause of its end counts.
// Only its handshake kills a Conn that has no socket.
func (c *Conn) kill(cause error) {
	c.mu.Lock()
	state := c.state
	if state == connDead {
		c.mu.Unlock()
		return
	}
	c.state = connDead
	if !state.closing() {
		c.unlisted = make(chan presenceResult, 1)
	}
	if c.cause == nil {
		c.cause = cause
	}
	q := &c.queue
	abort := q.owner != ownerNone || q.hasWork()
	dropped := q.empty()
	change := q.settle()
	timer, killed := c.timer, c.killed
	c.hub.closing.remove(c)
	c.mu.Unlock()

	c.hub.stats.droppedClosed.Add(uint64(dropped))
	c.hub.budget.change(change)
	if timer != nil {
		timer.Stop()
	}
	if state != connBorn && state != connBarred {
		if tcp, ok := c.socket.conn.(*net.TCPConn); ok && abort {
			tcp.SetLinger(0) // or the kernel would keep what the client does not take
		}
		c.socket.conn.Close()
		c.wake()
		c.hub.wg.Done() // attach has added it
	}
	if killed != nil {
		close(killed)
	}
	c.depart()
}

// depart takes the Conn out of everything by which others find it. It does not wait, and
// may be called twice.
func (c *Conn) depart() {
	c.mu.Lock()
	cause, registered, unlisted := c.cause, c.registered, c.unlisted
	c.mu.Unlock()
	c.cancel(cause)
	if c.queue.log != nil {
		c.queue.log.end()
	}
	if cancel := c.handshake.Load(); cancel != nil {
		(*cancel)(cause)
	}
	topics := c.hub.index.remove(c)
	if len(topics) == 0 {
		return
	}
	c.hub.follower.Unfollow(topics...)
	if registered {
		c.hub.presence.remove(c.entry(topics), unlisted)
	}
}
