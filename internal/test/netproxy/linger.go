package netproxy

import (
	"net"
	"sync"
)

// A Lingering is a listener whose connections do not close before Let is called. A
// connection over TLS may behave like that while its client reads nothing.
type Lingering struct {
	net.Listener
	Closing <-chan bool // receives when a connection begins to close, unless a value is waiting there

	closing chan bool
	let     chan struct{}
	once    sync.Once
}

// Linger wraps a listener.
func Linger(l net.Listener) *Lingering {
	closing := make(chan bool, 1)
	return &Lingering{Listener: l, Closing: closing, closing: closing, let: make(chan struct{})}
}

// Let lets all connections close.
func (l *Lingering) Let() { l.once.Do(func() { close(l.let) }) }

// Accept implements net.Listener.
func (l *Lingering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return lingeringConn{conn, l}, nil
}

type lingeringConn struct {
	net.Conn
	listener *Lingering
}

func (c lingeringConn) Close() error {
	select {
	case c.listener.closing <- true:
	default:
	}
	<-c.listener.let
	return c.Conn.Close()
}
