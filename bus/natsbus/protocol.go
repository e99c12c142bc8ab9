package natsbus

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What is needed of the protocol of NATS clients
// (https://docs.nats.io/reference/reference-protocols/nats-protocol).

const (
	ping = "PING\r\n"
	pong = "PONG\r\n"
)

var errProtocol = errors.New("natsbus: the server's bytes make no sense")

// Limits of what a server may send: no server can be configured to take
// larger messages, and INFO names every server of a cluster.
const (
	maxMessage = 64 << 20
	maxLine    = 1 << 20
)

func appendPub(b []byte, prefix, topic string, data []byte) []byte {
	b = append(b, "PUB "...)
	b = appendSubject(b, prefix, topic)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(data)), 10)
	b = append(b, '\r', '\n')
	b = append(b, data...)
	return append(b, '\r', '\n')
}

func appendSub(b []byte, prefix, topic string, sid int) []byte {
	b = append(b, "SUB "...)
	b = appendSubject(b, prefix, topic)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(sid), 10)
	return append(b, '\r', '\n')
}

func appendUnsub(b []byte, sid int) []byte {
	b = append(b, "UNSUB "...)
	b = strconv.AppendInt(b, int64(sid), 10)
	return append(b, '\r', '\n')
}

// cutPub returns the subject of the first PUB of b, which appendPub made, and
// what follows it.
func cutPub(b []byte) (subject, rest []byte) {
	subject, rest, _ = bytes.Cut(b[len("PUB "):], []byte(" "))
	size, rest, _ := bytes.Cut(rest, []byte("\r\n"))
	n, _ := strconv.Atoi(string(size))
	return subject, rest[n+len("\r\n"):]
}

// readLine reads a line, its end included. It is good until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != bufio.ErrBufferFull {
		return line, err
	}
	var whole []byte
	for err == bufio.ErrBufferFull {
		whole = append(whole, line...)
		if len(whole) > maxLine {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", errProtocol, maxLine)
		}
		line, err = r.ReadSlice('\n')
	}
	return append(whole, line...), err
}

// A message is what the control line of MSG or HMSG says of the message that follows.
type message struct {
	sid     int
	headers int // bytes of headers, the first of size
	size    int
}

// parseMessage parses the line of
//
//	MSG <subject> <sid> [reply-to] <size>
//	HMSG <subject> <sid> [reply-to] <headers> <size>
//
// beginning with the subject.
func parseMessage(args []byte, headers bool) (m message, err error) {
	var words [6][]byte
	n := 0
	for rest := bytes.TrimSpace(args); len(rest) > 0 && n < len(words); n++ {
		words[n], rest, _ = bytes.Cut(rest, []byte(" "))
		rest = bytes.TrimLeft(rest, " ")
	}
	least := 3
	if headers {
		least = 4
	}
	if n != least && n != least+1 {
		return m, fmt.Errorf("%w: message %q", errProtocol, args)
	}
	var wrong bool
	number := func(word []byte) int {
		i, err := strconv.Atoi(string(word)) // does not escape: no allocation
		wrong = wrong || err != nil || i < 0
		return i
	}
	m.sid, m.size = number(words[1]), number(words[n-1])
	if headers {
		m.headers = number(words[n-2])
	}
	if wrong || m.size > maxMessage || m.headers > m.size {
		return m, fmt.Errorf("%w: message %q", errProtocol, args)
	}
	return m, nil
}

// A refusal is what a server said in -ERR of something that we asked for. The
// link stays up.
type refusal string

// Error is what the server said.
func (r refusal) Error() string { return "NATS: " + string(r) }

// isRefusal reports whether the server leaves the connection open after the error.
func isRefusal(text string) bool {
	text = strings.ToLower(text)
	return strings.HasPrefix(text, "permissions violation") || strings.HasPrefix(text, "maximum subscriptions exceeded")
}

// isFull reports whether the server refused the connection because it had no room. The
// next attempt may succeed.
func isFull(text string) bool {
	text = strings.ToLower(text)
	return strings.HasPrefix(text, "maximum ") && strings.HasSuffix(text, "connections exceeded")
}

// denied returns the subject that a permissions violation is about, or "".
func (r refusal) denied() string {
	_, quoted, ok := strings.Cut(string(r), ` to "`)
	if !ok {
		return ""
	}
	quoted, err := strconv.QuotedPrefix(`"` + quoted)
	if err != nil {
		return ""
	}
	subject, _ := strconv.Unquote(quoted) // that QuotedPrefix has found sound
	return subject
}

// errorText returns what -ERR says, without the quotes around it.
func errorText(args []byte) string {
	return strings.Trim(strings.TrimSpace(string(args)), "'")
}
