package demo

import (
	"context"
	"errors"
	"net"
	"sync"
)

var errCut = errors.New("the node was stopped")

// links remembers open connections, so that they can be cut as if somebody
// had pulled the plug. The zero value is ready.
type links struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
	dead bool
}

// add remembers c. It says false if the links have been cut.
func (l *links) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return false
	}
	if l.open == nil {
		l.open = make(map[net.Conn]struct{})
	}
	l.open[c] = struct{}{}
	return true
}

func (l *links) remove(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// cut closes what is open, and everything that comes later.
func (l *links) cut() {
	l.mu.Lock()
	open := l.open
	l.open, l.dead = nil, true
	l.mu.Unlock()
	for c := range open {
		c.Close()
	}
}

// dial dials, and remembers the connection until it is closed.
func (l *links) dial(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), network, addr string) (net.Conn, error) {
	l.mu.Lock()
	dead := l.dead
	l.mu.Unlock()
	if dead {
		return nil, errCut
	}
	c, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if !l.add(c) {
		c.Close()
		return nil, errCut
	}
	return link{c, l}, nil
}

// A link is a connection that is forgotten when it is closed.
type link struct {
	net.Conn
	links *links
}

// Close closes the connection, and forgets it.
func (c link) Close() error {
	c.links.remove(c.Conn)
	return c.Conn.Close()
}
