package main

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// The words of permessage-deflate (RFC 7692, section 7).
const (
	deflates     = "permessage-deflate"
	keepsNothing = "server_no_context_takeover"
)

// flushed is what a compressed message ends with that is not sent, finalBlock what ends a
// stream.
const (
	flushed    = "\x00\x00\xff\xff"
	finalBlock = "\x01\x00\x00\xff\xff"
	windowSize = 32 << 10
)

// An inflater inflates the messages of one connection.
type inflater struct {
	keeps  bool   // messages refer to those before
	window []byte // the last bytes of those
}

// agreed returns the inflater for what a server has answered to offer.
func agreed(answer string) (*inflater, error) {
	name, params, _ := strings.Cut(answer, ";")
	if strings.TrimSpace(name) != deflates {
		return nil, fmt.Errorf("the server did not agree on compression: Sec-WebSocket-Extensions: %q", answer)
	}
	return &inflater{keeps: !strings.Contains(params, keepsNothing)}, nil
}

var flateReaders = sync.Pool{New: func() any { return flate.NewReader(nil) }}

func (f *inflater) inflate(b []byte) ([]byte, error) {
	if f == nil {
		return nil, fmt.Errorf("a message is compressed, and that was not agreed on")
	}
	r := flateReaders.Get().(io.ReadCloser)
	defer flateReaders.Put(r)
	r.(flate.Resetter).Reset(bytes.NewReader(slices.Concat(b, []byte(flushed+finalBlock))), f.window)
	message, err := io.ReadAll(r)
	if f.keeps {
		f.window = append(f.window, message...)
		f.window = f.window[max(0, len(f.window)-windowSize):]
	}
	return message, err
}
