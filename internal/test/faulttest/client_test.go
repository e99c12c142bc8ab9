package faulttest

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/heraldgo/herald/internal/test/wsraw"
)

// A client is a connection of a user. It never reconnects.
type client struct {
	*wsraw.Conn
	user  string
	node  *node
	in    chan struct{} // closed when it was let in
	ended chan struct{} // closed when its connection has ended; nil if the client is deaf
}

// connect connects a client, and returns when it has been let in.
func (n *node) connect(user string, groups ...string) *client {
	n.t.Helper()
	c, err := n.dial(user, groups...)
	if err != nil {
		n.t.Fatalf("connect %s: %v", user, err)
	}
	return c
}

func (n *node) dial(user string, groups ...string) (*client, error) {
	c, err := n.handshake(user, http.Header{"Group": groups})
	if err != nil {
		return nil, err
	}
	c.in, c.ended = make(chan struct{}), make(chan struct{})
	go c.read()
	select {
	case <-c.in:
		return c, nil
	case <-c.ended:
		return nil, errors.New("closed before it was let in")
	}
}

func (n *node) handshake(user string, header http.Header) (*client, error) {
	here, there := net.Pipe()
	select {
	case n.door <- there:
	case <-time.After(patience):
		return nil, errors.New("nobody accepts")
	}
	ws, _, err := wsraw.Handshake(here, "/"+user, header)
	if err != nil {
		here.Close()
		return nil, err
	}
	c := &client{Conn: ws, user: user, node: n}
	n.mu.Lock()
	n.clients = append(n.clients, c)
	n.mu.Unlock()
	return c, nil
}

func (c *client) read() {
	defer close(c.ended)
	defer c.Conn.Close()
	for {
		f, err := c.ReadFrame()
		if errors.Is(err, os.ErrDeadlineExceeded) { // nothing has come for a long time
			continue
		}
		if err != nil || f.Opcode == wsraw.Close {
			return
		}
		select {
		case <-c.in:
		default:
			close(c.in)
		}
	}
}

// close ends the client's connection.
func (c *client) close() {
	c.Conn.Close()
	if c.ended != nil {
		<-c.ended
	}
}

// open reports whether the client's connection has not ended.
func (c *client) open() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// crowd connects a deaf client for each user, in the group that group returns, if
// any.
func (n *node) crowd(users []string, group func(i int) string) {
	n.t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 32 {
		wg.Go(func() {
			for i := range next {
				header := http.Header{"Platform": {deaf}}
				if group != nil {
					header["Group"] = []string{group(i)}
				}
				if _, err := n.handshake(users[i], header); err != nil {
					n.t.Errorf("connect %s: %v", users[i], err)
				}
			}
		})
	}
	for i := range users {
		next <- i
	}
	close(next)
	wg.Wait()
}
