package herald

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald/internal/wsframe"
)

// A Conn is one socket of one device of a user. Its methods may be called at
// any time, by any goroutine, from callbacks too.
type Conn struct {
	hub      *Hub
	counter  uint64
	identity Identity
	remote   string
	since    atomic.Int64 // Unix microseconds, the Registry's; 0 before its answer
	ctx      context.Context
	cancel   context.CancelCauseFunc

	handshake atomic.Pointer[context.CancelFunc] // ends what the handshake waits for; nil after it

	// The connection, from the upgrade on.

	ws     *websocket.Conn
	socket socket

	memberships memberships // guarded by index.mu

	mu         sync.Mutex
	queue      queue
	registered bool // the Registry has been asked to add it
	accepted   bool // OnConnect has returned nil
	cause      error

	// Limits.

	expires atomic.Int64 // Unix nanoseconds; 0 is never
	reading atomic.Int64 // on clock: since when a message has been coming in; 0 is none
	pinged  atomic.Int64 // on clock: when it was pinged, since bytes last came; 0 is not
	rate    rate         // of the reader alone
	flow    rate         // of bytes, of the reader alone
}

// ID returns the id of the connection, <node>.<counter>, which no other
// connection ever has.
func (c *Conn) ID() string { return c.hub.id + "." + strconv.FormatUint(c.counter, 10) }

// cutID cuts a connection's id into its node and its counter. It returns "" if
// it is none.
func cutID(id string) (node string, counter uint64) {
	i := strings.LastIndexByte(id, '.')
	if i <= 0 || i > maxNodeID {
		return "", 0
	}
	counter, err := strconv.ParseUint(id[i+1:], 10, 64)
	if err != nil {
		return "", 0
	}
	return id[:i], counter
}

// User returns the user that Authenticate named.
func (c *Conn) User() string { return c.identity.User }

// Identity returns what Authenticate said. Its Groups and Expires are as they
// were then, each group once, sorted; its slice and map are the caller's.
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

// Context returns a context with the values of ConnContext, that is done when
// the connection ends or begins to be closed. Its cause is OnDisconnect's.
func (c *Conn) Context() context.Context { return c.ctx }

// Done is closed when the connection ends or begins to be closed.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Groups returns the groups that the connection belongs to, in no order. It
// is empty once the connection ends.
func (c *Conn) Groups() []string { return c.hub.index.groupsOf(c) }

// Subprotocol returns the subprotocol that was agreed on, or "".
func (c *Conn) Subprotocol() string { return c.ws.Subprotocol() }

// Send queues a message for this socket alone. It never blocks. The error is
// ErrClosed, ErrTooSlow where the queue is full, and the connection is
// closed for it, or of ErrInvalid.
func (c *Conn) Send(m Message) error {
	if err := m.check(c.hub.config.MaxSendSize); err != nil {
		return err
	}
	return c.enqueue(m.frame(), m.volatile)
}

// Join makes the connection a member of the groups, on which all nodes agree
// when it returns. It may be called from OnConnect and OnMessage. Once the
// connection has begun to close the error is ErrClosed. If it would have more than
// MaxGroups the error is ErrLimit, and it has joined none of them.
func (c *Conn) Join(ctx context.Context, groups ...string) error {
	return c.hub.callLocal(ctx, c, call{op: opJoin, groups: groups})
}

// Leave ends the membership in the groups.
func (c *Conn) Leave(ctx context.Context, groups ...string) error {
	return c.hub.callLocal(ctx, c, call{op: opLeave, groups: groups})
}

// Close begins to close the connection: what is queued is written, then a
// close frame, and the client has CloseTimeout to answer. It does not wait.
// Until OnConnect has returned nil, what is queued is dropped instead.
// The first close wins; later ones do nothing. The error is of ErrInvalid.
func (c *Conn) Close(code StatusCode, reason string) error {
	if err := code.check(reason); err != nil {
		return err
	}
	c.shut(&CloseError{Code: code, Reason: reason}, false)
	return nil
}

