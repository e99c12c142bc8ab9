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
		link := s.uplink.Link()
		<-link.dead
		link.close(nil)
		since := s.uplink.Down(link.reason())
		if s.ctx.Err() != nil {
			return
		}
		s.inbox.Down(herald.Event{Kind: herald.EventDown, Since: since, Err: link.reason()})
		s.dialer.failed(link.server)
		if !pause.Reconnect(s.ctx, time.Since(born), s.connect) {
			return
		}
	}
}

// connect opens a link, subscribes it to all that is wanted, proves it, and
// ends the gap.
func (s *subscriber) connect() error {
	link, err := s.dialer.dial(s.ctx, nil, &inbound{sub: s})
	if err == nil {
		if err = s.resubscribe(link); err == nil && s.proof != nil {
			err = s.proof(link)
		}
		if err != nil {
			link.close(err)
			s.dialer.failed(link.server)
		}
	}
	if err != nil {
		s.uplink.Fail(err)
		return err
	}
	s.uplink.Up(link, s.inbox.Restore)
	return nil
}

// server returns the server that the subscribed link leads to, or nil.
func (s *subscriber) server() *server {
	if link := s.uplink.Link(); link != nil && link.reason() == nil {
		return link.server
	}
	return nil
}

// drop makes the link dead, if there is one.
func (s *subscriber) drop(why error) {
	if link := s.uplink.Link(); link != nil {
		link.fail(why)
	}
}

// close ends the committing goroutine, then the link. run must have ended.
func (s *subscriber) close() {
	s.batch.Close(herald.ErrClosed)
	if link := s.uplink.Link(); link != nil {
		link.close(herald.ErrClosed)
	}
}
