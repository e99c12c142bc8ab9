package frame

// The close codes of an Error (RFC 6455 section 7.4.1).
const (
	ProtocolError  = 1002
	InvalidPayload = 1007
	MessageTooBig  = 1009
)

// An Error is a rule that a client has broken.
type Error struct {
	Code   uint16 // for the close frame
	Reason string // also for the close frame
}

func (e *Error) Error() string { return e.Reason }

var (
	errReserved     = &Error{ProtocolError, "frame has a reserved bit"}                   // section 5.2
	errOpcode       = &Error{ProtocolError, "frame has a reserved opcode"}                // section 5.2
	errLength       = &Error{ProtocolError, "frame has a length above 63 bits"}           // section 5.2
	errUnmasked     = &Error{ProtocolError, "frame is not masked"}                        // section 5.1
	errContinuation = &Error{ProtocolError, "continuation frame without a message"}       // section 5.4
	errInterrupted  = &Error{ProtocolError, "message inside another"}                     // section 5.4
	errFragmented   = &Error{ProtocolError, "control frame is fragmented"}                // section 5.5
	errControlSize  = &Error{ProtocolError, "control frame has more than 125 bytes"}      // section 5.5
	errCloseSize    = &Error{ProtocolError, "close frame has 1 byte"}                     // section 5.5.1
	errCloseCode    = &Error{ProtocolError, "close frame has a code that is not allowed"} // section 7.4
	errCloseReason  = &Error{InvalidPayload, "close reason is not UTF-8"}                 // section 5.5.1
	errText         = &Error{InvalidPayload, "text is not UTF-8"}                         // section 8.1
	errTooBig       = &Error{MessageTooBig, "message is too big"}                         // section 7.4.1
)