// SetExpiry moves the time at which the connection is closed with
// StatusExpired, within about a second; the zero time is never.
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

// shut begins to close the connection from our side; see Close. With drop,
// what is queued is dropped. It answers false where the Conn is closing.
func (c *Conn) shut(cause *CloseError, drop bool) bool {
	return c.beginClose(closeFrame(cause.Code, cause.Reason), cause, drop)
}

func (c *Conn) beginClose(frame []byte, cause error, drop bool) bool {
	c.mu.Lock()
	q := &c.queue
	if q.closing {
		c.mu.Unlock()
		return false
	}
	q.closing = true
	c.socket.left.Store(c.mayStillSend())
	q.corked = false
	q.closeFrame = frame
	c.cause = cause
	dropped := 0
	if drop || !c.accepted {
		dropped = q.clear()
	}
	change := q.settle()
	attached := q.attached
	if attached {
		c.startCloseTimer()
	}
	start := c.claim()
	c.mu.Unlock()
	if attached {
		c.hub.closes(c)
	}
	c.hub.stats.dropped.Add(uint64(dropped))
	c.hub.budget.change(change)
	c.start(start)
	c.depart()
	return true
}

// startCloseTimer bounds the close of a Conn that has a socket. The caller
// holds c.mu.
func (c *Conn) startCloseTimer() {
	c.queue.timer = time.AfterFunc(c.hub.config.CloseTimeout, func() { c.kill(nil) })
}

// tooSlow closes a Conn whose queue is full.
func (c *Conn) tooSlow() {
	c.hub.stats.dropped.Add(1)
	if c.shut(&CloseError{Code: StatusTooSlow, Reason: "too slow", err: ErrTooSlow}, true) {
		c.hub.stats.tooSlow.Add(1)
	}
}

// pong queues the library's answer to a ping.
func (c *Conn) pong(frame []byte) {
	c.mu.Lock()
	if !c.queue.closing {
		c.queue.pong = append(c.queue.pong[:0], frame...)
	}
	start := c.claim()
	c.mu.Unlock()
	c.start(start)
}

// ping queues a ping.
func (c *Conn) ping() {
	c.mu.Lock()
	c.queue.ping = !c.queue.closing
	start := c.claim()
	c.mu.Unlock()
	c.start(start)
}

// libraryClose takes the library's close frame: the echo of the client's, or
// its answer to a breach of the protocol.
func (c *Conn) libraryClose(payload []byte) {
	cause := parseClose(payload)
	frame := append([]byte{wsframe.Close, byte(len(payload))}, payload...)
	if !utf8.ValidString(cause.Reason) { // RFC 6455 section 8.1; the library does not look
		cause = &CloseError{Code: StatusInvalidPayload, Reason: "close reason is not UTF-8"}
		frame = closeFrame(cause.Code, cause.Reason)
	}
	// The library's reasons tell more than a client need know.
	switch cause.Code {
	case StatusProtocolError:
		cause.Reason = "protocol error"
		frame = closeFrame(cause.Code, cause.Reason)
	case StatusMessageTooBig:
		cause.Reason = fmt.Sprintf("message of more than %d bytes", c.hub.config.MaxMessageSize)
		frame = closeFrame(cause.Code, cause.Reason)
	}
	c.beginClose(frame, cause, false)
}

// hangup closes the connection as soon as all is written. Where no close has
// begun, the library hangs up because a control frame has not come in whole
// within the five seconds that it gives it: then the client is told.
func (c *Conn) hangup() {
	c.mu.Lock()
	closing := c.queue.closing
	c.queue.hangup = closing
	end := c.ending()
	c.mu.Unlock()
	if !closing {
		c.shut(&CloseError{Code: StatusPolicyViolation, Reason: "message took too long"}, false)
		return
	}
	c.end(end)
}

