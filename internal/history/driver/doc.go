// Package driver drives the machines of History over real I/O: for each
// partition a node.Feed and a node.Publisher, and the device.Device of each
// connection. What it needs of the rest of the node, it takes as interfaces: the
// Log and the Bus of each partition, the Hub, and a Conn for each connection.
//
// # Who does what
//
// One goroutine, the owner, runs all machines of a node and waits for nothing: it
// takes what the inbox brings (Push), the calls of other goroutines, and the answers of
// the logs, and then looks at the clock. Each call of a Log has a goroutine of its
// own, and a deadline. Appends are made by a goroutine of each partition, which
// shares nothing with the owner but the Publisher. Close waits for them all.
//
// # A question of a device
//
// A device that comes back asks the log until it is live: for surveys, and for
// pages of entries. It has one question for each partition at most.
//
//	        the queue has room          its turn
//	waiting ──────────────────> ready ───────────> running
//	   ^ ^                                           │ │
//	   │ │ a while          no answer, nothing new   │ │
//	   │ └────────── paused <────────────────────────┘ │
//	   └───────────── the device asks for more ────────┘
//
// Surveys are limited by rate, because any position costs one. A partition reads
// one batch at a time: the pages that several devices wait for, each entry once,
// and what they will ask for next, as far as that costs little. What was read ahead
// stays with the device's question, and so does what a survey has read. Such a page
// needs no batch: it is answered at its turn. So a device that reads fast enough catches up
// with a flood, although each round trip to the log may bring more than a page.
//
// Each device has one page under way at a time. If its queue has no room any more
// when the page has come, the page waits. So a queue takes at most one page, and the rest
// when the device goes live, beyond what counts as room. Nothing is read while the
// pages that wait in queues take more than the node's budget, and nothing ahead while
// half of it is taken. What was read ahead gives way to pages, and from time to time to
// what others read ahead. A device whose question has no turn, or no answer, for long is
// told that something may be missing, and goes on asking.
package driver
