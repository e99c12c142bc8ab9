package herald

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heraldgo/herald/internal/clock"
	"github.com/heraldgo/herald/internal/histogram"
	"github.com/heraldgo/herald/internal/history/device"
)

// Stats is a snapshot of a Hub's counters, since New, of this node.
type Stats struct {
	// Now.

	Conns  int // connections
	Users  int // different users
	Topics int // topics that have connections
	Queued int // messages waiting to be written

	Handshakes  int   // under way
	Refused     int   // sockets that were upgraded only to be refused, and are open (RejectAfterUpgrade); at most 1,000
	QueuedBytes int64 // what Queued takes; a message that waits in several queues counts in each

	LongestQueue int           // messages in the longest queue
	LongestWrite time.Duration // how long the oldest write that waits for its client has waited
	OldestQueued time.Duration // about how long the oldest waiting message has waited; see ConnStats.Oldest

	OpenGaps          int           // gaps that are not over: one for all topics, or one for each topic concerned
	OpenGapFor        time.Duration // since the first of them began
	BusRoundTrip      time.Duration // of the heartbeat that came back last; 0 if none has
	ProofAge          time.Duration // since that heartbeat was sent, which proved that the Bus works; 0 if none has
	RegistryRoundTrip time.Duration // of the last call of the Registry
	LeaseAge          time.Duration // since the lease was renewed; at Config.Lease it has run out

	// Connections.

	Accepted     uint64 // connections that OnConnect let in
	Rejected     uint64 // requests and connections refused
	BadRequests  uint64 // among those: no handshake
	Forbidden    uint64 // among those: from a page that may not connect (OriginPatterns)
	Unauthorized uint64 // among those: Authenticate returned an error, nobody, or an Identity that has expired
	NotReady     uint64 // among those: the node was not fit, shut down, or could not do in time what the connection needed
	Denied       uint64 // among those: Admit or OnConnect returned an error
	AddrLimited  uint64 // among those: over HandshakeRatePerAddr, or one address had half of MaxHandshakes
	UserLimited  uint64 // among those: over HandshakeRatePerUser or MaxConnsPerUser
	Crowded      uint64 // among those: over HandshakeRate, MaxHandshakes or MaxConns
	Disconnected uint64 // connections that have gone
	TooSlow      uint64 // closed because their queue was full, or one of the fullest, or a write took too long
	Silent       uint64 // closed because nothing came from the peer
	Overran      uint64 // not read any more because they went on sending while they were closed
	Panics       uint64 // in callbacks
	LogsLeftOut  uint64 // lines that Logger did not get, because there were more than ten of one kind in a second

	BadIdentities uint64 // among Rejected: what Authenticate returned had a group that is empty or too long, or was above MaxIdentitySize or MaxGroups
	OverBudget    uint64 // among TooSlow: closed because all queues together were above MaxQueuedBytes
	TooFast       uint64 // closed because the client sent more than MessageRate or ByteRate
	RefusedJoins  uint64 // connections that joined none of the groups of a call, because they would have had more than MaxGroups

	Closed         map[StatusCode]uint64 // among Disconnected: closed by this side, by code
	ClosedByClient uint64                // among Disconnected: closed by the client
	Lost           uint64                // among Disconnected: ended without a close frame

	// Callbacks, by the names of Config's fields.

	Callbacks map[string]CallbackStats

	// Messages.

	Sent             uint64 // calls of Send and Deliver on this node that the Bus took
	SendErrors       uint64 // those that returned an error of the Bus
	Received         uint64 // packets from the Bus for a topic of this node
	Foreign          uint64 // packets for topics that this node does not follow, from a Bus that hands over everything
	Lingering        uint64 // packets from the Bus for topics that this node follows although nobody here belongs to them any more (Linger), or yet
	Gone             uint64 // connections of this node that a message was sent to by their id (Connection), and that had gone
	Malformed        uint64 // packets that could not be understood; each makes a Gap
	CallsRefused     uint64 // calls of Join, Leave and Disconnect, mostly other nodes', that were too large for this node, or came when too many waited
	Delivered        uint64 // messages put into a Conn's queue
	Written          uint64 // messages that the kernel has taken whole; a client whose network has gone never gets the last of them
	Dropped          uint64 // messages that a Conn's queue gave up, or had no room for
	DroppedFull      uint64 // among those: the queue was full
	DroppedBudget    uint64 // among those: all queues together were above MaxQueuedBytes
	DroppedClosed    uint64 // among those: in the queue of a connection that closed, or sent to it afterwards
	DroppedVolatile  uint64 // volatile messages dropped for a busy client
	Conflated        uint64 // messages, none of them in Dropped, that gave up their place in a queue to a newer one of their key (Message.Conflate)
	MessagesReceived uint64 // messages from clients
	BytesReceived    uint64 // bytes read from clients' connections, without their handshakes
	BytesWritten     uint64 // bytes that the kernel has taken for clients, without their handshakes

	// How long messages took from Send until the kernel had taken them for a client.
	// After each heartbeat the Hub measures one message, for one connection: the round
	// trip of the heartbeat, plus the time that the message spent on this node.
	Lag Histogram

	// Of the calls of Deliver on this node that returned no error.

	DeliveriesReceived uint64 // sessions that have received the message
	DeliveriesMissed   uint64 // sessions that have not

	// Resumes, with a Retention.

	Resumes       uint64 // connections of clients that came back to where they were
	ResumesWhole  uint64 // those of them that got all that they had missed
	ResumesInPart uint64 // those of them that were told that something may be missing

	// The Registry.

	RegistryCalls  Histogram // its methods' calls that have returned
	RegistryErrors uint64    // those of them that returned an error

	Mended     uint64 // sessions that the Registry had lost, in whole or in part, and that were put back
	Unreadable uint64 // times that a RedisRegistry, which Hubs may share, met a key or a value under its prefix that is none of herald's

	// The Bus.

	BusRoundTrips Histogram // of the heartbeats that came back

	Gaps      uint64        // gaps reported
	GapFor    time.Duration // their total time
	Resets    uint64        // times the Hub found the Bus deaf
	Strangers uint64        // heartbeats of nodes that the Registry does not list, left out because there were too many of these
}

