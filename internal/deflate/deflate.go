// Package deflate compresses the messages of a WebSocket connection according to RFC
// 7692 (permessage-deflate), each by itself: neither end keeps anything of one
// message for the next. So a message is compressed once for all clients that get it,
// and an idle connection holds no memory for compression.
package deflate

import (
	"compress/flate"
	"errors"
	"sync"

	"github.com/heraldgo/herald/internal/frame"
)

// MinSize is the least size, in bytes, of a message that is compressed. A shorter one
// would hardly shrink: it has few repetitions, and mostly fits into one packet of the
// network either way.
const MinSize = 512

// flushed is the last bytes of a compressed message, which are not sent (RFC 7692
// section 7.2.1).
const flushed = "\x00\x00\xff\xff"

// A Frame is the frame of a message, for clients that have agreed on compression and
// for those that have not. Only one goroutine at a time may use it.
type Frame struct {
	Plain []byte

	packed []byte // nil until For needs it
}

// For returns the frame for a client that has agreed on compression, or has not. The
// caller must not change it.
func (f *Frame) For(agreed bool) []byte {
	if !agreed {
		return f.Plain
	}
	if f.packed == nil {
		f.packed = Compress(f.Plain)
	}
	return f.packed
}

// Compress returns a frame with the message of the plain one, compressed. It returns
// plain if the message is shorter than MinSize, or would not become shorter.
func Compress(plain []byte) []byte {
	payload, ok := frame.Payload(plain)
	if !ok || len(payload) < MinSize {
		return plain
	}
	c := compressors.Get().(*compressor)
	defer c.release()
	c.most = len(payload)
	c.w.Reset(c)
	if _, err := c.w.Write(payload); err != nil {
		return plain
	}
	if err := c.w.Flush(); err != nil {
		return plain
	}
	packed := c.out[:len(c.out)-len(flushed)]
	b := make([]byte, 0, frame.HeaderSize(len(packed))+len(packed))
	b = frame.AppendHeader(b, plain[0]|frame.Compressed, len(packed))
	return append(b, packed...)
}

// A compressor compresses one message at a time. It takes over a megabyte, so it is
// pooled.
type compressor struct {
	w    *flate.Writer
	out  []byte
	most int // the most bytes of out; with more the message is not compressed
}

var compressors = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is a valid one
	return &compressor{w: w}
}}

// keepOut is the size, in bytes, up to which a buffer for the output is used again.
const keepOut = 64 << 10

var errNoGain = errors.New("the message does not become shorter")

// Write takes the output of w.
func (c *compressor) Write(p []byte) (int, error) {
	if len(c.out)+len(p) > c.most {
		return 0, errNoGain
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

func (c *compressor) release() {
	c.out = c.out[:0]
	if cap(c.out) > keepOut {
		c.out = nil
	}
	compressors.Put(c)
}
