//go:build !unix

// Package rawio reads from and writes to plain TCP connections without waiting:
// not on this system.
package rawio

import (
	"net"
	"syscall"
)

// Conn returns nil: here a net.Conn is read and written as usual, by goroutines
// that may wait.
func Conn(net.Conn) syscall.RawConn { return nil }

// A Writer is of no use here.
type Writer struct{}

// Write is never called, because there is nothing to call it with.
func (*Writer) Write(syscall.RawConn, []byte) (int, error) { panic("rawio: no raw writes here") }

// Read is never called, because there is nothing to call it from.
func Read(uintptr, []byte) (int, error, bool) { panic("rawio: no raw reads here") }