// CallbackStats are what the calls of one callback took.
type CallbackStats struct {
	Calls   Histogram     // that have returned
	Running int           // calls that have not returned
	Longest time.Duration // how long the oldest of those has run
}

// A Histogram says how many calls, heartbeats or messages took how long. Its bounds
// are those of Prometheus' native histograms in schema 2.
type Histogram struct {
	Count   uint64
	Sum     time.Duration
	Buckets []uint64 // how many took at most Bound(i), and longer than Bound(i-1)
}

// Bound returns the longest time of a bucket, 2^(i/4-17) seconds. The last bucket has
// none.
func (h Histogram) Bound(i int) time.Duration { return histogram.Bound(i) }

func newHistogram(c *histogram.Counts) Histogram {
	h := Histogram{Sum: c.Sum, Buckets: c.Buckets[:]}
	for _, n := range h.Buckets {
		h.Count += n
	}
	return h
}

// ConnStats is a snapshot of one connection.
type ConnStats struct {
	Queued      int           // messages waiting to be written, with those under way
	QueuedBytes int           // their bytes, with those under way
	WritingFor  time.Duration // how long the write under way has waited for the client; 0 if none waits
	Dropped     int           // messages that its queue gave up or had no room for, while it was open
	Unconfirmed int           // messages of Deliver, and probes, whose receipt has not come
	Oldest      time.Duration // about how long the oldest of them has waited: the queue measures only one message at a time
	LastWrite   time.Time     // when the kernel last took something; zero if it never has
	LastRead    time.Time     // when something last came from the client, or herald last began to wait for it, after OnConnect or OnMessage; zero until then
}

// since returns how long ago a moment on clock was, or 0 if the moment is 0.
func since(at int64) time.Duration {
	if at == 0 {
		return 0
	}
	return time.Duration(clock.Now() - at)
}

// wallTime converts a moment on clock to a time; 0 gives the zero time.
func wallTime(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.Now().Add(-since(at))
}

// counters are what Stats is made from. The cause of a refusal is counted before the
// refusal, and read after it: so those without a cause are never too many.
type counters struct {
	accepted, rejected, disconnected, tooSlow, silent, panics atomic.Uint64
	logsLeftOut                                               atomic.Uint64
	badRequests, addrLimited, userLimited, crowded, overran   atomic.Uint64

	badIdentities, refusedJoins, overBudget, tooFast atomic.Uint64
	forbidden, unauthorized, notReady, denied        atomic.Uint64
	closedByClient, lost                             atomic.Uint64

	sent, sendErrors, received, malformed atomic.Uint64
	foreign, lingering, gone              atomic.Uint64
	delivered, messagesReceived           atomic.Uint64

	droppedFull, droppedBudget, droppedClosed, droppedVolatile atomic.Uint64
	conflated                                                  atomic.Uint64
	written                                                    atomic.Uint64 // by drains; the writers count theirs
	bytesReceived, bytesWritten                                atomic.Uint64 // bytesWritten by drains, too

	gaps, resets, mended    atomic.Uint64
	callsRefused, strangers atomic.Uint64
	gapFor                  atomic.Int64

	resumes, resumesWhole, resumesInPart atomic.Uint64
	deliveriesReceived, deliveriesMissed atomic.Uint64

	registryErrors    atomic.Uint64
	registryRoundTrip atomic.Int64

	registryCalls, busRoundTrips, lag histogram.Histogram

	mu     sync.Mutex
	closed map[StatusCode]uint64
}

// ended counts how a Conn that was let in has ended, and then that it has.
func (s *counters) ended(cause error) {
	var closed *CloseError
	switch {
	case !errors.As(cause, &closed):
		s.lost.Add(1)
	case closed.client:
		s.closedByClient.Add(1)
	default:
		s.countClosed(closed.Code)
	}
	s.disconnected.Add(1)
}

// verdicts are those of the partitions that have ended a resume.
type verdicts struct {
	n      int
	inPart bool // one said that something may be missing
}

// countResume counts the beginning of a resume, and its end: the last partition's
// verdict.
func (s *counters) countResume(f *device.Frame, v *verdicts, partitions int) {
	if f.Kind == device.Welcome && f.Resumed {
		s.resumes.Add(1)
	}
	if f.Verdict == device.NoVerdict {
		return
	}
	v.n++
	v.inPart = v.inPart || f.Verdict == device.Incomplete
	switch {
	case v.n < partitions:
	case v.inPart:
		s.resumesInPart.Add(1)
	default:
		s.resumesWhole.Add(1)
	}
}

func (s *counters) countClosed(code StatusCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed == nil {
		s.closed = make(map[StatusCode]uint64)
	}
	s.closed[code]++
}

func (s *counters) closedByCode() map[StatusCode]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.closed)
}
