//go:build linux && !386 && !race

package rawio

import (
	"syscall"
	"unsafe"
)

// write and read make system calls that do not wait, even if the descriptor is in
// blocking mode (MSG_DONTWAIT, send(2)). The scheduler does not learn of them:
// otherwise it would wake its monitor thread for each call of a process that has
// little to do. The garbage collector waits for them: 0.1 ms for 1 MB.

func write(fd uintptr, p []byte) (int, error) { return transfer(syscall.SYS_SENDTO, fd, p) }
func read(fd uintptr, p []byte) (int, error)  { return transfer(syscall.SYS_RECVFROM, fd, p) }

func transfer(number, fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall6(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
