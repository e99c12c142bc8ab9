//go:build unix && (!linux || 386)

package herald

import "syscall"

// Linux on 386 has no system call for setsockopt alone.

func write(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) }
func read(fd uintptr, p []byte) (int, error)  { return syscall.Read(int(fd), p) }

// wakeAt does nothing here.
func wakeAt(uintptr, int32) {}
