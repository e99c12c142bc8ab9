//go:build !linux

package netpoll

import (
	"syscall"
	"time"
)

// A Poller waits for nothing here.
type Poller[T any] struct{ Quiet time.Duration }

// New returns a Poller that takes no connection.
func New[T any](func(T), func(error)) *Poller[T] { return &Poller[T]{Quiet: Quiet} }

// Prepare returns false.
func (*Poller[T]) Prepare(*Place, T) (Ticket, bool) { return Ticket{}, false }

// Arm is never called.
func (*Poller[T]) Arm(Ticket, syscall.RawConn) bool { return false }

// Release does nothing.
func (*Poller[T]) Release(*Place) {}

// Close does nothing.
func (*Poller[T]) Close() {}
