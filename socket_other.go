//go:build !unix

package herald

import (
	"net"
	"syscall"
)

// rawConn returns nil: here every socket is read by the library, and written
// to by a goroutine that may wait.
func rawConn(net.Conn) syscall.RawConn { return nil }

type rawWriter struct{}

func (*rawWriter) write(syscall.RawConn, []byte) (int, error) { panic("herald: no raw writes here") }

func readOnce(uintptr, []byte) (int, error, bool) { panic("herald: no raw reads here") }
