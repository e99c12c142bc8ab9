// Package herald sends messages to users who are connected by WebSocket to
// any of several nodes behind a load balancer.
//
// A service mounts a [Hub] on a route. A node is one process with its Hub.
// Every connection, a [Conn], belongs to a user. A user may have many, on
// whichever nodes the load balancer picked. Any node can send to a [Target]: a
// user, a group, one connection or everyone. Each of their devices gets the
// message, wherever it is connected:
//
//	hub, err := herald.New(herald.Config{Redis: rdb, Authenticate: whoIs})
//	http.Handle("/ws", hub)
//	hub.Send(ctx, herald.User("42"), herald.Text("hello"))
//
// Messages travel between the nodes over a [Bus]. A [Registry] knows who is
// online, with which connections, and where. Config.Redis gives both. Without
// it a Hub works alone, in memory.
//
// # What is promised
//
// As long as its network works, a connected device gets each message once. It
// misses one only if a [Gap] is reported or its queue overflows. A Gap is a
// period in which the Bus may have lost messages for a node.
//
// Messages that one sender sends to one topic (a user, a group, everyone)
// arrive in the order of sending. All receivers of a topic see the same order,
// unless the Bus gives none across publishers (core NATS). Between topics there
// is no order.
//
// Until the kernel of the receiver's node has a message, its loss is never
// silent: it lies in a Gap, or Send returned an error, or [Stats] counts it.
//
// herald makes no duplicates. If a message may have been sent, it returns
// [ErrUnknown] and does not send the message again.
//
// # What is kept
//
// With Config.Retention messages are kept for some time. A client that speaks the
// protocol of PROTOCOL.md, such as package heraldclient, gets what it missed when it
// comes back, or is told that something may be missing. A node that was cut off gets
// what was sent meanwhile, or reports a Gap.
//
// # The last mile
//
// herald hands a message to the kernel of the node, and counts it as Written.
// It cannot know whether the client has received it, because a WebSocket has no
// acknowledgement; [Hub.Deliver] asks each client for a receipt.
// If a phone loses its network, herald notices its silence after about
// PingInterval and PongTimeout. Until then the kernel accepts what is sent to the
// phone, and all of that is lost, without a Gap and without an error.
//
// So the client has to find out. A connection that ends with a close frame ends
// cleanly: the client has received all that was sent before, unless the code is
// StatusTooSlow. After any other end (1006 in a browser, a reset, a timeout) the
// client may have missed messages since the last one that it received, and not
// only since it noticed. The client connects again, and then fetches what it has
// missed since that message from where your service keeps it. After a clean end
// it fetches what was sent while it was away.
//
// # The life of a connection
//
// ServeHTTP handles a request in these steps:
//
//   - It counts the request for the client's address (HandshakeRatePerAddr). It
//     checks that the request is a handshake, that its page may connect, that the
//     node has room for it, and its health. Only then is your code called.
//   - It calls Authenticate, and counts the request for the user
//     (HandshakeRatePerUser).
//   - It checks health and limits, follows the user's topics on the Bus,
//     registers the session, and upgrades.
//   - It calls Admit and OnConnect, and then lets messages flow.
//
// From the moment OnConnect runs, the connection gets everything that is sent to
// the user. OnMessage gets the client's messages one after the other.
// OnDisconnect runs once, however the connection ends.
//
// # The life of a Hub
//
// [New] connects to the Bus and the Registry. [Hub.Shutdown] closes the clients'
// connections, spread over time, and leaves no goroutine. http.Server.Shutdown
// does not close WebSocket connections: call the Hub's first, then the server's.
// If a node dies without Shutdown, the others notice within Config.Lease.
//
// # Testing
//
// Package heraldtest has a small cluster in memory, with clients and faults,
// for tests of your own code. It also has the test suites that every Bus and
// Registry must pass, and one for Hubs with a Retention.
package herald
