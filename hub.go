package herald

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/heraldgo/herald/internal/callbacks"
	"github.com/heraldgo/herald/internal/deadline"
	"github.com/heraldgo/herald/internal/follow"
	"github.com/heraldgo/herald/internal/loglimit"
	"github.com/heraldgo/herald/internal/netpoll"
	"github.com/heraldgo/herald/internal/watching"
)

// A Hub is what a service uses of herald: an http.Handler that takes WebSocket
// connections, with methods to reach the connections of every node. Make it
// with New, end it with Shutdown. Any goroutine may call its methods at any
// time. Callbacks may too, except for Shutdown.
type Hub struct {
	config    Config
	id        string
	nodeTopic string
	counter   atomic.Uint64 // numbers the Conns
	refused   atomic.Int64  // sockets that were upgraded only to be refused
	stats     counters

	// The rooms of DESIGN.md.

	door      *door
	bus       Bus
	registry  Registry
	index     *index
	follower  *follow.Follower
	presence  *presence
	calls     *calls
	receipts  *receiptsRoom
	inspector *inspector
	heartbeat *heartbeat
	gaps      *gaps
	keeping   *keeping // nil without Config.Retention
	watching  *watching.Room
	changes   *watching.Outbox
	writers   *writers
	poller    *netpoll.Poller[*Conn] // of the Conns that are parked
	copies    copies                 // used by the receiving goroutine alone
	budget    budget
	callbacks callbacks.Set

	sendEnds      *deadline.Source // for Sends
	handshakeEnds *deadline.Source // for handshakes

	closing connSet // the Conns whose sockets are being closed

	mu       sync.Mutex
	draining bool // Health is red
	ended    bool // no more handshakes are counted in

	// Its goroutines, and how it ends.

	handshakes   sync.WaitGroup     // in ServeHTTP
	wg           sync.WaitGroup     // the Conns' sockets, readers and drains
	background   sync.WaitGroup     // the goroutines that end first
	cancel       context.CancelFunc // ends background
	last         sync.WaitGroup     // the goroutines that end with the Bus
	cancelLast   context.CancelFunc // ends last
	drained      chan struct{}      // closed when Shutdown has begun to close all Conns
	cut          chan struct{}      // closed when Shutdown has cut the Conns that were left
	stopped      chan struct{}      // closed when no more calls are applied
	shutdownOnce sync.Once
	shutdownErr  error
	closers      []func() error // close what New has made
}

