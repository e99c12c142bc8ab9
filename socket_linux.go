//go:build !386

package herald

import (
	"syscall"
	"unsafe"
)

// write and read make a system call on a non-blocking descriptor and do not
// tell the scheduler: the call does not wait, and where a process has little to
// do the scheduler would wake its monitor thread for it each time.

func write(fd uintptr, p []byte) (int, error) { return rawCall(syscall.SYS_WRITE, fd, p) }
func read(fd uintptr, p []byte) (int, error)  { return rawCall(syscall.SYS_READ, fd, p) }

func rawCall(number, fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// wakeAt makes the socket wake the process only when n bytes can be read, or
// it ends (socket(7), SO_RCVLOWAT).
func wakeAt(fd uintptr, n int32) {
	syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_RCVLOWAT,
		uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n), 0)
}
