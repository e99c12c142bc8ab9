package herald

import (
	"sync/atomic"
	"time"
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

	// Connections.

	Accepted     uint64 // connections that OnConnect let in
	Rejected     uint64 // requests and connections refused
	BadRequests  uint64 // among those: no handshake, or from a page that may not connect
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

	// Messages.

	Sent             uint64 // calls of Send on this node that the Bus took
	SendErrors       uint64 // calls of Send that returned an error of the Bus
	Received         uint64 // packets from the Bus for a topic of this node
	Foreign          uint64 // packets for topics that this node does not follow, from a Bus that hands over everything
	Lingering        uint64 // packets from the Bus for topics that this node follows although nobody here belongs to them any more (Linger), or yet
	Gone             uint64 // connections of this node that a message was sent to by their id (Connection), and that had gone
	Malformed        uint64 // packets that could not be understood; each makes a Gap
	CallsRefused     uint64 // calls of Join, Leave and Disconnect, mostly other nodes', that were too large for this node, or came when too many waited
	Delivered        uint64 // messages put into a Conn's queue
	Written          uint64 // messages that the kernel has taken whole; a client whose network has gone never gets the last of them
	Dropped          uint64 // messages that a Conn's queue had no room for, or that were left in it at the close
	DroppedVolatile  uint64 // volatile messages dropped for a busy client
	MessagesReceived uint64 // messages from clients

	// The Registry.

	Mended     uint64 // sessions that the Registry had lost, in whole or in part, and that were put back
	Unreadable uint64 // times that a RedisRegistry, which Hubs may share, met a key or a value under its prefix that is none of herald's

	// The Bus.

	Gaps      uint64        // gaps reported
	GapFor    time.Duration // their total time
	Resets    uint64        // times the Hub found the Bus deaf
	Strangers uint64        // heartbeats of nodes that the Registry does not list, left out because there were too many of these
}

// counters are what Stats is made from.
type counters struct {
	accepted, rejected, disconnected, tooSlow, silent, panics atomic.Uint64
	logsLeftOut                                               atomic.Uint64
	badRequests, addrLimited, userLimited, crowded, overran   atomic.Uint64

	badIdentities, refusedJoins, overBudget, tooFast atomic.Uint64

	sent, sendErrors, received, malformed                 atomic.Uint64
	foreign, lingering, gone                              atomic.Uint64
	delivered, dropped, droppedVolatile, messagesReceived atomic.Uint64
	written                                               atomic.Uint64 // by drains; the writers count theirs

	gaps, resets, mended    atomic.Uint64
	callsRefused, strangers atomic.Uint64
	gapFor                  atomic.Int64
}

// Stats returns a snapshot of the Hub's counters. Each is right; together
// they are of slightly different moments.
func (h *Hub) Stats() Stats {
	c := &h.stats
	s := Stats{
		Accepted:         c.accepted.Load(),
		Rejected:         c.rejected.Load(),
		BadRequests:      c.badRequests.Load(),
		AddrLimited:      c.addrLimited.Load(),
		UserLimited:      c.userLimited.Load(),
		Crowded:          c.crowded.Load(),
		Disconnected:     c.disconnected.Load(),
		TooSlow:          c.tooSlow.Load(),
		Silent:           c.silent.Load(),
		Overran:          c.overran.Load(),
		Panics:           c.panics.Load(),
		LogsLeftOut:      c.logsLeftOut.Load(),
		BadIdentities:    c.badIdentities.Load(),
		OverBudget:       c.overBudget.Load(),
		TooFast:          c.tooFast.Load(),
		RefusedJoins:     c.refusedJoins.Load(),
		Sent:             c.sent.Load(),
		SendErrors:       c.sendErrors.Load(),
		Received:         c.received.Load(),
		Foreign:          c.foreign.Load(),
		Lingering:        c.lingering.Load(),
		Gone:             c.gone.Load(),
		Malformed:        c.malformed.Load(),
		Delivered:        c.delivered.Load(),
		Written:          c.written.Load() + h.writers.written(),
		Dropped:          c.dropped.Load(),
		CallsRefused:     c.callsRefused.Load(),
		Strangers:        c.strangers.Load(),
		DroppedVolatile:  c.droppedVolatile.Load(),
		MessagesReceived: c.messagesReceived.Load(),
		Mended:           c.mended.Load(),
		Unreadable:       h.unreadable(),
		Gaps:             c.gaps.Load(),
		GapFor:           time.Duration(c.gapFor.Load()),
		Resets:           c.resets.Load(),
	}
	s.Conns, s.Users, s.Topics = h.index.size()
	s.Handshakes = h.door.handshakes()
	s.Refused = int(min(h.refused.Load(), maxRefused)) // one that is turned away is counted for a moment
	for conn := range h.Conns() {
		conn.mu.Lock()
		s.Queued += conn.queue.size()
		s.QueuedBytes += int64(conn.queue.bytes)
		conn.mu.Unlock()
	}
	return s
}

// unreadable returns how often the Registry has met what is none of herald's.
func (h *Hub) unreadable() uint64 {
	if r, ok := h.registry.(*RedisRegistry); ok {
		n, _ := r.redis.Unreadable()
		return n
	}
	return 0
}
