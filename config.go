package herald

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/origin"
	"github.com/heraldgo/herald/internal/redisconn"
	"github.com/heraldgo/herald/internal/redisregistry"
)

// Config configures a Hub. The zero value of a field means the default that
// its comment gives. A negative MaxConns, MaxConnsPerUser, HandshakeRate,
// MaxHandshakes, HandshakeRatePerAddr, HandshakeRatePerUser, MaxMessageSize,
// MessageRate, ByteRate, MaxQueuedBytes, MaxIdentitySize, MaxGroups,
// HandshakeTimeout, MessageTimeout, PingInterval or ProbeInterval switches that
// limit off. A negative Linger, OfflineDelay or ShutdownDelay means no delay. The
// other numbers must be above 0, the other durations at least a millisecond. Lease
// is from 100 ms to a day.
type Config struct {
	// Where messages and presence travel.

	// Redis gives the Bus and the Registry, if those are nil. It is a
	// *redis.Client of one server or of Sentinel, or a *redis.ClusterClient.
	// herald opens connections of its own with the client's options, and leaves
	// the client as it is. The caller closes the client. If Redis, Bus and
	// Registry are all nil the Hub is alone: it works in memory, as one node.
	Redis redis.UniversalClient

	// Prefix begins every key and channel in Redis, and ":{" follows it.
	// Services with different prefixes see nothing of each other. It may have
	// none of the characters {}*?[]\. Default "herald".
	Prefix string

	// Bus carries messages between nodes. It belongs to this Hub alone: another
	// Hub on it would take half of the messages away. The Hub closes it, also if
	// New fails to connect. If New refuses the Config, the Bus stays open.
	Bus Bus

	// Registry knows who is online. The caller closes it.
	Registry Registry

	// Retention is how long messages are kept, at least a second. 0 is off. A client
	// that speaks the protocol of PROTOCOL.md comes back to where it was and gets
	// what it missed. A node that has lost its Bus for a while brings what was sent
	// meanwhile, so there are fewer Gaps. Whoever belongs to a group may read what
	// was kept for it.
	//
	// Retention needs the Bus of Redis or that of memory, and has to be set on every
	// node. If nodes differ, the one that started last decides for all. Send waits
	// until the message is in the log. If the log refuses the message, for example
	// because Redis' memory is full, Send returns ErrBusDown with the reason.
	// Messages to a Connection, volatile ones and those that are Unkept are not kept.
	Retention time.Duration

	// RetentionBytes bounds the bytes of all messages that are kept. On a Redis
	// Cluster it bounds those of each of the sixteen partitions. The oldest messages
	// go first. Default: 64 MiB.
	RetentionBytes int

	// Name begins the node's id, which is new with each start. It has at most
	// 64 letters, digits, '-' and '_'. Default: the host's name.
	Name string

	// Who may connect.

	// Authenticate says who a request comes from, before the upgrade. If it
	// returns an error, the client gets 401, or the status of an [HTTPError] in
	// the error's chain, and never the error's text. An Identity without a User
	// is 401 too. An Identity that is above MaxIdentitySize or MaxGroups, or has
	// a group that is empty or longer than 1 KiB, is a mistake of the service:
	// the client gets 500, and it is logged. Without Authenticate the Hub takes
	// no connections and answers requests with 501, but it can send and ask.
	Authenticate func(r *http.Request) (Identity, error)

	// OriginPatterns are the pages that may connect, besides those of the
	// request's own host: "localhost:*", "*.example.com", "https://example.com",
	// and for apps "capacitor://localhost", "file://" or "null". Each is a pattern
	// of path.Match for the Origin's host with its port, or for scheme://host if
	// it has a scheme. An Origin without a port has its scheme's default port, as
	// the Host has (RFC 6454). "*" lets every site use your users' cookies, and so
	// does "null", which any site can send from a sandboxed frame. New refuses
	// what could never match. A page is of the request's own host if its Origin
	// has the name and port of that host and the scheme https. The scheme http is
	// allowed too if the request came without TLS. Pages of other hosts get 403,
	// even with RejectAfterUpgrade.
	OriginPatterns []string

	// Compression agrees on permessage-deflate (RFC 7692) with clients that offer it, as
	// browsers do. Messages of at least 512 bytes are then compressed, once on each node
	// for all clients that get them, if that makes them shorter. Clients may compress
	// what they send. MaxSendSize, MaxMessageSize and ByteRate count uncompressed bytes.
	// If a message has both a secret and text of an attacker, its length gives away the
	// secret.
	Compression bool

	// Subprotocols are those that the service speaks. The first of them that the
	// client offers, in whichever order, is agreed on (Conn.Subprotocol); if there
	// is none the connection has none. Identity.Subprotocol overrides it.
	Subprotocols []string

	// RejectAfterUpgrade accepts the upgrade of a request that is refused, and
	// then closes the connection with 4000 + the HTTP status (4401 for 401),
	// because a browser's script sees no HTTP status. The status stays plain if it
	// is 503, so that a proxy can try another node; if the request is no handshake,
	// comes from a page that may not connect, or is over HandshakeRatePerAddr; and
	// while 1,000 connections of earlier requests are still being closed.
	RejectAfterUpgrade bool

	// ConnContext returns the context that the Conn's callbacks get. It may have
	// values of the request, but must not keep r or r's context. Default:
	// context.Background().
	ConnContext func(r *http.Request) context.Context

	// Admit decides about a new connection. It gets the user's older ones, on all
	// nodes. See [AdmitFunc], MaxPerUser, OnePerPlatform, OnePerDevice and
	// AdmitAll. Without Admit herald does not read the older ones.
	Admit AdmitFunc

	// What happens. Callbacks of one Conn never run at the same time; those of
	// different Conns do. A panic in one is logged and counted, and closes its
	// Conn with 1011. A panic in Authenticate is answered with 500. A call that
	// takes longer than 30 s is logged once.

	// OnConnect runs before the Conn gets any message; messages sent meanwhile
	// wait until it returns. An error refuses the connection, as in Admit: with
	// 1008, or the code of a CloseError in its chain. If a store of yours is down,
	// return one with StatusTryAgainLater.
	OnConnect func(ctx context.Context, c *Conn) error

	// OnMessage gets the client's messages, one after the other. It may keep the
	// message. If it runs for longer than PingInterval, up to 64 KiB more are read
	// meanwhile, so that the client's pings are answered and its end is noticed
	// within PingInterval plus PongTimeout; but not if the client has sent more than
	// that, or PingInterval is off. The context is done when the connection ends.
	// Messages that came before the client ended it are still delivered.
	OnMessage func(ctx context.Context, c *Conn, m Message)

	// OnDisconnect runs once for each Conn whose OnConnect returned nil, when
	// Sessions and Online, on every node, no longer have the Conn. If the Registry
	// fails it runs all the same, after SendTimeout at most. Conn.Groups still
	// returns the groups that the Conn belonged to.
	// cause is a *CloseError if a close code was sent or received; otherwise it
	// is the error that ended the connection.
	OnDisconnect func(c *Conn, cause error)

	// OnGap runs at the end of a time in which the Bus may have lost messages. With
	// a Retention it runs only if the log cannot bring all that was sent meanwhile,
	// or cannot know what that was. There is one call at a time.
	OnGap func(g Gap)

	// OnOnline runs when a user's first connection comes, and OnOffline when the
	// last has been gone for OfflineDelay, each on one node of the cluster. The
	// handshake waits for OnOnline, which runs before Admit and OnConnect. So a
	// user whom they refuse is online until OfflineDelay is over. If a node
	// crashes, a call may be missed. If the Registry has lost its data, OnOnline
	// may run again for users who are online. If in doubt, ask Hub.Sessions.
	OnOnline, OnOffline func(user string)

	// Limits.

	MaxConns        int   // connections on this node, then 503. Default 100,000
	MaxConnsPerUser int   // connections of one user on this node, then 429; on all nodes: MaxPerUser. Default 100
	HandshakeRate   int   // handshakes a second on this node, then 503. Default 10,000
	MaxHandshakes   int   // handshakes under way on this node, half of them from one address, then 503. Default 1,000
	MaxMessageSize  int64 // bytes of a message from a client, then close 1009. Default 64 KiB
	MaxSendSize     int64 // bytes of a message to clients, then an error. Must be the same on all nodes: they refuse larger ones of each other. Default 1 MiB
	MessageRate     int   // messages, pings, pongs and fragments of fewer than 16 bytes a second from one client, then close 1008. Default 1,000
	ByteRate        int64 // bytes a second from one client, or one message of MaxMessageSize if that is more; then close 1008. Default 1 MiB

	// HandshakeRatePerAddr bounds how many requests, good and bad, one address
	// makes a second; more get 429. The addresses of an IPv6 /64 count as one.
	// HandshakeRatePerUser bounds how many handshakes one user makes on this node
	// a second; more get 429. Ten times as many may come at once after a pause.
	// Defaults 1,000 and 10.
	HandshakeRatePerAddr int
	HandshakeRatePerUser int

	// ClientAddr returns the address that HandshakeRatePerAddr and MaxHandshakes
	// count a request for, with or without a port. Behind a proxy it must be set,
	// or all clients count as one address. Return what the proxy says of the
	// client, such as the last element of X-Forwarded-For, and never what a client
	// can write itself. If it returns "" or is nil, RemoteAddr counts.
	ClientAddr func(r *http.Request) string

	// QueueMessages and QueueBytes bound what waits to be written to one
	// client. Defaults 4,096 and 4 MiB. QueueBytes must hold a message of
	// MaxSendSize.
	QueueMessages int
	QueueBytes    int

	// MaxQueuedBytes bounds what waits in all queues of this node. A message
	// that waits in many of them is in memory once, and counts once. Above the
	// bound the Conns with the fullest queues are closed with StatusTooSlow, until
	// an eighth of it is free. With DropOldest their queues lose the older half of
	// their messages instead, unless all that they have is being written. While
	// less than that eighth is free, volatile messages are dropped. The kernel's
	// buffers and queues of less than 4 KiB are not counted. Default 256 MiB.
	MaxQueuedBytes int64

	// MaxIdentitySize bounds the bytes of the User, Device, Platform and Meta
	// that Authenticate returns. The Registry keeps a copy of them for each group
	// of the connection. MaxGroups bounds the groups of one connection: an
	// Identity with more is refused, and a Join returns ErrLimit. Defaults 8 KiB
	// and 1,000.
	MaxIdentitySize int
	MaxGroups       int

	// DropOldest drops the oldest messages of a full queue. By default the Conn
	// is closed with StatusTooSlow instead. A client sees that code if it takes
	// what waits before it within CloseTimeout.
	DropOldest bool

	// Times.

	HandshakeTimeout time.Duration // from Authenticate to the end of OnConnect. Default 10 s
	MessageTimeout   time.Duration // for one message, ping, pong or close frame to arrive whole, then close 1008. Default 30 s
	WriteTimeout     time.Duration // for a client to take a piece of its queue. Default 10 s
	CloseTimeout     time.Duration // for a client to answer a close frame. Default 5 s
	PingInterval     time.Duration // a client that has been quiet for this long is pinged. Default 25 s
	PongTimeout      time.Duration // for a client to answer a ping, then the connection is closed. Default 10 s
	SendTimeout      time.Duration // for Send, Join, Leave, Disconnect, Online, Sessions, Count and Nodes. Default 5 s
	Linger           time.Duration // how long a node stays subscribed to a topic after its last Conn has left. Default 5 s
	Lease            time.Duration // a crashed node's sessions vanish within this time. Default 15 s
	OfflineDelay     time.Duration // a user who comes back within this time was never offline. Default 5 s
	ProbeInterval    time.Duration // between two probes of each link to Redis, and between two heartbeats; negative: neither. Default 1 s
	ProbeTimeout     time.Duration // for the answer to such a probe, and for a heartbeat to come back. Default 5 s
	DrainTime        time.Duration // for Shutdown, if its context has no deadline, after ShutdownDelay. Default 30 s

	// ShutdownDelay is how long Shutdown waits before it closes anything. Health
	// is red and handshakes get 503 meanwhile, so that load balancers notice. It is
	// at most half of the time that Shutdown's context gives. Default 0.
	ShutdownDelay time.Duration

	// Logger gets what no caller gets as an error. It never gets a message of a
	// client. At Debug it says why each connection was refused. If Admit or
	// OnConnect refused it with an error that has no CloseError in its chain, that
	// is logged at Warn. No client can fill the log: at most ten lines of one level
	// and text are written a second, and the next one has the attribute left_out,
	// the number of lines that were not. Values are cut after 1 KiB, stacks after
	// 16 KiB. Default slog.Default().
	Logger *slog.Logger

	// Tracer, if there is one, is told of each Send and Deliver, and of each delivery
	// of a message that it follows.
	Tracer Tracer
}

