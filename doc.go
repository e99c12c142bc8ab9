// Package herald sends messages to users who are connected by WebSocket to
// any of several nodes behind a load balancer.
//
// A service mounts a [Hub] on a route. Every connection, a [Conn], belongs to
// a user. A user may have many, on whichever nodes the load balancer picked.
// Any node can send to a [Target]: a user, a group, one connection or
// everyone. Every device concerned gets the message, wherever it is connected:
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
// A connected device gets a message at most once. It gets it exactly once if
// no [Gap] is reported and its queue does not overflow.
//
// Messages that one sender sends to one topic (a user, a group, everyone)
// arrive in the order of sending. All receivers of a topic see one order, if
// the Bus has one for all publishers (core NATS has not). Between topics there
// is no order.
//
// No loss is silent. It lies in a Gap, or the Send returned an error, or it is
// counted in [Stats], or it is on the last mile.
//
// herald makes no duplicates. So it never sends again by itself what may have
// been sent; the error is [ErrUnknown] then.
//
// # The last mile
//
// herald hands a message to the kernel of the node, and counts it as Written.
// Nobody knows whether the client has got it, because a WebSocket has no
// acknowledgement. A phone that has lost its network does not say so. Its
// silence is noticed some PingInterval and PongTimeout later. Until then the
// kernel takes what is sent to it, and all of that is lost, without a Gap and
// without an error.
//
// So the client has to find out. A connection that ends with a close frame ends
// cleanly: the client has got all that was sent before, unless the code is
// StatusTooSlow. Any other end (1006 in a browser, a reset, a timeout) is a
// gap. It began with the last message that the client has got, and not when the
// client noticed. The client connects again, and then fetches what it has missed
// since that message, from where your service keeps it. After a clean end it
// does the same for the time in which it was away.
//
// # The life of a connection
//
// ServeHTTP handles a request in these steps:
//
//   - It takes a token of the client's address (HandshakeRatePerAddr). It checks
//     that the request is a handshake, that its page may connect, and that the
//     node has room for it. Nobody else is asked before that.
//   - It asks Authenticate, and takes a token of the user (HandshakeRatePerUser).
//   - It checks health and limits, follows the user's topics on the Bus,
//     registers the session, and upgrades.
//   - It asks Admit, runs OnConnect, and then lets messages flow.
//
// From the moment OnConnect runs, nothing that is sent to the user is missed.
// OnMessage gets the client's messages one after the other. OnDisconnect runs
// once, however the connection ends.
//
// # The life of a Hub
//
// [New] connects. [Hub.Shutdown] closes the connections, spread over time, and
// leaves no goroutine. http.Server.Shutdown knows nothing of WebSocket
// connections: call the Hub's first, then the server's. If a node dies without
// it, the others notice within Config.Lease.
//
// # Testing
//
// Package heraldtest has a small cluster in memory, with clients and faults,
// for tests of your own code. It also has the suites that every Bus and
// Registry must pass.
package herald
