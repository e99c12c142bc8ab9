//go:build !386

package rawio

import (
	"syscall"
	"unsafe"
)

// WakeAt makes a socket wake the process' poller only when n bytes can be read, or
// the connection has ended (SO_RCVLOWAT, socket(7)).
func WakeAt(fd uintptr, n int32) {
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_RCVLOWAT,
		uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n), 0)
}