const off = redisconn.Off

// withDefaults returns a copy with its defaults set. The error has every fault of
// the Config.
func (c Config) withDefaults() (Config, error) {
	var faults []error
	fault := func(field string, value any, rule string) {
		faults = append(faults, fmt.Errorf("%w: Config.%s: %v %s", ErrInvalid, field, value, rule))
	}
	c.checkNames(fault)
	c.checkParts(fault)
	if c.Authenticate == nil && (c.Admit != nil || c.OnConnect != nil || c.OnMessage != nil || c.OnDisconnect != nil) {
		fault("Authenticate", "nil:", "must be set if Admit, OnConnect, OnMessage or OnDisconnect is: without it there are no connections")
	}
	c.MaxConns = cmp.Or(c.MaxConns, 100_000)
	c.MaxConnsPerUser = cmp.Or(c.MaxConnsPerUser, 100)
	c.HandshakeRate = cmp.Or(c.HandshakeRate, 10_000)
	c.MaxHandshakes = cmp.Or(c.MaxHandshakes, 1_000)
	c.HandshakeRatePerAddr = cmp.Or(c.HandshakeRatePerAddr, 1_000)
	c.HandshakeRatePerUser = cmp.Or(c.HandshakeRatePerUser, 10)
	c.MaxMessageSize = cmp.Or(c.MaxMessageSize, 64<<10)
	c.MaxSendSize = cmp.Or(c.MaxSendSize, 1<<20)
	c.MessageRate = cmp.Or(c.MessageRate, 1_000)
	c.ByteRate = cmp.Or(c.ByteRate, 1<<20)
	c.QueueMessages = cmp.Or(c.QueueMessages, 4_096)
	c.QueueBytes = cmp.Or(c.QueueBytes, 4<<20)
	c.MaxQueuedBytes = cmp.Or(c.MaxQueuedBytes, 256<<20)
	c.MaxIdentitySize = cmp.Or(c.MaxIdentitySize, 8<<10)
	c.MaxGroups = cmp.Or(c.MaxGroups, 1_000)
	c.RetentionBytes = cmp.Or(c.RetentionBytes, 64<<20)
	c.checkSizes(fault)
	c.defaultTimes(fault)
	if c.ConnContext == nil {
		c.ConnContext = func(*http.Request) context.Context { return context.Background() }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, errors.Join(faults...)
}

// checkNames checks the fields that are names or patterns, and sets their defaults.
func (c *Config) checkNames(fault func(field string, value any, rule string)) {
	c.Prefix = cmp.Or(c.Prefix, "herald")
	if !redisconn.ValidPrefix(c.Prefix) {
		fault("Prefix", fmt.Sprintf("%q", c.Prefix), "must contain none of "+redisconn.NotInPrefix)
	}
	if c.Name == "" {
		c.Name = hostName()
	} else if c.Name != safeName(c.Name) {
		fault("Name", fmt.Sprintf("%q", c.Name), "must be at most 64 letters, digits, '-' and '_'")
	}
	for _, p := range c.OriginPatterns {
		if _, err := origin.Parse(p); err != nil {
			fault("OriginPatterns", fmt.Sprintf("%q", p), err.Error())
		}
	}
	for _, p := range c.Subprotocols {
		if !validToken(p) {
			fault("Subprotocols", fmt.Sprintf("%q", p), "must be a token of RFC 9110, section 5.6.2: letters, digits and !#$%&'*+-.^_`|~")
		}
	}
}

// checkSizes checks the bounds of queues and of what is kept.
func (c *Config) checkSizes(fault func(field string, value any, rule string)) {
	if c.QueueMessages < 0 {
		fault("QueueMessages", c.QueueMessages, "must be above 0: a queue has a bound")
	}
	room := int64(frameRoom)
	if c.Retention > 0 {
		room += lineRoom
	}
	if c.QueueBytes < 0 || int64(c.QueueBytes) < c.MaxSendSize+room {
		fault("QueueBytes", c.QueueBytes, fmt.Sprintf("must hold a message of MaxSendSize (%d) and %d bytes around it", c.MaxSendSize, room))
	}
	if c.MaxQueuedBytes > 0 && c.MaxQueuedBytes < c.MaxSendSize+frame.MaxHeader {
		fault("MaxQueuedBytes", c.MaxQueuedBytes, fmt.Sprintf("must hold a message of MaxSendSize (%d) and its header of %d", c.MaxSendSize, frame.MaxHeader))
	}
	if c.Retention != 0 && c.Retention < time.Second {
		fault("Retention", c.Retention, "must be at least 1s, or 0 for off")
	}
	if int64(c.RetentionBytes) < c.MaxSendSize {
		fault("RetentionBytes", c.RetentionBytes, fmt.Sprintf("must hold a message of MaxSendSize (%d)", c.MaxSendSize))
	}
	if c.Compression && c.MaxMessageSize < 0 {
		fault("MaxMessageSize", c.MaxMessageSize, "must be above 0 with Compression: otherwise nothing bounds what a message is inflated to")
	}
	if c.MaxSendSize < 0 {
		fault("MaxSendSize", c.MaxSendSize, "must be above 0: it cannot be switched off, because QueueBytes must hold a message")
	}
}

// defaultTimes sets the durations, and reports those that break their rule.
func (c *Config) defaultTimes(fault func(field string, value any, rule string)) {
	for _, d := range []struct {
		field *time.Duration
		name  string
		value time.Duration
		least time.Duration // 0: a negative value switches it off
	}{
		{&c.HandshakeTimeout, "HandshakeTimeout", 10 * time.Second, 0},
		{&c.MessageTimeout, "MessageTimeout", 30 * time.Second, 0},
		{&c.WriteTimeout, "WriteTimeout", 10 * time.Second, time.Millisecond},
		{&c.CloseTimeout, "CloseTimeout", 5 * time.Second, time.Millisecond},
		{&c.PingInterval, "PingInterval", 25 * time.Second, 0},
		{&c.PongTimeout, "PongTimeout", 10 * time.Second, time.Millisecond},
		{&c.SendTimeout, "SendTimeout", 5 * time.Second, time.Millisecond},
		{&c.Linger, "Linger", 5 * time.Second, 0},
		{&c.Lease, "Lease", 15 * time.Second, 100 * time.Millisecond},
		{&c.OfflineDelay, "OfflineDelay", 5 * time.Second, 0},
		{&c.ProbeInterval, "ProbeInterval", time.Second, 0},
		{&c.ProbeTimeout, "ProbeTimeout", 5 * time.Second, time.Millisecond},
		{&c.DrainTime, "DrainTime", 30 * time.Second, time.Millisecond},
		{&c.ShutdownDelay, "ShutdownDelay", 0, 0},
	} {
		switch {
		case *d.field == 0:
			*d.field = d.value
		case d.least > 0 && *d.field < d.least:
			fault(d.name, *d.field, fmt.Sprintf("must be at least %v", d.least))
		case *d.field < 0:
			*d.field = off
		}
	}
	if c.ProbeInterval < time.Millisecond {
		fault("ProbeInterval", c.ProbeInterval, "must be at least 1ms, or negative for no proofs")
	}
	if c.Lease > redisregistry.MaxLease {
		fault("Lease", c.Lease, fmt.Sprintf("must be at most %v", redisregistry.MaxLease))
	}
	// To switch a delay off is to make it 0.
	for _, d := range []*time.Duration{&c.Linger, &c.OfflineDelay, &c.ShutdownDelay} {
		if *d == off {
			*d = 0
		}
	}
}

// timeout bounds a call by SendTimeout.
func (c *Config) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.SendTimeout, errSendTimeout)
}
