package netpoll

import (
	"cmp"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Poller waits for many connections in one goroutine. It has an epoll instance of
// its own, for which Go's poller waits as for a socket, so that no thread is held.
// Its methods may be called concurrently, but those for one connection's place only
// one after the other.
type Poller[T any] struct {
	Quiet time.Duration // the package's Quiet when the Poller was made

	ready   func(T)
	refused func(error)
	told    sync.Once
	table   table[T]
	start   sync.Once // by the first Prepare
	file    *os.File  // the epoll instance; nil before, and if there is none
	raw     syscall.RawConn
	done    sync.WaitGroup
}

// New returns a Poller, which the first Prepare starts. Its goroutine calls ready for
// each connection that can be read. While ready runs, no other connection is served,
// so it must not block. refused is called once, with the error, if the system does
// not let it wait for a connection.
func New[T any](ready func(T), refused func(error)) *Poller[T] {
	return &Poller[T]{Quiet: Quiet, ready: ready, refused: refused}
}

// open returns the epoll instance.
func open() (*os.File, syscall.RawConn, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return pollable(fd)
}

// pollable gives the descriptor to Go's poller, or closes it.
func pollable(fd int) (*os.File, syscall.RawConn, error) {
	if err := syscall.SetNonblock(fd, true); err != nil { // otherwise os would not give it to Go's poller
		syscall.Close(fd)
		return nil, nil, fmt.Errorf("epoll instance: %w", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	if err := file.SetReadDeadline(time.Time{}); err != nil { // NewFile does not tell if the system has refused
		file.Close()
		return nil, nil, fmt.Errorf("epoll instance in Go's poller: %w", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("epoll instance: %w", err)
	}
	return file, raw, nil
}

// Prepare must be called before each Arm, by the goroutine that may use the place. It
// takes a place if the connection has none. ready will get v. ok is false if the
// Poller could not be started.
func (p *Poller[T]) Prepare(place *Place, v T) (k Ticket, ok bool) {
	p.start.Do(func() {
		var err error
		if p.file, p.raw, err = open(); err != nil {
			p.refuse(err)
			return
		}
		p.done.Go(p.run)
	})
	if p.file == nil {
		return k, false
	}
	return p.table.prepare(place, v), true
}

func (p *Poller[T]) refuse(err error) { p.told.Do(func() { p.refused(err) }) }

// Arm makes the Poller call ready once, when conn can be read, has ended or has
// failed: perhaps before Arm returns. ready is not called if conn is closed first, or
// if Arm returns false, because conn is closed or the system refuses.
func (p *Poller[T]) Arm(k Ticket, conn syscall.RawConn) bool {
	op := syscall.EPOLL_CTL_ADD
	if k.known {
		op = syscall.EPOLL_CTL_MOD
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(k.place), Pad: int32(k.generation)}
	// While Control runs, its descriptor is not closed, so its number stays its own.
	var failed, refused error
	err := conn.Control(func(fd uintptr) {
		failed = p.raw.Control(func(epoll uintptr) {
			refused = syscall.EpollCtl(int(epoll), op, int(fd), &event)
		})
	})
	if err = cmp.Or(err, failed, refused); err == nil {
		return true
	}
	p.table.withdraw(k)
	if refused != nil { // otherwise conn or the Poller is closed
		p.refuse(fmt.Errorf("epoll_ctl: %w", refused))
	}
	return false
}

// Release gives the place up, if there is one. From then on its tickets are void, and
// the connection must not be armed again.
func (p *Poller[T]) Release(place *Place) { p.table.release(place) }

// Close ends the Poller, and waits for its goroutine. ready is not called again.
func (p *Poller[T]) Close() {
	p.start.Do(func() {})
	if p.file != nil {
		p.file.Close()
		p.done.Wait()
	}
}

// batch is how many events are taken at once.
const batch = 128

func (p *Poller[T]) run() {
	events := make([]syscall.EpollEvent, batch)
	n := 0
	var failed error
	wait := func(epoll uintptr) bool {
		for {
			if n, failed = syscall.EpollWait(int(epoll), events, 0); failed != syscall.EINTR {
				return n != 0
			}
		}
	}
	for {
		if err := p.raw.Read(wait); err != nil || failed != nil {
			return
		}
		for _, e := range events[:n] {
			if v, ok := p.table.event(Place(e.Fd), uint32(e.Pad)); ok {
				p.ready(v)
			}
		}
	}
}
