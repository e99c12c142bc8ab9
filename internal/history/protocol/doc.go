// Package protocol has what goes over the wire between a Hub and a client that
// can come back to where it was, and both ends of it: PROTOCOL.md specifies it.
// What comes from the other end is not trusted. It is refused if it is not what
// PROTOCOL.md allows.
package protocol
