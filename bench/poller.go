//go:build linux

package main

import (
	"net"
	"sync"
	"syscall"
)

// A poller reads many sockets in one goroutine.
type poller struct {
	epoll int
	wake  [2]int // a pipe that ends the goroutine
	done  sync.WaitGroup

	mu      sync.Mutex
	clients map[int32]*client // by descriptor
}

func newPoller() (*poller, error) {
	p := &poller{clients: make(map[int32]*client)}
	var err error
	if p.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if err := syscall.Pipe2(p.wake[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	return p, p.watch(p.wake[0])
}

func (p *poller) watch(fd int) error {
	return syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
}

// add takes over conn.
func (p *poller) add(conn *net.TCPConn, c *client) error {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var dupErr error
	if err := raw.Control(func(fd uintptr) { c.fd, dupErr = syscall.Dup(int(fd)) }); err != nil {
		return err
	}
	if dupErr != nil {
		return dupErr
	}
	// A reset at the end leaves no port waiting.
	syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	p.mu.Lock()
	p.clients[int32(c.fd)] = c
	p.mu.Unlock()
	return p.watch(c.fd)
}

// run reads until close. take gets what has come for a client, or nil at the
// end of its connection.
func (p *poller) run(take func(*client, []byte)) {
	p.done.Go(func() {
		events := make([]syscall.EpollEvent, 512)
		buf := make([]byte, 256<<10)
		for {
			n, err := syscall.EpollWait(p.epoll, events, -1)
			if err != nil && err != syscall.EINTR {
				return
			}
			for _, e := range events[:max(n, 0)] {
				if int(e.Fd) == p.wake[0] {
					return
				}
				p.mu.Lock()
				c := p.clients[e.Fd]
				p.mu.Unlock()
				n, err := syscall.Read(int(e.Fd), buf)
				switch {
				case n > 0:
					take(c, buf[:n])
				case err == syscall.EAGAIN || err == syscall.EINTR:
				default:
					take(c, nil)
					p.remove(e.Fd)
				}
			}
		}
	})
}

func (p *poller) remove(fd int32) {
	p.mu.Lock()
	delete(p.clients, fd)
	p.mu.Unlock()
	syscall.Close(int(fd)) // which also ends the watching
}

func (p *poller) close() {
	syscall.Write(p.wake[1], []byte{0})
	p.done.Wait()
	for fd := range p.clients {
		syscall.Close(int(fd))
	}
	syscall.Close(p.wake[0])
	syscall.Close(p.wake[1])
	syscall.Close(p.epoll)
}
