//go:build unix && (!linux || 386 || race)

package rawio

import "syscall"

// The race detector learns from these calls what came before what. Linux on
// 386 has no system call for each of the others.

func write(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
func read(fd uintptr, p []byte) (int, error)  { return syscall.Read(int(fd), p) }
