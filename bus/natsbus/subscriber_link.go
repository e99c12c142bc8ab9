package natsbus

import (
	"time"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/backoff"
)

// run keeps the link up until Close.
func (s *subscriber) run() {
	var pause backoff.Backoff
	for born := time.Now(); ; born = time.Now() {
		link := s.current()
		<-link.dead
		link.close(nil)
		since := s.goDown(link.reason())
		if s.ctx.Err() != nil {
			return
		}
		s.inbox.Down(herald.Event{Kind: herald.EventDown, Since: since, Err: link.reason()})
		s.dialer.failed(link.server)
		wait := pause.Lost(time.Since(born))
		for {
			if wait > 0 {
				select {
				case <-time.After(wait):
				case <-s.ctx.Done():
					return
				}
			}
			if s.connect() == nil {
				break
			}
			wait = pause.Fail()
		}
	}
}

// goDown notes that the link is down, and returns since when packets may
// have been lost.
func (s *subscriber) goDown(why error) time.Time {
	s.mu.Lock()
	gone, since := s.gone, s.proved
	s.up, s.gone = make(chan struct{}), make(chan struct{})
	s.down = why
	s.mu.Unlock()
	close(gone)
	return since
}

// connect opens a link, subscribes it to all that is wanted, and ends the gap.
func (s *subscriber) connect() error {
	link, err := s.dialer.dial(s.ctx, nil, &inbound{sub: s})
	if err == nil {
		if err = s.resubscribe(link); err != nil {
			link.close(err)
			s.dialer.failed(link.server)
		}
	}
	s.mu.Lock()
	s.down = err
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.proved = time.Now()
	up := s.up
	s.mu.Unlock()
	s.inbox.Restore()
	close(up)
	return nil
}

// await returns the link once it is up; the error is ErrClosed.
func (s *subscriber) await() (*link, error) {
	for {
		s.mu.Lock()
		up, gone := s.up, s.gone
		s.mu.Unlock()
		select {
		case <-up:
			if link := s.current(); link.reason() == nil {
				return link, nil
			}
		case <-s.ctx.Done():
			return nil, herald.ErrClosed
		}
		select {
		case <-gone: // run has noted that the link is dead
		case <-s.ctx.Done():
			return nil, herald.ErrClosed
		}
	}
}

// current returns the last link, dead or alive; nil before the first.
func (s *subscriber) current() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// server returns the one that the Bus is subscribed at, or nil.
func (s *subscriber) server() *server {
	if link := s.current(); link != nil && link.reason() == nil {
		return link.server
	}
	return nil
}

// health returns why nothing can be received, or nil.
func (s *subscriber) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

func (s *subscriber) lastProof() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proved
}

// proveSince notes that link has been proved healthy by questions that were
// asked at the time start.
func (s *subscriber) proveSince(link *link, start time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == link && s.down == nil && start.After(s.proved) {
		s.proved = start
	}
}

// drop makes the link dead, where there is one.
func (s *subscriber) drop(why error) {
	if link := s.current(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link. run must have ended.
func (s *subscriber) close() {
	s.batch.Close(herald.ErrClosed)
	if link := s.current(); link != nil {
		link.close(herald.ErrClosed)
	}
}
