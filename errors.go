package herald

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/heraldgo/herald/internal/errs"
)

var (
	// ErrBusDown says that nothing was sent, because the broker could not be
	// reached or does not serve us now. The text then has what the broker says.
	ErrBusDown = errs.BusDown

	// ErrUnknown says that the broker may or may not have taken a message:
	// its answer did not come. herald does not send it again.
	ErrUnknown = errs.Unknown

	// ErrRegistryDown says that the Registry could not be reached, or does not
	// serve us now (the text has what Redis says), or cannot be believed because
	// it has lost this node's lease or does not list a living node.
	ErrRegistryDown = errs.RegistryDown

	// ErrLeaseLost says that a node's lease was swept, released or
	// forgotten. The Hub takes a new one by itself.
	ErrLeaseLost = errs.LeaseLost

	// ErrClosed says that the Hub, the Conn or the Bus has been closed.
	ErrClosed = errs.Closed

	// ErrDraining says that the Hub is shutting down and takes no new
	// connections.
	ErrDraining = errors.New("herald: draining")

	// ErrTooSlow is the cause of a disconnect: the Conn's queue was full, or it
	// was one of the fullest when all queues together were full.
	ErrTooSlow = errors.New("herald: connection is too slow")

	// ErrSilent is the cause of a disconnect: nothing came from the peer for
	// too long, not even the answer to a ping.
	ErrSilent = errors.New("herald: peer is silent")

	// ErrLimit says that a limit was reached: on connections, on the groups of a
	// connection, or on calls that wait.
	ErrLimit = errors.New("herald: limit reached")

	// ErrReceiving says that another call of Receive waits on the Bus: it was
	// given to two Hubs, or something besides its Hub receives from it.
	ErrReceiving = errs.Receiving

	// ErrInvalid says that an argument of a call breaks a rule, which the
	// error names.
	ErrInvalid = errs.Invalid
)

// An HTTPError is an error for Config.Authenticate to answer a request with
// a status of its own. Under RejectAfterUpgrade it becomes the close code
// 4000 + Status, unless that is 503.
type HTTPError struct {
	Status  int    // 400 to 599; an error with another one counts as one without a status
	Message string // sent to the client, so nothing internal
}

// Error returns the status and the message.
func (e *HTTPError) Error() string { return fmt.Sprintf("herald: status %d: %s", e.Status, e.Message) }

var errSendTimeout = fmt.Errorf("SendTimeout: %w", context.DeadlineExceeded)

// retryAfter asks a client that may come again to wait some seconds; how many is random.
// Its connection is not kept alive meanwhile: many would fill a node that is full
// already, and a flood would be cheap.
func retryAfter(header http.Header, status int) {
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		header.Set("Retry-After", strconv.Itoa(1+rand.IntN(5)))
		header.Set("Connection", "close")
	}
}

// A StatusCode is a WebSocket close code (RFC 6455 section 7.4).
type StatusCode uint16

const (
	StatusNormal          StatusCode = 1000 // done
	StatusGoingAway       StatusCode = 1001 // the page or the app is left
	StatusProtocolError   StatusCode = 1002 // the client broke the protocol
	StatusUnsupportedData StatusCode = 1003 // text or binary that is not wanted; herald never sends it by itself
	StatusInvalidPayload  StatusCode = 1007 // text that is not UTF-8
	StatusPolicyViolation StatusCode = 1008 // refused, too many messages or bytes, or a message that took too long
	StatusMessageTooBig   StatusCode = 1009 // above MaxMessageSize
	StatusInternalError   StatusCode = 1011 // a callback panicked
	StatusServiceRestart  StatusCode = 1012 // Shutdown: reconnect, elsewhere
	StatusTryAgainLater   StatusCode = 1013 // not ready

	// Codes of herald's own.

	StatusUnauthorized StatusCode = 4401 // RejectAfterUpgrade: Authenticate said no
	StatusTooSlow      StatusCode = 4408 // the Conn's queue was full, or one of the fullest when all queues together were full
	StatusReplaced     StatusCode = 4409 // a newer connection took the place: do not reconnect
	StatusExpired      StatusCode = 4410 // Identity.Expires has passed: reconnect with a new token
)

// check returns an error if the server may not send the code (RFC 6455 section 7.4) or
// the reason.
func (c StatusCode) check(reason string) error {
	switch {
	case c >= 3000 && c <= 4999, c >= 1000 && c <= 1003, c >= 1007 && c <= 1014 && c != 1010:
	default:
		return fmt.Errorf("%w: code %d: must be 3000-4999, 1000-1003, 1007-1009 or 1011-1014", ErrInvalid, c)
	}
	if len(reason) > 123 {
		return fmt.Errorf("%w: reason of %d bytes: must be at most 123", ErrInvalid, len(reason))
	}
	if !utf8.ValidString(reason) {
		return fmt.Errorf("%w: reason: must be UTF-8", ErrInvalid)
	}
	return nil
}

// A CloseError carries a close code and reason. As the error of Admit or
// OnConnect it is what the client is told. As the cause of a disconnect it is what
// one side told the other.
type CloseError struct {
	Code   StatusCode
	Reason string // at most 123 bytes of UTF-8

	err    error // why herald closed: ErrTooSlow, …
	client bool  // the client began the close
}

// Unwrap returns the sentinel that stands for the code, or nil.
func (e *CloseError) Unwrap() error { return e.err }

// Error returns the code and the reason.
func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("herald: closed with %d", e.Code)
	}
	return fmt.Sprintf("herald: closed with %d: %s", e.Code, e.Reason)
}

// A PartialError says that some nodes have not acknowledged a call. The others
// have done what it asked for.
type PartialError struct {
	Missing []string // ids of the nodes that have not answered, or could not do it
	Err     error    // why one of them has not
}

// Error names the nodes, and why one of them is missing.
func (e *PartialError) Error() string {
	return onceText(fmt.Sprintf("herald: not acknowledged by %s: %v", strings.Join(e.Missing, ", "), e.Err))
}

// Unwrap returns Err.
func (e *PartialError) Unwrap() error { return e.Err }

// A onceError is an error whose text does not repeat itself.
type onceError struct {
	err  error
	text string
}

func (e *onceError) Error() string { return e.text }
func (e *onceError) Unwrap() error { return e.err }

// once returns err with a text that names herald, and each cause, once. The parts that
// wrote the errors in its chain know nothing of each other.
func once(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if said := onceText(text); said != text {
		return &onceError{err, said}
	}
	return err
}

// onceText leaves out of a text the parts, between colons, that it has had before. If the
// last part of a line, its cause, is that of an earlier line, only the sentinels are
// left.
func onceText(text string) string {
	said := make(map[string]bool)
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		parts := strings.Split(line, ": ")
		if said[parts[len(parts)-1]] {
			parts = sentinels(parts)
		}
		parts = slices.DeleteFunc(parts, func(part string) bool {
			again := said[part]
			said[part] = true
			return again
		})
		if len(parts) > 0 {
			lines = append(lines, strings.Join(parts, ": "))
		}
	}
	return strings.Join(lines, "; ")
}

// sentinels returns the parts that follow herald's prefix.
func sentinels(parts []string) (found []string) {
	for i, part := range parts[1:] {
		if parts[i] == "herald" {
			found = append(found, part)
		}
	}
	return found
}
