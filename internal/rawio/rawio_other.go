//go:build !unix

// Package rawio reads from and writes to plain TCP connections without waiting:
// not on this system.
package rawio

import (
	"net"
	"syscall"
)

// Conn returns nil: on this system a net.Conn is read and written as usual, by
// goroutines that may block.
func Conn(net.Conn) syscall.RawConn { return nil }

// A Writer is not used on this system.
type Writer struct{}

// Write is never called, because Conn returns nothing to call it with.
func (*Writer) Write(syscall.RawConn, []byte) (int, error) { panic("rawio: no raw writes here") }

// Read is never called, because Conn returns nothing to call it with.
func Read(uintptr, []byte) (int, error, bool) { panic("rawio: no raw reads here") }
