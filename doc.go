// Package herald sends messages to users who are connected by WebSocket to
// any of several nodes behind a load balancer.
//
// A service mounts a [Hub] on a route. Every connection, a [Conn], belongs to
// a user; a user has many, on whichever nodes the load balancer picked. Any
// node can send to a [Target], a user, a group, one connection or everyone,
// and every device concerned gets the message, wherever it is connected:
//
//	hub, err := herald.New(herald.Config{Redis: rdb, Authenticate: whoIs})
//	http.Handle("/ws", hub)
//	hub.Send(ctx, herald.User("42"), herald.Text("hello"))
//
// Messages travel between the nodes over a [Bus]; who is online, with which
// connections, and where, is kept in a [Registry]. Config.Redis gives both.
// Without it a Hub works alone, in memory.
//
// # What is promised
//
// A connected device gets a message at most once, and exactly once where no
// [Gap] is reported and its queue holds. Messages that one sender sends to one
// topic (a user, a group, everyone) arrive in the order of sending, and all
// receivers of a topic see one order, where the Bus has one for all publishers
// (core NATS has not); between topics there is none. No loss is
// silent: it lies in a Gap, or the Send returned an error, or it is counted in
// [Stats], or it is of the last mile. herald makes no duplicates, and so it never
// sends again by itself what may have been sent: that is [ErrUnknown].
//
// # The last mile
//
// herald hands a message to the kernel of the node, and counts it as Written.
// Whether the client has got it nobody knows: a WebSocket has no
// acknowledgement. A phone that has lost its network does not say so. Until
// its silence is noticed, some PingInterval and PongTimeout later, the kernel
// takes what is sent to it, and all of that is lost, without a Gap and without an
// error.
//
// So it is for the client to find out. A connection that ends with a close frame
// ends cleanly: the client has got all that was sent before, unless the code is
// StatusTooSlow. Any other end (1006 in a browser, a reset, a timeout) is a gap, which began with the last
// message that the client has got, and not when it noticed. It connects again,
// and then fetches what it has missed since that message, from where your service
// keeps it. After a clean end it does the same for the time in which it
// was away.
//
// # The life of a connection
//
// ServeHTTP takes a token of the client's address (HandshakeRatePerAddr), looks
// whether the request is a handshake of a page that may connect, and whether the
// node has room for it, before it asks anybody. Then it asks Authenticate, takes a
// token of the user (HandshakeRatePerUser), checks health and limits, follows the user's
// topics on the Bus, registers the session, upgrades, asks Admit, runs
// OnConnect, and then lets messages flow. From the moment OnConnect runs,
// nothing that is sent to the user is missed. OnMessage gets the client's
// messages one after the other. However the connection ends, OnDisconnect
// runs once.
//
// # The life of a Hub
//
// [New] connects; [Hub.Shutdown] closes the connections, spread over time,
// and leaves no goroutine. http.Server.Shutdown knows nothing of WebSocket
// connections: call the Hub's first, then the server's. A node that dies
// without it is missed by the others within Config.Lease.
//
// # Testing
//
// Package heraldtest has a small cluster in memory, with clients and faults,
// for tests of your own code, and the suites that every Bus and Registry
// must pass.
package herald
