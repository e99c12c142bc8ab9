package mqttbus

import (
	"net"
	"syscall"
)

// newQuickAck returns a function that makes the kernel acknowledge at once what has
// been read, for as long as it chooses to (tcp(7), TCP_QUICKACK). Brokers may leave
// Nagle's algorithm on, as mosquitto does unless set_tcp_nodelay is set: their second
// small packet then waits for the acknowledgement of the first, which is otherwise
// delayed by 40 ms.
func newQuickAck(conn net.Conn) func() {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return func() {}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return func() {}
	}
	set := func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}
	return func() { raw.Control(set) }
}
