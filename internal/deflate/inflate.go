package deflate

import (
	"compress/flate"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/heraldgo/herald/internal/frame"
)

// end follows a compressed message: the bytes that its sender has left out, and an
// empty last block, so that the stream ends with the message.
const end = flushed + "\x01" + flushed

// firstRoom is how many bytes a message has at first for each of its compressed
// bytes.
const firstRoom = 4

var (
	errCorrupt = &frame.Error{Code: frame.InvalidPayload, Reason: "message is not compressed as RFC 7692 says"}
	errText    = &frame.Error{Code: frame.InvalidPayload, Reason: "text is not UTF-8"}
	errTooBig  = &frame.Error{Code: frame.MessageTooBig, Reason: "message is too big"}
)

// Inflate returns the plain frame of a message that came compressed. packed is the
// frame that an Assembler has made of it. The message may have limit bytes; 0 means
// no limit. The memory grows as the bytes come out. An error is a *frame.Error.
func Inflate(packed []byte, limit int64) (plain []byte, err error) {
	payload, _ := frame.Payload(packed)
	if len(payload) == 0 { // it should be a byte (RFC 7692 section 7.2.3.6), but zlib makes none
		return []byte{packed[0] &^ frame.Compressed, 0}, nil
	}
	i := inflaters.Get().(*inflater)
	defer i.release()
	b := make([]byte, frame.MaxHeader, frame.MaxHeader+room(firstRoom*len(payload), limit))
	for i.begin(payload); err == nil; {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), frame.MaxHeader+room(2*(len(b)-frame.MaxHeader), limit))
			copy(grown, b)
			b = grown
		}
		var n int
		n, err = i.read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if limit > 0 && int64(len(b)-frame.MaxHeader) > limit {
			return nil, errTooBig
		}
	}
	kind := packed[0] &^ frame.Compressed
	switch {
	case err != io.EOF:
		return nil, errCorrupt
	case kind == frame.Text && !utf8.Valid(b[frame.MaxHeader:]):
		return nil, errText
	default:
		return frame.Finish(b, kind), nil
	}
}

// room returns how much memory a message of n bytes gets. That is a byte more than
// the limit at most, so that a message that is too big is noticed.
func room(n int, limit int64) int {
	if n = max(n, 64); limit > 0 && int64(n) >= limit {
		n = int(limit) + 1
	}
	return n
}

// An inflater reads one message at a time. It takes some 45 KB, so it is pooled and
// not kept by connections.
type inflater struct {
	r interface {
		io.Reader
		flate.Resetter
	}
	payload []byte
	at      int // how many bytes of payload, and then of end, r has taken
}

var inflaters = sync.Pool{New: func() any {
	i := new(inflater)
	i.r = flate.NewReader(i).(interface {
		io.Reader
		flate.Resetter
	})
	return i
}}

func (i *inflater) begin(payload []byte) {
	i.payload, i.at = payload, 0
	i.r.Reset(i, nil)
}

func (i *inflater) release() {
	i.payload = nil
	inflaters.Put(i)
}

// read reads decompressed bytes. Its error is io.EOF at the end of the message.
func (i *inflater) read(b []byte) (int, error) {
	n, err := i.r.Read(b)
	if err != io.EOF {
		return n, err
	}
	switch over := i.at - len(i.payload); {
	case over < 0: // any block may say that it is the last (RFC 7692 section 7.2.1)
		i.r.Reset(i, nil)
		return n, nil
	case over != 0 && over != len(flushed) && over != len(end): // a block takes what is not its own
		return n, io.ErrUnexpectedEOF
	}
	return n, io.EOF
}

// ReadByte and Read are for r.

func (i *inflater) ReadByte() (b byte, err error) {
	switch over := i.at - len(i.payload); {
	case over < 0:
		b = i.payload[i.at]
	case over < len(end):
		b = end[over]
	default:
		return 0, io.EOF
	}
	i.at++
	return b, nil
}

func (i *inflater) Read(p []byte) (n int, err error) {
	switch over := i.at - len(i.payload); {
	case over < 0:
		n = copy(p, i.payload[i.at:])
	case over < len(end):
		n = copy(p, end[over:])
	default:
		return 0, io.EOF
	}
	i.at += n
	return n, nil
}
