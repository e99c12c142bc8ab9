// Package deflate compresses the messages of a WebSocket connection as RFC 7692
// (permessage-deflate) says, each by itself: neither end keeps anything of one message
// for the next. So a message is compressed once for all who get it, and a connection
// that is idle holds no memory for compression.
package deflate

import (
	"compress/flate"
	"errors"
	"sync"

	"github.com/heraldgo/herald/internal/frame"
)

// MinSize is how many bytes a message has at least that is compressed. Shorter ones
// would become little shorter: they have few repetitions, and most of them fit into one
// packet of the network either way.
const MinSize = 512

// flushed is what the last bytes of a compressed message are, which are not sent (RFC
// 7692 section 7.2.1).
const flushed = "\x00\x00\xff\xff"

// A Frame is the frame of a message, as clients get it that have agreed on compression
// and those that have not. It is for one goroutine at a time.
type Frame struct {
	Plain []byte

	packed []byte // nil until somebody wants it
}

// For returns the frame for a client that has agreed, or has not. It must not be changed.
func (f *Frame) For(agreed bool) []byte {
	if !agreed {
		return f.Plain
	}
	if f.packed == nil {
		f.packed = Compress(f.Plain)
	}
	return f.packed
}

// Compress returns a frame with the message of the plain one, compressed; or the plain
// one if the message is shorter than MinSize, or would not become shorter.
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

// A compressor compresses one message at a time. It takes over a megabyte, so only those
// that are at work have one.
type compressor struct {
	w    *flate.Writer
	out  []byte
	most int // bytes of out: with more the message is not compressed
}

var compressors = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is a valid one
	return &compressor{w: w}
}}

// keepOut is how much memory for what comes out is used again.
const keepOut = 64 << 10

var errNoGain = errors.New("the message does not become shorter")

// Write takes what comes out of w.
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