type ending uint8

const (
	endNot  ending = iota
	endHalf        // close the sending side
	endAll         // close the connection
)

// ending says what is to be done now that the Conn may have nothing more to
// write. The caller calls end with it, after unlocking.
func (c *Conn) ending() ending {
	q := &c.queue
	switch {
	case !q.attached || q.owner != ownerNone || q.hasWork() || q.dead:
		return endNot
	case q.hangup:
		return endAll
	case q.halfClose && q.closeSent:
		return endHalf
	}
	return endNot
}

func (c *Conn) end(e ending) {
	switch e {
	case endHalf:
		if conn, ok := c.socket.conn.(interface{ CloseWrite() error }); ok {
			conn.CloseWrite()
		}
	case endAll:
		c.kill(nil)
	}
}

// closes and closed keep the set of the sockets that are being closed.
func (h *Hub) closes(c *Conn) {
	h.mu.Lock()
	h.closing[c] = struct{}{}
	h.mu.Unlock()
	c.mu.Lock()
	dead := c.queue.dead
	c.mu.Unlock()
	if dead { // by now, and it may have been closed before it was put in
		h.closed(c)
	}
}

func (h *Hub) closed(c *Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.closing, c)
}

// kill closes the socket at once. cause counts where there was none before.
func (c *Conn) kill(cause error) {
	c.mu.Lock()
	q := &c.queue
	if q.dead {
		c.mu.Unlock()
		return
	}
	q.dead = true
	q.closing = true
	if c.cause == nil {
		c.cause = cause
	}
	abort := q.owner != ownerNone || q.hasWork()
	dropped := q.size()
	q.forget()
	q.bytes, q.out, q.outBytes, q.rest, q.pong = 0, 0, 0, nil, nil
	change := q.settle()
	attached, timer, killed := q.attached, q.timer, q.killed
	c.mu.Unlock()

	c.hub.stats.dropped.Add(uint64(dropped))
	c.hub.budget.change(change)
	if timer != nil {
		timer.Stop()
	}
	if attached {
		c.hub.closed(c)
		if tcp, ok := c.socket.conn.(*net.TCPConn); ok && abort {
			tcp.SetLinger(0) // or the kernel would keep what the client does not take
		}
		c.socket.conn.Close()
		c.hub.wg.Done() // of attach
	}
	if killed != nil {
		close(killed)
	}
	c.depart()
}

// awaitKill waits until a Conn that is closing is dead.
func (c *Conn) awaitKill() {
	killed := make(chan struct{})
	c.mu.Lock()
	dead := c.queue.dead
	c.queue.killed = killed
	c.mu.Unlock()
	if !dead {
		<-killed
	}
}

// depart takes the Conn out of everything that others find it by. It does
// not wait, and may be called twice.
func (c *Conn) depart() {
	c.mu.Lock()
	cause := c.cause
	c.mu.Unlock()
	c.cancel(cause)
	if cancel := c.handshake.Load(); cancel != nil {
		(*cancel)()
	}
	topics := c.hub.index.remove(c)
	if len(topics) == 0 {
		return
	}
	c.hub.follower.Unfollow(topics...)
	c.mu.Lock()
	registered := c.registered
	c.mu.Unlock()
	if registered {
		c.hub.presence.remove(c.entry(topics), nil)
	}
}

// entry returns what the Registry knows, or shall know, of the Conn under
// those of its topics.
func (c *Conn) entry(topics []string) Entry {
	e := Entry{Session: c.Session()}
	for _, t := range topics {
		switch {
		case isUserTopic(t):
			e.UserTopic = t
		case isGroupTopic(t):
			e.Topics = append(e.Topics, t)
		}
	}
	return e
}

// inCallback is the lastRead of a Conn whose OnMessage runs: nobody reads
// then, so the time does not count against the client.
const inCallback = math.MaxInt64
