package wsraw

import (
	"bytes"
	"compress/flate"
	"io"
	"sync"
)

// Offer is the value of Sec-WebSocket-Extensions that Chromium sends.
const Offer = "permessage-deflate; client_max_window_bits"

// Flushed is the end of a compressed message, which is left out on the wire (RFC
// 7692 section 7.2.1).
const Flushed = "\x00\x00\xff\xff"

// tables has four blocks with dynamic Huffman codes (RFC 1951 section 3.2.7). Each
// has only the symbol that ends the block.
const tables = "\x04\xc0\x81\x00\x00\x00\x00\x00\x90\xff\x6b\x10\x00\x07\x02" +
	"\x00\x00\x00\x00\x40\xfe\xaf\x41\x00\x1c\x08\x00\x00\x00\x00" +
	"\x00\xf9\xbf\x06\x01\x70\x20\x00\x00\x00\x00\x00\xe4\xff\x1a"

// SlowToInflate returns the payload, of at most n bytes, of an empty message that
// takes long to inflate for its size: it has many codes and no data.
func SlowToInflate(n int) []byte {
	return append(bytes.Repeat([]byte(tables), (n-1)/len(tables)), 0)
}

var compressors = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // it fails only for an invalid level
	return w
}}

// Deflate returns the payload of a compressed message, as a client may send it.
func Deflate(message []byte) []byte {
	w := compressors.Get().(*flate.Writer)
	defer compressors.Put(w)
	var b bytes.Buffer
	w.Reset(&b)
	w.Write(message)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte(Flushed))
}

// Inflate returns the message of a compressed payload.
func Inflate(payload []byte) ([]byte, error) {
	end := Flushed + "\x01" + Flushed // the end that was left out, and a final block
	return io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), bytes.NewReader([]byte(end)))))
}
