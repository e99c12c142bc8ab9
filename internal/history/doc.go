// Package history has the terms in which the rules of History are written: where
// a device is, what the log of a partition answers, and what is still to be read
// of it. The rules themselves are state machines in the packages under it,
// without goroutines, locks, clock or I/O. Their driver does the I/O, and
// calls each from one goroutine at a time:
//
//   - store.Log is the log of one partition, as the scripts in Redis keep it.
//   - node.Publisher and node.Feed are a node's side of a partition: what it
//     appends, and what it hands on to its devices.
//   - device.Device is the server's side of one connection, over all
//     partitions. device.Client is the other end of it.
//
// # What they rely on
//
// A script of Redis is one step. Its keys are lost as a whole or not at all, and
// a replica that is promoted has a prefix of what its master did. What a link
// hands over is a prefix of what was published to it while it lived: what is
// lost is the end, and the node learns that the link is down before it sees
// anything of the next one.
//
// # What they promise
//
// A Client that remembers its positions gets every kept message of its topics
// once, in the order of the log, or it is told that something may be missing. It
// is told before it gets a position behind what is missing: a client that is cut off
// then has not passed the gap without knowing.
package history
