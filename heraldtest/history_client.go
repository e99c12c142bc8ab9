package heraldtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"github.com/heraldgo/herald"
	"github.com/heraldgo/herald/internal/history"
	"github.com/heraldgo/herald/internal/history/device"
	"github.com/heraldgo/herald/internal/history/protocol"
)

// A visitor is a client that can come back, as PROTOCOL.md has it. It connects,
// reads and goes only when it is told to.
type visitor struct {
	s      *historySuite
	device string
	query  url.Values // who it is
	memory *device.Client

	node   *historyNode
	socket *websocket.Conn
	copies int // that came twice on one connection

	// Of the last connection.

	welcome  protocol.Frame
	missing  bool            // it was told that something may be missing
	verdicts int             // that have come
	ids      map[string]bool // of messages that have come
}

// newVisitor returns a visitor who is not connected. query says who it is, such as
// "user=a&group=g".
func (s *historySuite) newVisitor(query string) *visitor {
	s.Helper()
	values, err := url.ParseQuery(query)
	s.ok(err)
	s.visitors++
	v := &visitor{s: s, device: fmt.Sprint("device-", s.visitors), query: values, memory: new(device.Client)}
	values.Set("device", v.device)
	return v
}

// visit connects a new visitor, and waits until OnConnect has returned.
func (s *historySuite) visit(n *historyNode, query string) *visitor {
	s.Helper()
	v := s.newVisitor(query)
	v.comes(n)
	v.settled()
	return v
}

// unread is more than the kernel holds for a client that reads nothing.
const unread = 6 << 20

// meagre connects with a small buffer in the kernel.
var meagre = &http.Client{Transport: &http.Transport{
	DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetReadBuffer(64 << 10)
		}
		return c, err
	},
	DisableKeepAlives: true,
}}

// dial connects to a node with a query.
func (v *visitor) dial(n *historyNode, query string) (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(v.s.Context(), historyPatience)
	defer cancel()
	socket, response, err := websocket.Dial(ctx, n.server.URL+"/?"+query, &websocket.DialOptions{HTTPClient: meagre})
	if err == nil {
		socket.SetReadLimit(-1)
		v.s.Cleanup(func() { socket.CloseNow() })
	}
	return socket, response, err
}

// comes connects with what the visitor remembers, and takes the welcome.
func (v *visitor) comes(n *historyNode) {
	v.s.Helper()
	from, conns := v.memory.Resume()
	socket, _, err := v.dial(n, protocol.Resume{From: from, Conns: conns}.AddTo(v.query.Encode()))
	v.s.ok(err)
	v.node, v.socket = n, socket
	v.missing, v.verdicts, v.ids = false, 0, make(map[string]bool)
	if v.welcome = v.next(); v.welcome.Kind != device.Welcome {
		v.s.failf("the first message is of kind %d, and no welcome", v.welcome.Kind)
	}
}

// cut ends the connection without a word.
func (v *visitor) cut() { v.socket.CloseNow() }

// settled waits until OnConnect has returned: before that nothing is read.
func (v *visitor) settled() {
	v.s.Helper()
	v.probe(1)
}

func (v *visitor) write(text string) {
	v.s.Helper()
	ctx, cancel := context.WithTimeout(v.s.Context(), historyPatience)
	defer cancel()
	v.s.ok(v.socket.Write(ctx, websocket.MessageText, []byte(text)))
}

// probe asks for an answer, and reads up to it. Nothing but marks comes before it.
func (v *visitor) probe(n uint64) {
	v.s.Helper()
	v.write(fmt.Sprint("@?", n))
	for {
		switch f := v.next(); {
		case f.Kind == device.Answer && f.N == n:
			return
		case f.Kind != device.Mark:
			v.s.failf("got %s, want the answer to a probe", describe(f))
		}
	}
}

// next reads the next frame, and takes note of it.
func (v *visitor) next() protocol.Frame {
	v.s.Helper()
	f, err := v.read()
	v.s.ok(err)
	return f
}

