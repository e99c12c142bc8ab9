package herald

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/heraldgo/herald/internal/wsframe"
)

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

// check says whether the server may send the code (RFC 6455 section 7.4).
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

// closeFrame returns a close frame. The code and reason have been checked.
func closeFrame(code StatusCode, reason string) []byte {
	if code == statusNone {
		return []byte{wsframe.Close, 0}
	}
	b := make([]byte, 0, 4+len(reason))
	b = wsframe.AppendHeader(b, wsframe.Close, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}

// parseClose returns the code and reason of a close frame's payload, which
// the WebSocket library has checked.
func parseClose(payload []byte) *CloseError {
	if len(payload) < 2 {
		return &CloseError{Code: statusNone}
	}
	return &CloseError{Code: StatusCode(binary.BigEndian.Uint16(payload)), Reason: string(payload[2:])}
}

// statusNone stands for a close frame without a code (RFC 6455 section 7.1.5).
const statusNone StatusCode = 1005

// A Message is the text or the bytes that a client gets, or has sent. herald adds
// nothing to it. The zero Message is an empty binary one.
type Message struct {
	data     []byte
	words    string // if Text made it; instead of data
	text     bool
	volatile bool
	err      error // what encoding/json returned
}

// Text returns a text message. Send refuses one that is not UTF-8.
func Text(s string) Message { return Message{words: s, text: true} }

// Binary returns a binary message. It keeps b, which must not change until
// the calls that send the message have returned.
func Binary(b []byte) Message { return Message{data: b} }

// JSON returns a text message with v encoded by encoding/json. If that fails,
// sending the message returns the error.
func JSON(v any) Message {
	b, err := json.Marshal(v)
	if err != nil {
		err = fmt.Errorf("%w: message: %w", ErrInvalid, err)
	}
	return Message{data: b, text: true, err: err}
}

// Volatile returns a copy of m that is dropped, and counted, if the client is
// busy, so that it never closes one: a typing notice, a cursor's position. A
// client is busy while its socket takes no more, or while a quarter of its queue's
// bounds is used. All clients are busy while seven eighths of MaxQueuedBytes are
// used.
func (m Message) Volatile() Message {
	m.volatile = true
	return m
}

// IsText says whether m is text rather than binary.
func (m Message) IsText() bool { return m.text }

// Bytes returns the payload. If Text made the Message this is a copy; otherwise
// it is the Message's own bytes, which must not be changed.
func (m Message) Bytes() []byte {
	if m.data == nil {
		return []byte(m.words)
	}
	return m.data
}

// String returns the payload as a string.
func (m Message) String() string {
	if m.words != "" {
		return m.words
	}
	return string(m.data)
}

func (m Message) len() int { return len(m.data) + len(m.words) }

// check says whether the message can be sent.
func (m Message) check(limit int64) error {
	if m.err != nil {
		return m.err
	}
	if limit > 0 && int64(m.len()) > limit {
		return fmt.Errorf("%w: message of %d bytes: must be at most MaxSendSize (%d)", ErrInvalid, m.len(), limit)
	}
	if m.text && !(utf8.Valid(m.data) && utf8.ValidString(m.words)) {
		return fmt.Errorf("%w: text message: must be UTF-8", ErrInvalid)
	}
	return nil
}

// frame returns the frame that carries the message to a client.
func (m Message) frame() []byte {
	return m.appendFrame(make([]byte, 0, wsframe.MaxHeader+m.len()))
}

func (m Message) appendFrame(b []byte) []byte {
	first := byte(wsframe.Binary)
	if m.text {
		first = wsframe.Text
	}
	b = wsframe.AppendHeader(b, first, m.len())
	return append(append(b, m.data...), m.words...)
}
