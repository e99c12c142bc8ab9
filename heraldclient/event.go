package heraldclient

import (
	"errors"
	"fmt"
	"time"

	"github.com/heraldgo/herald/internal/history/protocol"
)

// An Event is a [Message], a [Gap], [Connected] or [Disconnected].
type Event interface{ event() }

// A Message is what the Hub sent. The receiver owns its Data.
type Message struct {
	Data   []byte
	Binary bool // it came as a binary message, not as text

	after protocol.Resume
}

// Position returns the position behind the message, for Config.Resume. Save it
// together with what the message caused: then a process that starts again neither
// misses a message nor does anything twice. It is empty if the Hub keeps nothing.
func (m Message) Position() string { return positionText(m.after) }

// A Gap says that something may be missing: what is newer than the last Message
// should be fetched from where the service stores it. Since and Until are by the
// node's clock, and zero if they are unknown.
type Gap struct {
	Since, Until time.Time
}

// Connected says that a connection stands.
type Connected struct {
	History bool   // the Hub keeps messages: what is missed comes after
	Resumed bool   // the Client goes on where it was
	Conn    string // the connection's id, signed, if History: herald.Connection and Except take it
	User    string // who the Client is for the Hub, if History
}

// Disconnected says that a connection ended, or that a try to connect failed. The
// Client tries again. If several tries have failed since the last Receive there
// is one event, with the last Err: a *CloseError if the server gave a reason.
type Disconnected struct {
	Err error
}

func (Message) event()      {}
func (Gap) event()          {}
func (Connected) event()    {}
func (Disconnected) event() {}

var (
	// ErrClosed says that the Client was closed.
	ErrClosed = errors.New("heraldclient: closed")

	// ErrReplaced says that a newer connection took the place of this one (close code
	// 4409). Connecting again would throw out the newer one.
	ErrReplaced = errors.New("heraldclient: replaced by a newer connection")

	// ErrUnauthorized says that the Hub does not accept the Config's URL (HTTP status
	// 401, close codes 4401 and 4410), and there is no Endpoint that could return
	// another one.
	ErrUnauthorized = errors.New("heraldclient: not authorized")
)

// A CloseError is why the server ended a connection (RFC 6455 section 7.1.5), or
// did not let it begin: then Code is 4000 plus the HTTP status.
type CloseError struct {
	Code   int
	Reason string

	status     bool // it is an HTTP status: 409 and 410 do not mean what 4409 and 4410 do
	retryAfter time.Duration
}

// Error tells the code and the reason.
func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("heraldclient: closed with %d", e.Code)
	}
	return fmt.Sprintf("heraldclient: closed with %d: %s", e.Code, e.Reason)
}

func positionText(r protocol.Resume) string {
	text, _ := r.MarshalText() // it never fails
	return string(text)
}