func (v *visitor) read() (f protocol.Frame, err error) {
	ctx, cancel := context.WithTimeout(v.s.Context(), historyPatience)
	defer cancel()
	_, data, err := v.socket.Read(ctx)
	if err != nil {
		return f, fmt.Errorf("read: %w", err)
	}
	if f, err = protocol.ParseFrame(data); err != nil {
		return f, fmt.Errorf("%q: %w", data, err)
	}
	if f.Kind == device.Message && f.ID != "" {
		if v.ids[f.ID] {
			v.copies++
		}
		v.ids[f.ID] = true
	}
	message, missing := v.memory.Receive(f.Frame)
	v.missing = v.missing || missing
	if f.Verdict != device.NoVerdict {
		v.verdicts++
	}
	if f.Kind == device.Message && !message {
		f.Kind = device.Mark // it has had that
	}
	return f, nil
}

// message reads up to the next message.
func (v *visitor) message() string {
	v.s.Helper()
	for {
		if f := v.next(); f.Kind == device.Message {
			return string(f.Body)
		}
	}
}

// wants reads these messages, and no other.
func (v *visitor) wants(texts ...string) {
	v.s.Helper()
	for _, want := range texts {
		if got := v.message(); got != want {
			v.s.failf("got the message %.100q, want %.100q", got, want)
		}
	}
}

// wantsEach reads the messages of all lists, each list in its order, and no other.
func (v *visitor) wantsEach(lists ...[]string) {
	v.s.Helper()
	for left := len(slices.Concat(lists...)); left > 0; left-- {
		got := v.message()
		i := slices.IndexFunc(lists, func(l []string) bool { return len(l) > 0 && l[0] == got })
		if i < 0 {
			v.s.failf("got the message %.100q, want the first of one of these: %.300q", got, lists)
		}
		lists[i] = lists[i][1:]
	}
}

// complete checks that these messages come and no others, and that the visitor is not
// told that something may be missing.
func (v *visitor) complete(texts ...string) {
	v.s.Helper()
	if got := v.back(); !slices.Equal(got, texts) {
		v.s.failf("got %s, want %s", abridged(got), abridged(texts))
	}
	if v.missing {
		v.s.failf("told that something may be missing, and nothing is")
	}
}

// incomplete reads what comes when the visitor is back, and checks that the visitor
// is told that something may be missing.
func (v *visitor) incomplete() (texts []string) {
	v.s.Helper()
	texts = v.back()
	if !v.missing {
		v.s.failf("got %s, and not told that something is missing", abridged(texts))
	}
	return texts
}

// back reads until the resume has ended in every partition, and returns the
// messages.
func (v *visitor) back() (texts []string) {
	v.s.Helper()
	if !v.welcome.Resumed {
		v.s.failf("the welcome says that the client begins anew")
	}
	open := 0
	for _, p := range v.welcome.Positions {
		if p != (history.Point{}) {
			open++
		}
	}
	for v.verdicts < open {
		if f := v.next(); f.Kind == device.Message {
			texts = append(texts, string(f.Body))
		}
	}
	return texts
}

// nothing checks that no message is on its way, by one that comes behind it.
func (v *visitor) nothing() {
	v.s.Helper()
	v.node.send(herald.User(v.query.Get("user")), "the end")
	v.wants("the end")
}

// closed reads until the connection ends, and returns the close code.
func (v *visitor) closed() herald.StatusCode {
	v.s.Helper()
	for {
		if _, err := v.read(); err != nil {
			return herald.StatusCode(websocket.CloseStatus(err))
		}
	}
}

// position returns where the visitor is.
func (v *visitor) position() string {
	from, _ := v.memory.Resume()
	text, _ := from.AppendText(nil) // it never fails
	return string(text)
}

// describe says what a frame is.
func describe(f protocol.Frame) string {
	line := protocol.AppendHeader(nil, &f)
	return fmt.Sprintf("%q", strings.TrimSpace(string(line))+" "+string(f.Body))
}

// abridged shows a list of texts.
func abridged(texts []string) string {
	short := make([]string, len(texts))
	for i, text := range texts {
		short[i] = text[:min(len(text), 20)]
	}
	if n := len(short); n > 12 {
		return fmt.Sprintf("%d messages: %q … %q", n, short[:6], short[n-6:])
	}
	return fmt.Sprintf("%d messages: %q", len(short), short)
}

// upTo reads up to a frame of the kind.
func (v *visitor) upTo(kind device.Kind) protocol.Frame {
	v.s.Helper()
	for {
		if f := v.next(); f.Kind == kind {
			return f
		}
	}
}
