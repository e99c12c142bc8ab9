package herald

import (
	"context"
	"time"
)

// A Conn is one socket of one device. (Signatures only for now.)
type Conn struct{}

func (c *Conn) ID() string                                        { return "" }
func (c *Conn) User() string                                      { return "" }
func (c *Conn) Identity() Identity                                { return Identity{} }
func (c *Conn) Session() Session                                  { return Session{} }
func (c *Conn) Hub() *Hub                                         { return nil }
func (c *Conn) Context() context.Context                          { return nil }
func (c *Conn) Groups() []string                                  { return nil }
func (c *Conn) Subprotocol() string                               { return "" }
func (c *Conn) Send(m Message) error                              { return nil }
func (c *Conn) Join(ctx context.Context, groups ...string) error  { return nil }
func (c *Conn) Leave(ctx context.Context, groups ...string) error { return nil }
func (c *Conn) Close(code StatusCode, reason string) error        { return nil }
func (c *Conn) SetExpiry(t time.Time)                             {}
func (c *Conn) Done() <-chan struct{}                             { return nil }
