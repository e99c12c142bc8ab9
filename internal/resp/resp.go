// Package resp reads and writes the part of RESP3 that herald uses
// (https://redis.io/docs/latest/develop/reference/protocol-spec).
package resp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/heraldgo/herald/internal/loan"
	"github.com/heraldgo/herald/internal/pieces"
)

// AppendCommand begins a command with n words, its name included.
func AppendCommand(b []byte, n int) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, '\r', '\n')
}

// AppendWord appends one word of a command.
func AppendWord[T ~string | ~[]byte](b []byte, word T) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(word)), 10)
	b = append(b, '\r', '\n')
	b = append(b, word...)
	return append(b, '\r', '\n')
}

// AppendJoined appends one word: a followed by b.
func AppendJoined(buf []byte, a, b string) []byte {
	buf = append(buf, '$')
	buf = strconv.AppendInt(buf, int64(len(a)+len(b)), 10)
	buf = append(buf, '\r', '\n')
	buf = append(buf, a...)
	buf = append(buf, b...)
	return append(buf, '\r', '\n')
}

// Commands iterates over the commands in b, still encoded. They must have been
// encoded by these functions.
func Commands(b []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			words, n := number(b)
			for range words {
				size, line := number(b[n:])
				n += line + size + len("\r\n")
			}
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// number returns the number in the first line of b, and the length of the line.
func number(b []byte) (value, line int) {
	end := bytes.IndexByte(b, '\r')
	n, err := parseInt(b[1:end])
	if err != nil {
		panic("resp: not an encoded command")
	}
	return int(n), end + len("\r\n")
}

// ErrProtocol says that the server's bytes make no sense.
var ErrProtocol = errors.New("RESP protocol error")

// A Value is one reply, or a part of one.
type Value struct {
	Kind  byte    // the first byte on the wire: '+', '-', ':', '$', '*', '%', '>', …
	Str   string  // if Kind is that of a string, an error, or another scalar than ':'
	Int   int64   // if Kind is ':'
	Elems []Value // if Kind is '*', '~', '>', or '%' (key, value, key, value)
}

// Header is the first line of a reply.
type Header struct {
	Kind byte
	Len  int64  // the length of a bulk or an aggregate (-1 is null), or the value of ':'
	Line string // the text of any other
}

// A Reader reads replies. Only one goroutine at a time may use it.
type Reader struct{ br *bufio.Reader }

// NewReader returns a Reader with a buffer of size bytes.
func NewReader(r io.Reader, size int) *Reader { return &Reader{bufio.NewReaderSize(r, size)} }

// Buffered returns how many bytes wait in the buffer.
func (r *Reader) Buffered() int { return r.br.Buffered() }

// Limits of what a server may send. maxBulk is the largest bulk string of Redis
// (proto-max-bulk-len). The others are for replies that Rest reads: the size and
// depth of HELLO's, with room to spare.
const (
	maxBulk  = 512 << 20
	maxElems = 1 << 12
	maxBytes = 1 << 20
	maxDepth = 8
)

// Header reads the first line of a reply.
func (r *Reader) Header() (Header, error) {
	line, err := r.br.ReadSlice('\n')
	if err != nil {
		if err == bufio.ErrBufferFull {
			err = fmt.Errorf("%w: line too long", ErrProtocol)
		}
		return Header{}, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return Header{}, fmt.Errorf("%w: line %q", ErrProtocol, line)
	}
	h := Header{Kind: line[0]}
	body := line[1 : len(line)-2]
	switch h.Kind {
	case '$', '*', '%', '>', '~', ':', '!', '=', '|':
		h.Len, err = parseInt(body)
		if err != nil || h.Kind != ':' && h.Len < -1 {
			return Header{}, fmt.Errorf("%w: line %q", ErrProtocol, line)
		}
	case '+', '-', '_', '#', ',', '(':
		h.Line = string(body)
	default:
		return Header{}, fmt.Errorf("%w: line %q", ErrProtocol, line)
	}
	return h, nil
}

// parseInt is strconv.ParseInt without the string.
func parseInt(b []byte) (int64, error) {
	negative := len(b) > 0 && b[0] == '-'
	if negative {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 {
		return 0, ErrProtocol
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, ErrProtocol
		}
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, nil
}

// Peek reads a bulk string that fits in the buffer. The result is valid until the
// next call.
func (r *Reader) Peek() ([]byte, error) {
	h, err := r.bulk()
	if err != nil {
		return nil, err
	}
	if int(h.Len)+2 > r.br.Size() {
		return nil, fmt.Errorf("%w: bulk of %d bytes", ErrProtocol, h.Len)
	}
	b, err := r.br.Peek(int(h.Len) + 2)
	if err != nil {
		return nil, err
	}
	r.br.Discard(len(b))
	return trim(b)
}

// Bulk reads a bulk string into memory of its own.
func (r *Reader) Bulk() ([]byte, error) {
	h, err := r.bulk()
	if err != nil {
		return nil, err
	}
	return r.body(h.Len)
}

// BulkLent reads a bulk string into memory on loan. If that size is not lent, it does
// what Bulk does.
func (r *Reader) BulkLent() ([]byte, *loan.Buffer, error) {
	h, err := r.bulk()
	if err != nil {
		return nil, nil, err
	}
	b := loan.Get(int(min(h.Len, maxBulk)) + len("\r\n"))
	if b == nil {
		p, err := r.body(h.Len)
		return p, nil, err
	}
	if _, err := io.ReadFull(r.br, b.Bytes); err != nil {
		return nil, nil, err
	}
	p, err := trim(b.Bytes)
	return p, b, err
}

func (r *Reader) bulk() (Header, error) {
	h, err := r.Header()
	if err == nil && (h.Kind != '$' || h.Len < 0) {
		err = fmt.Errorf("%w: %q, not a bulk string", ErrProtocol, h.Kind)
	}
	return h, err
}

// body reads n bytes and the end of the line.
func (r *Reader) body(n int64) ([]byte, error) {
	if n > maxBulk {
		return nil, fmt.Errorf("%w: bulk of %d bytes", ErrProtocol, n)
	}
	b, err := pieces.Read(r.br, int(n)+len("\r\n"), nil)
	if err != nil {
		return nil, err
	}
	return trim(b)
}

func trim(b []byte) ([]byte, error) {
	n := len(b) - 2
	if b[n] != '\r' || b[n+1] != '\n' {
		return nil, fmt.Errorf("%w: bulk without end", ErrProtocol)
	}
	return b[:n:n], nil
}

// Reply reads a reply that has at most this many elements, and bytes in its strings.
func (r *Reader) Reply(elems, bytes int64) (Value, error) {
	h, err := r.Header()
	if err != nil {
		return Value{}, err
	}
	return r.rest(h, 0, &budget{elems, bytes})
}

// Rest reads the rest of the reply that begins with h.
func (r *Reader) Rest(h Header) (Value, error) {
	return r.rest(h, 0, &budget{maxElems, maxBytes})
}

func (r *Reader) rest(h Header, depth int, left *budget) (Value, error) {
	v := Value{Kind: h.Kind}
	n := h.Len
	switch h.Kind {
	case ':':
		v.Int = h.Len
		return v, nil
	case '$', '!', '=':
		if n < 0 {
			v.Kind = '_'
			return v, nil
		}
		if err := left.bytes(n); err != nil {
			return v, err
		}
		b, err := r.body(n)
		v.Str = string(b)
		if h.Kind == '!' {
			v.Kind = '-'
		}
		return v, err
	case '%', '|':
		n *= 2
	case '*', '~', '>':
	default:
		v.Str = h.Line
		return v, nil
	}
	if depth == maxDepth {
		return v, fmt.Errorf("%w: nested more than %d times", ErrProtocol, maxDepth)
	}
	if err := left.elems(max(n, 0)); err != nil {
		return v, err
	}
	if n > 0 {
		v.Elems = make([]Value, 0, min(n, 16))
	}
	for range n {
		h, err := r.Header()
		if err != nil {
			return v, err
		}
		e, err := r.rest(h, depth+1, left)
		if err != nil {
			return v, err
		}
		v.Elems = append(v.Elems, e)
	}
	return v, nil
}

// Field returns the string under key of a map.
func (v Value) Field(key string) string {
	for i := 0; i+1 < len(v.Elems); i += 2 {
		if v.Elems[i].Str == key {
			return v.Elems[i+1].Str
		}
	}
	return ""
}
