package resp

import (
	"bytes"
	"fmt"
)

// A Meter follows a stream of replies for a parser that trusts the server: one that
// allocates whatever length it is told, and recurses into whatever is nested. It
// returns an error if a reply is not RESP, is nested too deeply, or is larger than
// any that herald asks for.
type Meter struct {
	left  budget
	skip  int64            // bytes of a string that are still to come, its end included
	open  [maxNested]int64 // elements of each open aggregate that are still to come, the outermost first
	depth int              // open aggregates

	// The line that has come in part.

	begun [maxHeader]byte
	line  int // how many bytes of it have come
}

// Limits of what a server may send between two questions: some million sessions. A
// pipeline is one question. There is room to spare for the deepest reply of Redis,
// that of COMMAND.
const (
	maxTotalElems = 1 << 21
	maxTotalBytes = 512 << 20
	maxString     = 64 << 20
	maxNested     = 16
	maxLine       = 64 << 10
	maxHeader     = 24 // bytes of a line that has a length
)

// Asked says that the client has asked something: what comes from now on has a budget
// of its own.
func (m *Meter) Asked() { m.left = budget{maxTotalElems, maxTotalBytes} }

// Read takes the bytes that have come next. After an error none of them may be
// parsed.
func (m *Meter) Read(b []byte) error {
	for len(b) > 0 {
		if m.skip > 0 {
			n := min(m.skip, int64(len(b)))
			b = b[n:]
			if m.skip -= n; m.skip == 0 {
				m.ended()
			}
			continue
		}
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 {
			return m.keep(b)
		}
		line := b[:n]
		if m.line > 0 {
			if err := m.keep(line); err != nil {
				return err
			}
			line = m.begun[:min(m.line, len(m.begun))]
			m.line = 0
		}
		if err := m.header(line); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// keep takes a part of a line.
func (m *Meter) keep(b []byte) error {
	copy(m.begun[min(m.line, len(m.begun)):], b)
	if m.line += len(b); m.line > maxLine {
		return fmt.Errorf("%w: line too long", ErrProtocol)
	}
	return nil
}

// header takes a line that is a value, or begins one. If the line is longer than any
// with a length, line may have only its beginning.
func (m *Meter) header(line []byte) error {
	if len(line) > maxLine {
		return fmt.Errorf("%w: line too long", ErrProtocol)
	}
	kind, n := line[0], int64(0)
	switch kind {
	case '+', '-', ':', '_', '#', ',', '(':
	case '$', '!', '=', '*', '~', '>', '%', '|':
		var ok bool
		if n, ok = length(line); !ok {
			return fmt.Errorf("%w: line %.24q", ErrProtocol, line)
		}
	default:
		return fmt.Errorf("%w: line %.24q", ErrProtocol, line)
	}
	if m.depth == 0 {
		if err := m.left.elems(1); err != nil {
			return err
		}
	}
	switch kind {
	case '$', '!', '=':
		if n > maxString {
			return fmt.Errorf("%w: string of %d bytes", ErrProtocol, n)
		}
		if n >= 0 {
			m.skip = n + int64(len("\r\n"))
			return m.left.bytes(n)
		}
	case '*', '~', '>':
		return m.begin(n)
	case '%':
		return m.begin(2 * n)
	case '|': // the value that it belongs to follows
		return m.begin(2*max(n, 0) + 1)
	}
	m.ended()
	return nil
}

// length returns the length that a line has; -1 is null.
func length(line []byte) (n int64, ok bool) {
	body, ok := bytes.CutSuffix(line[1:], []byte("\r\n"))
	if !ok {
		return 0, false
	}
	n, err := parseInt(body)
	return n, err == nil && n >= -1
}

// begin takes the first line of an aggregate with this many elements.
func (m *Meter) begin(elems int64) error {
	if elems <= 0 {
		m.ended()
		return nil
	}
	if m.depth == maxNested {
		return fmt.Errorf("%w: nested more than %d times", ErrProtocol, maxNested)
	}
	m.open[m.depth] = elems
	m.depth++
	return m.left.elems(elems)
}

// ended takes the end of a value, which may also end the aggregates around it.
func (m *Meter) ended() {
	for m.depth > 0 {
		if m.open[m.depth-1]--; m.open[m.depth-1] > 0 {
			return
		}
		m.depth--
	}
}

// A budget is how much a reply may still have.
type budget struct{ elemsLeft, bytesLeft int64 }

func (b *budget) elems(n int64) error {
	if b.elemsLeft -= n; b.elemsLeft < 0 {
		return fmt.Errorf("%w: reply of too many elements", ErrProtocol)
	}
	return nil
}

func (b *budget) bytes(n int64) error {
	if b.bytesLeft -= n; b.bytesLeft < 0 {
		return fmt.Errorf("%w: reply of too many bytes", ErrProtocol)
	}
	return nil
}