// New makes a Hub, connects it to the Bus and the Registry, and takes a
// lease. It blocks meanwhile, for SendTimeout at most and, while it connects to
// Redis, for the timeouts of Config.Redis. The error wraps ErrInvalid and names
// every fault of config, or says what could not be reached or was denied.
func New(config Config) (*Hub, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	if config.Bus != nil && !claimBus(config.Bus) {
		return nil, fmt.Errorf("%w: Config.Bus: another Hub has this %T: each Hub must have a Bus of its own", ErrInvalid, config.Bus)
	}
	h := &Hub{
		config:  config,
		id:      config.Name + "-" + strings.ToLower(rand.Text()[:12]),
		door:    newDoor(&config),
		index:   newIndex(),
		closing: connSet{set: make(map[*Conn]struct{})},
		drained: make(chan struct{}),
		cut:     make(chan struct{}),
		stopped: make(chan struct{}),
	}
	h.config.Logger = slog.New(loglimit.New(config.Logger.Handler(), &h.stats.logsLeftOut))
	h.nodeTopic = nodeTopic(h.id)
	h.poller = netpoll.New((*Conn).poll, h.logUnparked)
	h.sendEnds = deadline.New(config.SendTimeout, errSendTimeout)
	h.handshakeEnds = deadline.New(min(config.HandshakeTimeout, farFuture), errHandshakeTimeout)
	if err := h.connectParts(); err != nil {
		h.closeParts()
		return nil, once(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), config.SendTimeout)
	defer cancel()
	h.gaps = newGaps(h.index.nameOf, &h.stats, h.config.Logger, h.tellGap)
	subscriber := follow.Bus(h.bus)
	if config.Retention > 0 {
		if h.keeping, err = h.newKeeping(ctx); err != nil {
			h.closeParts()
			return nil, once(err)
		}
		subscriber = h.keeping
	}
	h.follower = follow.New(subscriber, config.Linger, config.SendTimeout)
	h.heartbeat = newHeartbeat(h.id, &h.config, h.bus, h.gaps, &h.stats)
	if h.keeping != nil {
		h.heartbeat.remix = h.keeping.driver.Renew
	}
	h.presence = newPresence(h.id, &h.config, h.registry, h.index, h.heartbeat, &h.stats, h.telling("OnOnline", h.config.OnOnline), h.last.Go)
	h.watching, h.changes = h.newWatching()
	h.presence.changed = h.putChanges
	h.calls = newCalls(h.id, &h.config, h.index, h.follower, h.presence, h.publish, h.stopped, &h.stats)
	h.receipts = newReceiptsRoom(h.id, &h.config, h.publish)
	h.inspector = newInspector(h)
	h.writers = newWriters(runtime.GOMAXPROCS(0))
	h.budget.init(config.MaxQueuedBytes)
	h.start()
	// A node that is listed must be reachable, so the lease comes last.
	err = h.follower.Follow(h.nodeTopic, topicHeartbeat).Wait(ctx)
	if err == nil && h.keeping != nil {
		err = h.keeping.ready(ctx)
	}
	if err == nil {
		err = h.presence.start(ctx)
	}
	if err != nil {
		h.abort()
		return nil, once(err)
	}
	return h, nil
}

// connectParts makes or takes the Bus and the Registry.
func (h *Hub) connectParts() error {
	c := &h.config
	h.bus, h.registry = c.Bus, c.Registry
	if c.Redis == nil && c.Bus == nil {
		h.bus, h.registry = NewMemoryNetwork().Bus(), NewMemoryRegistry()
		c.Logger.Info("herald: neither Redis nor a Bus is configured: this Hub is alone, in memory")
	}
	options := &RedisOptions{Prefix: c.Prefix, ProbeInterval: c.ProbeInterval, ProbeTimeout: c.ProbeTimeout}
	if h.registry == nil {
		r, err := NewRedisRegistry(c.Redis, options)
		if err != nil {
			return fmt.Errorf("Config.Redis: %w", err)
		}
		h.registry = r
		h.closers = append(h.closers, r.Close)
	}
	if r, ok := h.registry.(*RedisRegistry); ok {
		if policy := r.redis.Evicts(context.Background()); policy != "" {
			c.Logger.Warn("herald: this Redis may evict presence when its memory is full; set maxmemory-policy to noeviction, or give herald a Redis of its own", slog.String("policy", policy))
		}
	}
	if h.bus == nil {
		b, err := NewRedisBus(c.Redis, options)
		if err != nil {
			return fmt.Errorf("Config.Redis: %w", err)
		}
		h.bus = b
	}
	return nil
}

// start starts the Hub's own goroutines. Shutdown waits for them.
func (h *Hub) start() {
	ctx, cancel := context.WithCancel(context.Background())
	last, cancelLast := context.WithCancel(context.Background())
	h.cancel, h.cancelLast = cancel, cancelLast
	for _, f := range []func(context.Context){
		h.calls.run,
		h.heartbeat.run,
		h.watchBus,
		h.heartbeat.watch,
		(&housekeeping{p: h.presence}).run,
		func(ctx context.Context) { h.presence.collectOffline(ctx, h.telling("OnOffline", h.config.OnOffline)) },
		h.keepalive,
		h.watching.Run,
		h.watchQueues,
	} {
		h.background.Go(func() { f(ctx) })
	}
	for _, f := range []func(context.Context){h.follower.Run, h.receive, h.receipts.run, h.gaps.run, h.changes.Run} {
		h.last.Go(func() { f(last) })
	}
}

