package herald

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/heraldgo/herald/internal/frame"
	"github.com/heraldgo/herald/internal/receipts"
)

// closeFrame returns a close frame. The code and reason have been checked.
func closeFrame(code StatusCode, reason string) []byte {
	if code == statusNone {
		return []byte{frame.Close, 0}
	}
	b := make([]byte, 0, 4+len(reason))
	b = frame.AppendHeader(b, frame.Close, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}

// parseClose returns the code and reason of a close frame's payload, which
// internal/frame has checked.
func parseClose(payload []byte) *CloseError {
	if len(payload) < 2 {
		return &CloseError{Code: statusNone, client: true}
	}
	return &CloseError{Code: StatusCode(binary.BigEndian.Uint16(payload)), Reason: string(payload[2:]), client: true}
}

// statusNone stands for a close frame without a code (RFC 6455 section 7.1.5).
const statusNone StatusCode = 1005

// A Message is the text or the bytes that a client gets, or has sent. herald adds
// nothing to it. The zero Message is an empty binary one.
type Message struct {
	data     []byte
	words    string // if Text made it; instead of data
	header   uint8  // bytes of a frame's header that data begins with, if a client has sent it
	text     bool
	volatile bool
	unkept   bool
	key      string // of Conflate
	err      error  // what encoding/json returned
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

// received returns the message in a frame that came from a client, and could carry the
// message to another. Text has been checked.
func received(b []byte) Message {
	payload, _ := frame.Payload(b)
	return Message{data: b, header: uint8(len(b) - len(payload)), text: b[0] == frame.Text}
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

// Unkept returns a copy of m that no Bus keeps: a one-time code. Whoever is not
// connected when it is sent never gets it. It matters only with Config.Retention.
// Volatile messages are not kept either.
func (m Message) Unkept() Message {
	m.unkept = true
	return m
}

// Conflate returns a copy of m that takes the place of an older message with the same
// key to the same target: a price, a cursor's position, a score. If the older one still
// waits in the queue of a client, it is taken out, and m is put behind all that waits.
// So a client that keeps up gets every message, and a slow one has at most one message
// of each key waiting, the newest. Targets are the same if they name the same users,
// the same groups, the same connections or everyone, whatever Except, ExceptUser and On
// leave out.
//
// Kept messages are conflated too, but only with one another, and the log keeps them
// all. This includes those that a client missed and gets when it comes back. If m is
// also Volatile, a client that is busy gets it only if it takes the place of an older
// one, and fits: otherwise the older one stays. Deliver counts a message that has given
// up its place as missed. A key may be any string; with "" nothing is conflated.
func (m Message) Conflate(key string) Message {
	m.key = key
	return m
}

// IsText reports whether m is text rather than binary.
func (m Message) IsText() bool { return m.text }

// Bytes returns the payload. If Text made the Message this is a copy; otherwise
// it is the Message's own bytes, which must not be changed.
func (m Message) Bytes() []byte {
	if m.data == nil {
		return []byte(m.words)
	}
	return m.data[m.header:]
}

// String returns the payload as a string.
func (m Message) String() string {
	if m.words != "" {
		return m.words
	}
	return string(m.data[m.header:])
}

// kept reports whether the log is to have the message.
func (m *Message) kept() bool { return !m.volatile && !m.unkept }

func (m *Message) len() int { return len(m.data) - int(m.header) + len(m.words) }

// check returns an error if the message cannot be sent.
func (m *Message) check(limit int64) error {
	if m.err != nil {
		return m.err
	}
	if limit > 0 && int64(m.len()) > limit {
		return fmt.Errorf("%w: message of %d bytes: must be at most MaxSendSize (%d)", ErrInvalid, m.len(), limit)
	}
	if m.text && m.header == 0 && !(utf8.Valid(m.data) && utf8.ValidString(m.words)) {
		return fmt.Errorf("%w: text message: must be UTF-8", ErrInvalid)
	}
	return nil
}

// frame returns the frame that carries the message to a client. It must not be
// changed.
func (m Message) frame() []byte {
	if m.header > 0 && m.key == "" { // conflation knows a frame by its memory
		return m.data
	}
	return m.appendFrame(make([]byte, 0, frame.MaxHeader+m.len()))
}

func (m *Message) appendFrame(b []byte) []byte {
	if m.header > 0 {
		return append(b, m.data...)
	}
	first := byte(frame.Binary)
	if m.text {
		first = frame.Text
	}
	b = frame.AppendHeader(b, first, m.len())
	return append(append(b, m.data...), m.words...)
}

// frameRoom is how many bytes of a queue's frame are not the message.
const frameRoom = frame.MaxHeader + receipts.FenceSize

// lineRoom is more than any line before a message has: a position and an id.
const lineRoom = 256

// A Tracer follows messages from Send to the nodes that have connections for them,
// for Config.Tracer. observe/heraldotel has one for OpenTelemetry. Its methods may be
// called concurrently, and must not block.
type Tracer interface {
	// TraceSend is called when a Send or Deliver begins, with its ctx. What it returns
	// travels with the message, unless its TraceID is zero. When the call returns, the
	// Hub calls end with its error. A call that is refused as ErrInvalid, or has a target
	// without names, is not traced.
	TraceSend(ctx context.Context, s TracedSend) (trace TraceContext, end func(error))

	// TraceDelivery is called on each node that has connections for a message that
	// a trace travels with: once for each topic, so a node may be called several
	// times for a Send to several users or groups. When the message is in the
	// queues of its connections, the Hub calls end with their number. For a Send
	// that is kept, connections whose clients can come back are not in it. Other
	// messages wait until TraceDelivery and end have returned.
	TraceDelivery(trace TraceContext) (end func(conns int))
}

// A TracedSend is what a Tracer is told of a Send or Deliver.
type TracedSend struct {
	Call   string // "Send" or "Deliver"
	Target string // "user", "group", "connection" or "everyone"
	Names  int    // how many ids the Target has
	Size   int    // of the message, in bytes
}

// A TraceContext says which span of which trace sent a message. Its fields are those
// of the header traceparent of W3C's Trace Context, section 3.2.
type TraceContext struct {
	TraceID [16]byte // none if zero
	SpanID  [8]byte
	Flags   byte
}

// A carrier is a TraceContext as it travels: its fields, one behind the other.
type carrier [16 + 8 + 1]byte

// encode returns t as a carrier, or nil if it has no trace.
func (t *TraceContext) encode() *carrier {
	if t.TraceID == [16]byte{} {
		return nil
	}
	b := new(carrier)
	copy(b[:], t.TraceID[:])
	copy(b[16:], t.SpanID[:])
	b[24] = t.Flags
	return b
}

func (b *carrier) decode() TraceContext {
	return TraceContext{[16]byte(b[:16]), [8]byte(b[16:24]), b[24]}
}
