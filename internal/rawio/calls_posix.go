//go:build unix && (!linux || 386 || race)

package rawio

import "syscall"

// The race detector learns from these calls which memory accesses are ordered. Linux
// on 386 has no system calls of their own for sendto and recvfrom.

func write(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
func read(fd uintptr, p []byte) (int, error)  { return syscall.Read(int(fd), p) }