// ServeHTTP upgrades a WebSocket request and returns when the connection
// lives, or has been refused; see the package's documentation for the steps. It
// logs at Debug why a request was refused. Once a minute it logs at Warn that there
// were foreign origins, or handshakes whose Upgrade a proxy took away. The answer is
//
//   - 501 if there is no Authenticate;
//   - 426 to a request that is no WebSocket upgrade, 400, 405 or 431 to a bad one;
//   - 403 to another site's page;
//   - 503 with Retry-After while the Bus or the Registry is down, the Hub drains,
//     or a limit of the node is reached;
//   - 429 with Retry-After if a limit of the address or the user is reached.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.config.Authenticate == nil {
		http.Error(w, "this node takes no connections", http.StatusNotImplemented)
		return
	}
	addr, err := h.screen(w, r)
	if err == nil && !h.enter() {
		err = fmt.Errorf("%w: %w", ErrClosed, &HTTPError{http.StatusServiceUnavailable, "shutting down"})
	}
	if err != nil {
		h.countNotReady(err)
		h.logRefused(slog.LevelDebug, "", r.RemoteAddr, err)
		h.rejectPlain(w, answer(err))
		return
	}
	defer h.handshakes.Done()
	defer h.wg.Done()
	// This context ends with the handshake, whatever the host does with the request's.
	ends := h.handshakeEnds.Now()
	ctx, cancel := ends.Child(r.Context())
	defer cancel()
	var identity Identity
	if err = h.begin(addr); err == nil {
		defer h.door.end(addr)
		if err = h.fit(); err == nil {
			identity, err = h.identify(r.WithContext(ctx))
		}
	} else if err == tooManyOfAddr {
		h.suspectProxy(r)
	}
	if err == nil {
		err = h.ready(w) // Authenticate may have taken a while
	}
	if err == nil {
		err = h.connect(w, r, identity, ends)
	}
	if err != nil {
		h.countNotReady(err)
		h.logRefused(slog.LevelDebug, identity.User, r.RemoteAddr, err)
		h.reject(w, r, answer(err))
	}
}

var errHandshakeTimeout = fmt.Errorf("HandshakeTimeout: %w", context.DeadlineExceeded)

// NodeID returns the id of this Hub's node: Config.Name and a random part.
func (h *Hub) NodeID() string { return h.id }

// Send sends m to every connection of the target, on every node. It returns
// when the Bus has taken the message. ErrBusDown says that it was not sent.
// ErrUnknown says that it may have been; herald does not send it again. Send
// waits for SendTimeout at most, or until ctx is done. A target that has no
// connections is no error. The ids of Connection, Except, ExceptUser and On are
// at most 10,000 together, and 1 MiB; more are ErrInvalid.
func (h *Hub) Send(ctx context.Context, t Target, m Message) error {
	if err := t.check(); err != nil {
		return err
	}
	if err := m.check(h.config.MaxSendSize); err != nil {
		return err
	}
	if err := t.checkSend(); err != nil {
		return err
	}
	if t.nobody() {
		return nil
	}
	return h.follow(ctx, "Send", &t, &m, func(carried *carrier) error {
		o := outgoings.Get().(*outgoing)
		defer o.release()
		h.pack(o, &t, &envelope{kind: kindMessage, volatile: m.volatile, filter: t.filter(), message: m, carrier: carried})
		return h.sendPacked(ctx, o, &t, &m)
	})
}

// sendPacked sends what pack has made, within SendTimeout.
func (h *Hub) sendPacked(ctx context.Context, o *outgoing, t *Target, m *Message) error {
	ctx, release := h.sendEnds.Now().Bound(ctx)
	defer release()
	if err := h.send(ctx, m.kept() && t.kind != targetConnection, o.packets...); err != nil {
		h.stats.sendErrors.Add(1)
		return err
	}
	h.stats.sent.Add(1)
	return nil
}

// publish hands packets that are not to be kept to the Bus. Its errors are those of send.
func (h *Hub) publish(ctx context.Context, packets ...Packet) error {
	return h.send(ctx, false, packets...)
}

// send hands packets to the Bus, through its log if it has one. If our own timeout ends
// it, rather than the caller's ctx, the error wraps ErrBusDown or ErrUnknown.
func (h *Hub) send(ctx context.Context, kept bool, packets ...Packet) error {
	var err error
	if h.keeping != nil {
		err = h.keeping.publish(ctx, kept, packets...)
	} else {
		err = h.bus.Publish(ctx, packets...)
	}
	if err != nil && !errors.Is(err, ErrUnknown) && context.Cause(ctx) == errSendTimeout {
		err = fmt.Errorf("%w: %w", ErrBusDown, err)
	}
	return once(err)
}

// Join makes the connections that the target has now members of the groups.
// Connections that come later get their groups from Identity.Groups, or from
// Conn.Join in OnConnect.
//
// Join asks every node that the Registry lists, or that was heard lately, and
// returns when these have done it: a Send to the group after that reaches all the
// connections. It asks a node that was never heard as well, but waits for it only
// if the Registry lists a connection of the target with it.
//
// The error is a *PartialError if nodes do not answer within SendTimeout. It is
// ErrRegistryDown, and nobody was asked, if the Registry does not know this node
// itself. A connection that would have more than MaxGroups joins none of the
// groups; the error is then a *PartialError that wraps ErrLimit and names one such
// connection, and the others have joined. The target's ids and the groups are
// bounded as in Send. If more than 1,048,576 memberships of several groups would
// change on one node, it changes none, and the *PartialError names it.
func (h *Hub) Join(ctx context.Context, t Target, groups ...string) error {
	return h.regroup(ctx, t, opJoin, groups)
}

// Leave ends the membership of the target's connections in the groups. It
// returns as Join does.
func (h *Hub) Leave(ctx context.Context, t Target, groups ...string) error {
	return h.regroup(ctx, t, opLeave, groups)
}

func (h *Hub) regroup(ctx context.Context, t Target, op callOp, groups []string) error {
	if err := cmp.Or(t.check(), checkGroups(groups), t.checkNames(t.ids, groups)); err != nil {
		return err
	}
	if t.nobody() || len(groups) == 0 {
		return nil
	}
	return h.calls.ask(ctx, t, call{op: op, groups: groups})
}

// Disconnect closes the connections that the target has now, with a code and a
// reason, and spares those that come later. It returns when every node that
// Join would ask has said that they are out of the Registry. The clients then
// have CloseTimeout to answer the close frame. Its errors are those of Join. A
// callback may disconnect its own Conn, with the context that it got.
//
// The code is 3000 to 4999, 1000 to 1003, 1007 to 1009 or 1011 to 1014, and the
// reason at most 123 bytes of UTF-8 (RFC 6455 sections 5.5 and 7.4); else the
// error wraps ErrInvalid.
func (h *Hub) Disconnect(ctx context.Context, t Target, code StatusCode, reason string) error {
	if err := cmp.Or(t.check(), code.check(reason), t.checkNames(t.ids, nil)); err != nil {
		return err
	}
	if t.nobody() {
		return nil
	}
	return h.calls.ask(ctx, t, call{op: opDisconnect, code: code, reason: reason})
}

// Health returns nil if the node is fit to take connections and to send.
// Otherwise it returns every reason why it is not: errors.Is tells ErrBusDown,
// ErrRegistryDown and ErrDraining apart. It does no I/O.
func (h *Hub) Health() error {
	h.mu.Lock()
	draining := h.draining
	h.mu.Unlock()
	errs := make([]error, 0, 8) // on the stack, because each handshake asks
	if draining {
		errs = append(errs, ErrDraining)
	}
	errs = append(errs, h.gaps.failing(), blame(ErrBusDown, h.follower.Failing()), blame(ErrBusDown, h.heartbeat.failing()),
		blame(ErrBusDown, h.bus.Health()), blame(ErrBusDown, h.keeping.health()), blame(ErrRegistryDown, h.presence.health()), blame(ErrRegistryDown, h.presence.ailing()))
	return once(errors.Join(errs...))
}
